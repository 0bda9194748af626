"""Updates that are not finite: skipped, counted, and in the end a sentence."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.learner import Learner, LearnerConfig, Rollout, TrainingDiverged

SIZE, ACTIONS, HIDDEN, STEPS, STREAMS = 3, 4, 5, 4, 3


def make_learner(**config: Any) -> Learner:
    torch.manual_seed(5)
    agent = Agent(
        ObservationSpec((SIZE,), DiscreteActions(ACTIONS)),
        AgentConfig(hidden_size=HIDDEN, encoder_features=6),
    )
    return Learner(agent, LearnerConfig(**config), STREAMS, total_steps=1000)


def make_rollout(sequence: int) -> Rollout[np.ndarray]:
    rng = np.random.default_rng(sequence)
    return Rollout(
        observation=rng.normal(size=(STEPS + 1, STREAMS, SIZE)).astype(np.float32),
        reward=rng.normal(size=(STEPS + 1, STREAMS)).astype(np.float32),
        is_first=np.zeros((STEPS + 1, STREAMS), dtype=bool),
        action=rng.integers(0, ACTIONS, (STEPS, STREAMS)),
        behaviour_logits=rng.normal(size=(STEPS, STREAMS, ACTIONS)).astype(np.float32),
        first_state=rng.normal(size=(STREAMS, HIDDEN)).astype(np.float32),
        stream=np.arange(STREAMS),
        sequence=np.full(STREAMS, sequence),
        weights_version=np.zeros(STREAMS, dtype=np.int64),
    )


def spoil(rollout: Rollout[np.ndarray], where: str) -> Rollout[np.ndarray]:
    """One number of one stream becomes NaN."""
    array = getattr(rollout, where).copy()
    array[2 if where != "first_state" else 0, 1] = np.nan
    return replace(rollout, **{where: array})


def state(learner: Learner) -> dict[str, Any]:
    return deepcopy({"agent": learner.agent.state_dict(), "optimiser": learner.optimiser.state_dict()["state"]})


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    else:
        assert torch.equal(one, other)


@pytest.mark.parametrize("where", ["reward", "observation", "behaviour_logits"])
def test_an_update_that_is_not_finite_changes_nothing_but_the_counters(where: str) -> None:
    learner = make_learner()
    learner.update(make_rollout(0))
    before = state(learner)
    metrics = learner.update(spoil(make_rollout(1), where))
    assert not metrics["loss/total"].isfinite()
    assert_same(state(learner), before)
    assert (learner.updates, learner.skipped_updates) == (2, 1)
    # The steps were used up all the same: the schedule goes on.
    assert learner.env_steps == 2 * STEPS * STREAMS


@pytest.mark.parametrize("where", ["reward", "observation"])
@pytest.mark.parametrize("skips", [1, 3])
def test_after_skipped_updates_all_their_streams_begin_again(where: str, skips: int) -> None:
    """The next good update is that of a learner with the same weights that met only gaps."""
    learner = make_learner()
    learner.update(make_rollout(0))
    for sequence in range(1, 1 + skips):
        learner.update(spoil(make_rollout(sequence), where))
    resets = learner.carries.resets
    other = make_learner()
    other.agent.load_state_dict(learner.agent.state_dict())
    mine, expected = (one.update(make_rollout(1 + skips)) for one in (learner, other))
    assert learner.carries.resets - resets == other.carries.resets == STREAMS
    torch.testing.assert_close(mine, expected)
    gradients = zip(learner.parameters, other.parameters, strict=True)
    # Clipping is by a norm below 40, and so no clipping at all.
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in gradients if a.grad is not None)  # type: ignore[arg-type]
    learner.update(make_rollout(2 + skips))
    assert learner.carries.resets - resets == STREAMS
    assert learner.skipped_updates == skips


def test_only_the_streams_of_the_skipped_batch_begin_again() -> None:
    learner = make_learner()
    learner.update(make_rollout(0))
    learner.update(spoil(make_rollout(1), "reward").columns(0, 2))
    learner.update(make_rollout(1).columns(2, 3))
    assert learner.carries.resets == 0
    learner.update(make_rollout(2))
    assert learner.carries.resets == 2


def test_too_many_skips_in_a_row_are_one_sentence() -> None:
    learner = make_learner(max_skipped_updates=3)
    learner.update(make_rollout(0))
    for sequence in (1, 2):
        learner.update(spoil(make_rollout(sequence), "reward"))
    words = r"training diverged: 3 updates in a row had a loss or gradient that is not finite \(loss nan"
    with pytest.raises(TrainingDiverged, match=words) as caught:
        learner.update(spoil(make_rollout(3), "reward"))
    assert "48 environment steps" in str(caught.value)
    assert "--learning-rate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_good_update_between_begins_the_count_again() -> None:
    learner = make_learner(max_skipped_updates=2)
    for sequence in range(8):
        rollout = make_rollout(sequence)
        learner.update(spoil(rollout, "reward") if sequence % 2 else rollout)
    assert (learner.updates, learner.skipped_updates) == (8, 4)
    with pytest.raises(TrainingDiverged):
        learner.update(spoil(make_rollout(8), "reward"))


def test_one_skip_may_be_one_too_many() -> None:
    with pytest.raises(TrainingDiverged, match=r"1 updates? in a row"):
        make_learner(max_skipped_updates=1).update(spoil(make_rollout(0), "reward"))


def test_rewards_without_bound_are_clipped_and_no_reason_to_skip() -> None:
    learner, rollout = make_learner(), make_rollout(0)
    rollout.reward[1, 0], rollout.reward[2, 1] = np.inf, -np.inf
    assert learner.update(rollout)["loss/total"].isfinite()
    assert learner.skipped_updates == 0


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is() -> None:
    learner = make_learner()
    learner.agent.core.output_gate.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = state(learner)
    metrics = learner.update(make_rollout(0))
    assert metrics["loss/total"].isfinite()
    assert not metrics["loss/gradient_norm"].isfinite()
    assert_same(state(learner), before)
    assert (learner.updates, learner.skipped_updates) == (1, 1)
