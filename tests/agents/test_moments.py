"""Normalised observations against the mean and the deviation of all that was seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.learner import Learner, LearnerConfig, Rollout

STEPS, STREAMS, SIZE = 6, 4, 3
CONFIG = AgentConfig(hidden_size=4, encoder="none", normalise_observations=True)


def make_agent(seed: int = 0) -> Agent:
    torch.manual_seed(seed)
    return Agent(ObservationSpec((SIZE,), DiscreteActions(2)), CONFIG)


def make_rollout(sequence: int) -> Rollout[np.ndarray]:
    rng = np.random.default_rng(sequence)
    scales, centres = np.array([0.1, 1, 1000]), np.array([5, 0, -3e4])
    return Rollout(
        observation=(centres + scales * rng.normal(size=(STEPS + 1, STREAMS, SIZE))).astype(np.float32),
        reward=rng.normal(size=(STEPS + 1, STREAMS)).astype(np.float32),
        is_first=rng.random((STEPS + 1, STREAMS)) < 0.2,
        action=rng.integers(0, 2, (STEPS, STREAMS)),
        behaviour_logits=np.zeros((STEPS, STREAMS, 2), np.float32),
        first_state=np.zeros((STREAMS, 4), np.float32),
        stream=np.arange(STREAMS),
        sequence=np.full(STREAMS, sequence),
        weights_version=np.zeros(STREAMS, dtype=np.int64),
    )


def test_the_learner_gathers_mean_and_deviation_and_those_who_act_get_them_with_the_weights() -> None:
    agent = make_agent()
    learner = Learner(agent, LearnerConfig(), STREAMS, 1000)
    rollouts = [make_rollout(sequence) for sequence in range(5)]
    for rollout in rollouts:
        learner.update(rollout)
    seen = np.concatenate([rollout.observation[1:] for rollout in rollouts]).reshape(-1, SIZE).astype(np.float64)
    acting = make_agent(seed=1)
    vector_to_parameters(parameters_to_vector(agent.parameters()), acting.parameters())
    assert acting.observations is not None
    np.testing.assert_allclose(acting.observations.mean, seen.mean(axis=0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(acting.observations.deviation, seen.std(axis=0), rtol=0.01)
    shown = torch.from_numpy(rollouts[0].observation[0])
    state, nothing = torch.zeros(STREAMS, 4), torch.zeros(STREAMS)
    mine, theirs = (each.step(shown, nothing, nothing.bool(), state) for each in (agent, acting))
    assert torch.equal(mine.logits, theirs.logits)
    expected = (rollouts[0].observation[0] - seen.mean(axis=0)) / seen.std(axis=0)
    np.testing.assert_allclose(theirs.core_input[:, :SIZE], expected, rtol=0.02, atol=0.02)


def test_the_checkpoint_keeps_them_and_they_go_on_from_there() -> None:
    agent, again = make_agent(), make_agent(seed=1)
    learner = Learner(agent, LearnerConfig(learning_rate=0.0), STREAMS, 1000)
    learner.update(make_rollout(0))
    again.load_state_dict(agent.state_dict())
    learner.update(make_rollout(1))
    Learner(again, LearnerConfig(learning_rate=0.0), STREAMS, 1000).update(make_rollout(1))
    for name, tensor in agent.state_dict().items():
        if name.startswith("observations"):
            assert torch.equal(tensor, again.state_dict()[name])


def test_an_update_learns_by_the_numbers_that_acted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one learns that takes nothing into its moments."""
    agent, other = make_agent(), make_agent()
    assert agent.observations is not None
    assert other.observations is not None
    before = agent.observations.mean.clone()
    monkeypatch.setattr(other.observations, "observe", lambda sums: None)
    for each in (agent, other):
        Learner(each, LearnerConfig(), STREAMS, 1000).update(make_rollout(0))
    assert not torch.equal(agent.observations.mean, before)
    assert torch.equal(other.observations.mean, before)
    for weight, known in zip(agent.core.parameters(), other.core.parameters(), strict=True):
        assert torch.equal(weight, known)
    assert not torch.equal(agent.core.get_parameter("bias"), make_agent().core.get_parameter("bias"))


def test_normalised_numbers_are_bounded_and_what_is_not_finite_is_left_out() -> None:
    agent = make_agent()
    assert agent.observations is not None
    assert agent.observations(torch.tensor([1e9, -1e9, 0.5])).tolist() == [10.0, -10.0, 0.5]
    spoilt = make_rollout(0)
    spoilt.observation[2, 1, 0] = np.nan
    learner = Learner(agent, LearnerConfig(), STREAMS, 1000)
    learner.update(spoilt)
    assert learner.skipped_updates == 1
    assert torch.isfinite(agent.observations.mean).all()


def test_images_are_as_they_are() -> None:
    assert Agent(ObservationSpec((3, 36, 36), DiscreteActions(2)), replace(CONFIG, encoder="auto")).observations is None
    assert Agent(ObservationSpec((3,), DiscreteActions(2)), AgentConfig(hidden_size=4)).observations is None
