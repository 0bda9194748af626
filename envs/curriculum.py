"""Scripted tasks whose episodes begin short, and grow as an agent solves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from r2ac.envs.recall import NO_ANSWER, EpisodicVector, ScriptedVector

SOLVED = 10
"""Episodes in a row without a wrong answer, after which those of a stream grow."""


class Curriculum(EpisodicVector):
    """`num_envs` streams of a scripted task of a size n, such as the bits of a parity, that grows.

    Each stream begins with n = 1. After 10 episodes in a row without a wrong answer its n grows by a tenth, by 1 at
    least, until it is ``size``. It never shrinks; new seeds begin again with n = 1.

    ``make``: one stream of the task of a size, in which a right answer pays 1 and all else 0.
    """

    def __init__(self, num_envs: int, make: Callable[[int], ScriptedVector], size: int) -> None:
        self._task, self._size = cache(make), size
        whole = make(size)
        super().__init__(num_envs, whole.single_observation_space, int(whole.single_action_space.n))  # type: ignore[arg-type, attr-defined]
        self.scores, self.pictures = whole.scores, whole.pictures  # type: ignore[method-assign]
        shape = whole.episode_steps, num_envs
        self._observations = np.zeros((*shape, *(whole.single_observation_space.shape or ())), dtype=np.float32)
        self._answers = np.zeros(shape, dtype=np.int64)
        self._sizes, self._solved, self._at, self._last = (np.zeros(num_envs, dtype=np.int64) for _ in range(4))
        """Of each stream: its n, episodes solved in a row, the step of its episode, the last step."""
        self._wrong = np.zeros(num_envs, dtype=bool)
        self._streams = np.arange(num_envs)

    def seed_streams(self, seed: int | Sequence[int] | np.ndarray | None) -> None:
        super().seed_streams(seed)
        self._sizes[:], self._solved[:] = 1, 0

    def begin(self, streams: np.ndarray) -> None:
        for size in np.unique(self._sizes[streams]).tolist():
            task, these = self._task(size), streams[self._sizes[streams] == size]
            drawn = np.array([task.draw(self._generators[stream]) for stream in these.tolist()])
            steps = task.episode_steps
            observations = np.zeros((steps, len(these), self._observations.shape[2]), dtype=np.float32)
            answers = np.full((steps, len(these)), NO_ANSWER)
            task.write(drawn, observations, answers)
            self._observations[:steps, these], self._answers[:steps, these] = observations, answers
            self._last[these] = steps - 1
        self._at[streams], self._wrong[streams] = 0, False

    def observe(self) -> np.ndarray:
        return self._observations[self._at, self._streams]

    def act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        answers = self._answers[self._at, self._streams]
        right, over = actions == answers, self._at == self._last
        self._wrong |= ~right & (answers != NO_ANSWER)
        self._at[~over] += 1
        self._grow(np.flatnonzero(over))
        return right.astype(np.float64), over, np.zeros_like(over)

    def _grow(self, over: np.ndarray) -> None:
        """Counts the episodes that streams have solved, and lets sizes grow."""
        self._solved[over] = np.where(self._wrong[over], 0, self._solved[over] + 1)
        grown = over[self._solved[over] == SOLVED]
        sizes = self._sizes[grown]
        self._sizes[grown] = np.minimum(sizes + np.maximum(sizes // 10, 1), self._size)
        self._solved[grown] = 0
