"""Returns are those of whole games, also where an episode of the agent is only a part of one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs import Signals
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.evaluation import evaluate as evaluation
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.rollouts import rollout_actor
from r2ac.launch.rollouts.ended_episodes import Episodes
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from tests.playing import evaluated

LIFE, LIVES = 3, 4


class ThreeLives(VectorEnv):
    """Every step pays 1; a life ends after 3 steps, a game after 4 lives, and in the last stream it is cut off."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = Box(0, 1, (4,), np.float32), Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._steps = 0

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros((self.num_envs, 4), np.float32), {}

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._steps += 1
        everyone, last = np.ones(self.num_envs, bool), np.arange(self.num_envs) == self.num_envs - 1
        game_over = everyone & (self._steps % (LIFE * LIVES) == 0)
        truncated = game_over & last
        terminated = everyone & (self._steps % LIFE == 0) & ~truncated
        return self.reset()[0], np.ones(self.num_envs), terminated, truncated, Signals(game_over=game_over).info()


@pytest.fixture
def three_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(task: str, num_envs: int, *args: object, **options: object) -> VectorEnv:
        return ThreeLives(num_envs)

    monkeypatch.setattr(rollout_actor, "make_vector", make)
    monkeypatch.setattr(evaluation, "make_vector", make)


@pytest.mark.usefixtures("three_lives")
def test_an_actor_begins_an_episode_with_each_life_and_counts_games() -> None:
    agent = AgentConfig(hidden_size=4, encoder="none")
    config = ActorConfig("memory/tmaze", MemoryOptions(), agent, seed=1, rollout_length=8, num_streams=2, index=0)
    actor = RolloutActor(config)
    torch.manual_seed(0)
    weights = Weights(
        1,
        parameters_to_vector(Agent(ObservationSpec((4,), DiscreteActions(2)), agent).parameters()).detach().numpy(),
    )
    firsts, episodes = [], Episodes()
    for sequence in range(3):
        collected = actor.collect(weights, sequence)
        assert collected.rollout is not None
        firsts.append(collected.rollout.is_first[:-1])
        episodes.extend(collected.episodes)
    assert (np.concatenate(firsts).all(axis=1) == (np.arange(24) % LIFE == 0)).all()
    assert episodes == Episodes([12.0] * 4, [12] * 4, ["memory/tmaze"] * 4), "two games of two streams"


@pytest.mark.usefixtures("three_lives")
def test_an_evaluation_plays_whole_games(finished_run: Path) -> None:
    config = EvaluationConfig(episodes=4, seeds=1, num_envs=2, device="cpu")
    found = evaluated(finished_run, config)
    played = [(episode.episode_return, episode.length, episode.truncated) for episode in found.episodes]
    assert played == [(12.0, 12, False), (12.0, 12, True)] * 2
