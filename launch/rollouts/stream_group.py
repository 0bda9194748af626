"""Streams that are stepped together, and what they showed last."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2ac.agents import ObservationSpec
from r2ac.envs import Signals, find_tasks, make_vector, spread
from r2ac.learner import Rollout

_NO_TIMER = nullcontext()


@dataclass(frozen=True)
class Episode:
    """A whole episode (a game, where the agent's episodes are lives) that ended within a rollout."""

    episode_return: float
    """Sum of the rewards as the environment gave them."""
    length: int
    """Steps."""
    task: str
    """Full name."""


class StreamGroup:
    """A vector environment with the returns of its episodes.

    Args:
        task: one task or several, as `find_tasks` reads them.
        options: the environment's.
        seed: the environment's.
        first_stream: the number of its first stream among all streams.
        columns: the streams of the rollout actor that these are.
        timer: for each step, and for the first reset.
    """

    def __init__(
        self,
        task: str,
        options: Any,
        seed: int,
        first_stream: int,
        columns: slice,
        timer: AbstractContextManager[None] = _NO_TIMER,
    ) -> None:
        count = columns.stop - columns.start
        self.columns = columns
        self._env = make_vector(task, count, seed, options=options, first_stream=first_stream)
        self._tasks = spread([each.name for each in find_tasks(task)], count, first_stream)
        self.spec = ObservationSpec.of(self._env)
        self._engine_restarts = 0
        self._timer = timer
        with timer:
            self._observation, info = self._env.reset()
        self._instruction = Signals.of(info).instruction
        self._reward = np.zeros(count, dtype=np.float32)
        self._is_first = np.ones(count, dtype=bool)
        self._truncated = np.zeros(count, dtype=bool)
        self._final_observation: np.ndarray | None = None
        self._returns = np.zeros(count)
        self._lengths = np.zeros(count, dtype=np.int64)

    def record(self, rollout: Rollout[np.ndarray], t: int) -> None:
        """Write what the streams show into step ``t`` of their columns of the rollout."""
        rollout.observation[t, self.columns] = self._observation
        rollout.reward[t, self.columns] = self._reward
        rollout.is_first[t, self.columns] = self._is_first
        if rollout.instruction is not None:
            rollout.instruction[t, self.columns] = self._instruction
        if rollout.truncated is not None and rollout.final_observation is not None and t > 0:
            # They belong to the step before.
            rollout.truncated[t - 1, self.columns] = self._truncated
            if self._final_observation is not None:
                rollout.final_observation[t - 1, self.columns] = self._final_observation

    def step(self, action: np.ndarray) -> list[Episode]:
        """Step every stream; returns the episodes that ended."""
        with self._timer:
            self._observation, reward, terminated, truncated, info = self._env.step(action)
        signals = Signals.of(info)
        self._instruction = signals.instruction
        self._reward = reward.astype(np.float32)
        self._is_first = terminated | truncated
        # An end that is both is one of the task's own; one that shows nothing, as of a lost engine, counts as that too.
        has_final = signals.has_final if signals.has_final is not None else np.zeros_like(truncated)
        self._truncated, self._final_observation = truncated & ~terminated & has_final, signals.final_observation
        self._returns += reward
        self._lengths += 1
        over, whole = signals.ends(terminated, truncated)
        episodes = [
            Episode(float(self._returns[i]), int(self._lengths[i]), self._tasks[i]) for i in np.flatnonzero(whole)
        ]
        ended = np.flatnonzero(over)
        self._returns[ended] = 0
        self._lengths[ended] = 0
        return episodes

    def new_engine_restarts(self) -> int:
        """Since the last call; the suites whose engines can be lost count them."""
        before, self._engine_restarts = self._engine_restarts, getattr(self._env, "engine_restarts", 0)
        return self._engine_restarts - before

    def close(self) -> None:
        """Close the environment."""
        self._env.close()
