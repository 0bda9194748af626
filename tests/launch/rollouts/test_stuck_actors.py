"""Rollout actors whose environment does not come back from a step, or fails for good as they start."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from r2ac.agents import AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs import EnvironmentFailed
from r2ac.envs.gym import GymOptions
from r2ac.launch.cluster.connect import connect
from r2ac.launch.rollouts.failures import ActorsLost, FailurePolicy
from r2ac.launch.settings.config import TrainConfig
from tests.launch.rollouts.opened import Opened, opened

AGENT = AgentConfig(hidden_size=5, encoder="none")
STREAMS, FIRST_SEQUENCE, IN_FLIGHT = 2, 7, 2


@dataclass(frozen=True)
class Files:
    """What the environments of `tests.stuck_envs` read and write."""

    times: Path
    """A line for each step that is not to come back."""
    starts: Path
    """A line for each reset of a broken one."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Ray runs with them; a source stays in it."""
    folder = tmp_path_factory.mktemp("stuck")
    files = Files(folder / "times", folder / "starts")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("STUCK_TIMES", files.times), ("STUCK_AFTER", 20), ("STARTS", files.starts)):
            patch.setenv(name, str(value))
        connection = connect("local", num_actors=1)
        yield files
        connection.close()


@contextmanager
def source_of(name: str) -> Iterator[Opened]:
    config = TrainConfig(
        f"gym/tests.stuck_envs:{name}-v0",
        GymOptions(step_timeout=1.5),
        AGENT,
        seed=5,
        rollout_length=6,
        batch_size=STREAMS,
        num_actors=1,
        streams_per_actor=STREAMS,
        rollouts_in_flight=IN_FLIGHT,
        transport="ray",
    )
    with opened(
        config,
        ObservationSpec((1,), DiscreteActions(2)),
        version=1,
        counters={"next_sequence": FIRST_SEQUENCE},
    ) as source:
        source.rollouts.publish()
        yield source


def take_until_the_end(source: Opened) -> None:
    while source.take():
        pass


def test_what_fails_as_an_actor_starts_is_not_tried_again(files: Files) -> None:
    sentence = r"^gym/tests.stuck_envs:Broken-v0 failed in its first reset: ValueError: no map for this level$"
    with source_of("Broken") as source, pytest.raises(EnvironmentFailed, match=sentence) as failure:
        source.take()
    assert failure.value.never_worked
    assert "in reset" in failure.value.details
    assert files.starts.read_text() == "tried\n"


@pytest.mark.slow
def test_an_actor_that_is_stuck_is_replaced_and_one_that_always_is_ends_the_run(
    files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.times.write_text("once\n")
    with source_of("Stuck") as source:
        numbers = [source.take().rollout.sequence.tolist() for _ in range(12)]
        assert source.counts.actor_restarts == 1
        # In order, each once, with a gap for the rollouts that the lost actor had been ordered.
        firsts = [first for first, second in numbers if first == second]
        assert firsts == sorted(set(firsts))
        assert len(firsts) == 12
        assert 1 <= firsts[-1] - FIRST_SEQUENCE - 11 <= IN_FLIGHT
        assert "rollout actor 0 died, " in caplog.text
        assert "(a step may take --step-timeout 1.5)" in caplog.text
        monkeypatch.setattr(FailurePolicy, "restarts_in_a_row", 0)
        files.times.write_text("again\n" * 9)
        with pytest.raises(ActorsLost, match=r"^rollout actor 0 died 1 times in a row [^\n]* --step-timeout 1.5\)$"):
            take_until_the_end(source)
