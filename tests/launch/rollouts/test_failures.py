"""Which failures of a rollout actor are made good by a new start."""

from types import SimpleNamespace
from typing import Any

import pytest

from r2ac.envs import EngineFailed, EnvironmentFailed, MissingPackage
from r2ac.launch.rollouts.failures import ActorsLost, FailurePolicy
from r2ac.launch.rollouts.inference.policies import InferenceLost
from r2ac.launch.rollouts.rollout_actor import WrongVersion


class RayError(Exception):
    """As Ray's."""

    cause: Exception | None = None
    actor_init_failed = False


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::RolloutActor.collect()\n{type(cause).__name__}: {cause}")
        self.cause = cause


class StartFailed(RayError):
    actor_init_failed = True


def make_policy(step_timeout: float = 0.0) -> FailurePolicy:
    ray: Any = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))
    return FailurePolicy(ray, num_actors=2, step_timeout=step_timeout)


@pytest.mark.parametrize("error", [RayError("it was killed"), RayTaskError(InferenceLost("gone"))], ids=repr)
def test_an_actor_that_died_is_started_anew(error: Exception) -> None:
    make_policy().check(0, error)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RayTaskError(ZeroDivisionError("by zero")), ActorsLost, r"rollout actor 1 failed: ZeroDivisionError"),
        (RayTaskError(WrongVersion("both must be the same")), ActorsLost, "^both must be the same$"),
        (RayTaskError(EngineFailed("the engine is gone")), EngineFailed, "^the engine is gone$"),
        (RayError("No module named 'r2ac'"), ActorsLost, "a node of the Ray cluster lacks r2ac"),
        (
            StartFailed("ray::RolloutActor()\nValueError: no"),
            ActorsLost,
            "^rollout actor 1 cannot start: ValueError: no$",
        ),
        (StartFailed("x\nr2ac.envs.EnvironmentFailed: broken"), EnvironmentFailed, "^broken$"),
        (StartFailed("x\nr2ac.envs.MissingPackage: pip install it"), MissingPackage, "^pip install it$"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_will_happen_again_ends_the_run(error: Exception, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        make_policy().check(1, error)


def test_an_actor_that_dies_again_and_again_ends_the_run() -> None:
    policy, error = make_policy(), RayError("it was killed")
    for _ in range(policy.restarts_in_a_row):
        policy.count(0, error, silence=1)
    policy.delivered(0)
    for _ in range(policy.restarts_in_a_row):
        policy.count(0, error, silence=1)
    policy.count(1, error, silence=1)
    with pytest.raises(ActorsLost, match=r"^rollout actor 0 died 4 times in a row without a rollout: it was killed$"):
        policy.count(0, error, silence=1)


def test_a_node_that_is_lost_is_not_the_actors_fault() -> None:
    policy = make_policy()
    for _ in range(3 * policy.restarts_in_a_row):
        policy.count(0, RayError("The actor died because its node has died."), silence=1)


def test_an_actor_that_was_stuck_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    policy = make_policy(step_timeout=10)
    policy.count(0, RayError("it was killed"), silence=4)
    assert caplog.text == ""
    policy.count(0, RayError("it was killed"), silence=12)
    assert "rollout actor 0 died, 12 s after its last word (a step may take --step-timeout 10): replaced" in caplog.text
