"""The rollout actor: steps a vector environment with a copy of the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils import vector_to_parameters

from r2ac.agents import Agent, AgentConfig, ObservationSpec, StepOutput
from r2ac.envs import find_tasks, make_vector, spread
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
    task: str
    """Full name."""


@dataclass(frozen=True)
class Collected:
    """What a rollout actor hands over."""

    rollout: Rollout[np.ndarray]
    """T steps of all its streams."""
    episodes: list[Episode]
    """Those that ended in these steps."""
    engine_restarts: int = 0
    """Engines that were lost and replaced meanwhile; their streams began new episodes."""


@dataclass(frozen=True)
class ActorConfig:
    """What a rollout actor needs to know."""

    task: str
    """One task or several, as `find_tasks` reads them."""
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
        self._env = make_vector(
            config.task, config.num_streams, env_seed, options=config.env, first_stream=config.first_stream
        )
        names = [task.name for task in find_tasks(config.task)]
        self._tasks = spread(names, config.num_streams, config.first_stream)
        self.spec = ObservationSpec.of(self._env)
        self._agent = Agent(self.spec, config.agent).eval()
        self._version = -1
        self._engine_restarts = 0
        self._observation, info = self._env.reset()
        self._instruction: np.ndarray | None = info.get("instruction")
        self._reward = np.zeros(config.num_streams, dtype=np.float32)
        self._is_first = np.ones(config.num_streams, dtype=bool)
        self._cell = torch.zeros(config.num_streams, self._agent.core.cell_size)
        self._returns = np.zeros(config.num_streams)
        self._lengths = np.zeros(config.num_streams, dtype=np.int64)

    def collect(self, weights: Weights, sequence: int) -> Collected:
        """Step every stream T times with ``weights``; ``sequence`` becomes the rollouts' number."""
        self._load(weights)
        rollout = self._empty_rollout(sequence)
        uniforms = np.random.default_rng(self._randomness(sequence)).random(rollout.action.shape)
        episodes: list[Episode] = []
        for t in range(self._config.rollout_length):
            self._record(rollout, t)
            output = self._act()
            self._cell = output.cell
            logits = output.logits.numpy()
            action = sample_actions(logits, uniforms[t])
            rollout.behaviour_logits[t] = logits
            rollout.action[t] = action
            episodes += self._step(action)
        self._record(rollout, self._config.rollout_length)
        return Collected(rollout, episodes, self._new_engine_restarts())

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _randomness(self, *more: int) -> np.random.SeedSequence:
        config = self._config
        return np.random.SeedSequence(config.seed, spawn_key=(config.index, config.incarnation, *more))

    def _step(self, action: np.ndarray) -> list[Episode]:
        self._observation, reward, terminated, truncated, info = self._env.step(action)
        self._instruction = info.get("instruction")
        self._reward = reward.astype(np.float32)
        self._is_first = terminated | truncated
        self._returns += reward
        self._lengths += 1
        # Returns are those of whole games, also where an episode of the agent is a life.
        over = info.get("game_over", self._is_first)
        # What was under way in an engine that was lost, and so cut off, is no episode.
        whole = over & ~(truncated & info.get("engine_failed", np.zeros_like(over)))
        episodes = [
            Episode(float(self._returns[i]), int(self._lengths[i]), self._tasks[i]) for i in np.flatnonzero(whole)
        ]
        ended = np.flatnonzero(over)
        self._returns[ended] = 0
        self._lengths[ended] = 0
        return episodes

    def _act(self) -> StepOutput:
        shown = torch.from_numpy(self._observation), torch.from_numpy(self._reward), torch.from_numpy(self._is_first)
        instruction = None if self._instruction is None else torch.from_numpy(self._instruction)
        return self._agent.step(*shown, self._cell, instruction)

    def _record(self, rollout: Rollout[np.ndarray], t: int) -> None:
        rollout.observation[t] = self._observation
        rollout.reward[t] = self._reward
        rollout.is_first[t] = self._is_first
        if rollout.instruction is not None:
            rollout.instruction[t] = self._instruction

    def _new_engine_restarts(self) -> int:
        """Since the last call; the suites whose engines can be lost count them."""
        before, self._engine_restarts = self._engine_restarts, getattr(self._env, "engine_restarts", 0)
        return self._engine_restarts - before

    def _load(self, weights: Weights) -> None:
        if weights.version != self._version:
            vector_to_parameters(torch.tensor(weights.values), self._agent.parameters())
            self._version = weights.version

    def _empty_rollout(self, sequence: int) -> Rollout[np.ndarray]:
        steps, streams = self._config.rollout_length, self._config.num_streams
        words = self._instruction
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
            instruction=np.empty((steps + 1, *words.shape), dtype=words.dtype) if words is not None else None,
        )
