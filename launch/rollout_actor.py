"""The rollout actor: steps a vector environment with a copy of the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils import vector_to_parameters

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.envs import make_vector
from r2ac.launch.process import set_up_process
from r2ac.learner import Rollout


@dataclass(frozen=True)
class Weights:
    """The agent's weights, as they travel from the learner to the actors."""

    version: int
    """The number of updates that made them."""
    values: np.ndarray
    """All parameters, one after another, float32."""


@dataclass(frozen=True)
class Episode:
    """A whole episode (a game, where the agent's episodes are lives) that ended within a rollout."""

    episode_return: float
    """Sum of the rewards as the environment gave them."""
    length: int
    """Steps."""


@dataclass(frozen=True)
class ActorConfig:
    """What a rollout actor needs to know."""

    task: str
    env: Any
    agent: AgentConfig
    seed: int
    rollout_length: int
    num_streams: int
    index: int
    """The actor's number among all actors."""
    incarnation: int = 0
    """How often the actor has been started before: each start gets other episodes."""

    @property
    def first_stream(self) -> int:
        """The number of the actor's first stream."""
        return self.index * self.num_streams

    @property
    def last_stream(self) -> int:
        """The number of the actor's last stream."""
        return self.first_stream + self.num_streams - 1


def sample_actions(logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Actions drawn from softmax(logits): the first whose cumulative probability exceeds the uniform number.

    Args:
        logits: [B, A].
        uniforms: [B], in [0, 1).

    Returns:
        [B] int64.
    """
    weights = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    cumulative = weights.cumsum(axis=1)
    return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1).clip(max=logits.shape[1] - 1)


class RolloutActor:
    """Steps the streams of one actor and hands over their rollouts.

    What it draws at random follows from the run's seed, its index, its incarnation and the rollout's number alone, so
    that there is no random state to be saved.

    Args:
        config: what to step and how.
        threads: CPU threads for the agent's network; None leaves them as they are.
    """

    def __init__(self, config: ActorConfig, threads: int | None = None) -> None:
        if threads is not None:
            set_up_process(threads)
        self._config = config
        env_seed = int(self._randomness().generate_state(1, np.uint64)[0])
        self._env = make_vector(config.task, config.num_streams, env_seed, options=config.env)
        self.spec = ObservationSpec.of(self._env)
        self._agent = Agent(self.spec, config.agent).eval()
        self._version = -1
        self._observation, _ = self._env.reset()
        self._reward = np.zeros(config.num_streams, dtype=np.float32)
        self._is_first = np.ones(config.num_streams, dtype=bool)
        self._cell = torch.zeros(config.num_streams, self._agent.core.cell_size)
        self._returns = np.zeros(config.num_streams)
        self._lengths = np.zeros(config.num_streams, dtype=np.int64)

    def collect(self, weights: Weights, sequence: int) -> tuple[Rollout[np.ndarray], list[Episode]]:
        """Step every stream T times with ``weights``; ``sequence`` becomes the rollouts' number."""
        self._load(weights)
        rollout = self._empty_rollout(sequence)
        uniforms = np.random.default_rng(self._randomness(sequence)).random(rollout.action.shape)
        episodes: list[Episode] = []
        for t in range(self._config.rollout_length):
            self._record(rollout, t)
            output = self._agent.step(*self._inputs(), self._cell)
            self._cell = output.cell
            logits = output.logits.numpy()
            action = sample_actions(logits, uniforms[t])
            rollout.behaviour_logits[t] = logits
            rollout.action[t] = action
            episodes += self._step(action)
        self._record(rollout, self._config.rollout_length)
        return rollout, episodes

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _randomness(self, *more: int) -> np.random.SeedSequence:
        config = self._config
        return np.random.SeedSequence(config.seed, spawn_key=(config.index, config.incarnation, *more))

    def _step(self, action: np.ndarray) -> list[Episode]:
        self._observation, reward, terminated, truncated, info = self._env.step(action)
        self._reward = reward.astype(np.float32)
        self._is_first = terminated | truncated
        self._returns += reward
        self._lengths += 1
        # Returns are those of whole games, also where an episode of the agent is a life.
        ended = np.flatnonzero(info.get("game_over", self._is_first))
        episodes = [Episode(float(self._returns[i]), int(self._lengths[i])) for i in ended]
        self._returns[ended] = 0
        self._lengths[ended] = 0
        return episodes

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self._observation), torch.from_numpy(self._reward), torch.from_numpy(self._is_first)

    def _record(self, rollout: Rollout[np.ndarray], t: int) -> None:
        rollout.observation[t] = self._observation
        rollout.reward[t] = self._reward
        rollout.is_first[t] = self._is_first

    def _load(self, weights: Weights) -> None:
        if weights.version != self._version:
            vector_to_parameters(torch.tensor(weights.values), self._agent.parameters())
            self._version = weights.version

    def _empty_rollout(self, sequence: int) -> Rollout[np.ndarray]:
        steps, streams = self._config.rollout_length, self._config.num_streams
        return Rollout(
            observation=np.empty((steps + 1, streams, *self.spec.shape), dtype=self._observation.dtype),
            reward=np.empty((steps + 1, streams), dtype=np.float32),
            is_first=np.empty((steps + 1, streams), dtype=bool),
            action=np.empty((steps, streams), dtype=np.int64),
            behaviour_logits=np.empty((steps, streams, self.spec.num_actions), dtype=np.float32),
            first_cell=self._cell.numpy().copy(),
            stream=np.arange(self._config.first_stream, self._config.last_stream + 1),
            sequence=np.full(streams, sequence),
            weights_version=np.full(streams, self._version),
        )
