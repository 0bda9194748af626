"""What the tasks of the suite `memory` share: episodes that actions change, episodes of one length that are written out
beforehand, and small pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from r2ac.envs.seeding import stream_generators
from r2ac.envs.signals import Signals, StreamsVector
from r2ac.envs.suite import ReferenceScores

NO_ANSWER = -1
"""Stands where nothing is asked: it equals no action."""


class MemoryVector(StreamsVector):
    """`num_envs` streams of a task of the suite `memory`; autoreset SAME_STEP. Each draws from a generator of its own,
    whatever the number of streams."""

    scores: ReferenceScores | None = None
    episode_steps: int | None = None
    """The number of steps that all episodes have; None where they differ."""

    def __init__(self, num_envs: int, observation_space: Box, actions: int) -> None:
        super().__init__(num_envs, observation_space, actions)
        self._generators: list[np.random.Generator] = []

    def seed_streams(self, seed: int | Sequence[int] | np.ndarray | None) -> None:
        """Gives each stream a new generator: one seed a stream, or an int s for s, s + 1, ..."""
        self._generators = stream_generators(seed, self.num_envs)

    def pictures(self) -> list[np.ndarray]:
        """How each feature looks in pixels, uint8 [3,SIDE,SIDE] (see `PictureVector`); empty where there are none."""
        return []


class EpisodicVector(MemoryVector):
    """`num_envs` streams of a task in which actions decide what comes next, or when an episode ends.

    A subclass keeps the streams' states, draws episodes in `begin` and steps all streams at once in `act`.
    """

    @abstractmethod
    def begin(self, streams: np.ndarray) -> None:
        """Draws the next episode of the streams, int64 [M], each from its own generator."""

    @abstractmethod
    def observe(self) -> np.ndarray:
        """What the streams show now, float32 [N,features], the caller's to keep."""

    @abstractmethod
    def act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lets the actions, int64 [N], take effect: rewards, float64 [N]; terminated and truncated, bool [N]."""

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream, or in those of `options["reset_mask"]`; a `seed` goes to `seed_streams`,
        None keeps the generators as they are."""
        if seed is not None or not self._generators:
            self.seed_streams(seed)
        mask = (options or {}).get("reset_mask")
        self.begin(np.arange(self.num_envs) if mask is None else np.flatnonzero(mask))
        return self.observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward, terminated, truncated = self.act(np.asarray(actions))
        info: dict[str, Any] = {}
        over = terminated | truncated
        if np.count_nonzero(over):
            info = Signals(final_observation=self.observe(), has_final=over).info()
            self.begin(np.flatnonzero(over))
        return self.observe(), reward, terminated, truncated, info


class ScriptedVector(MemoryVector):
    """`num_envs` streams of a task whose episodes all have the same number of steps.

    An episode is written out before it begins: what is seen at each step, and which action is right. A right action
    pays 1, any other 0. Every episode is terminated, never truncated; its final observation is the last one again.

    Each stream is at a position of its own in its episode. The scripts lie in rings over time: one row has what all
    streams show at one time, so that a step reads one row. Once in `episode_steps` steps the next episodes of all
    streams are written together.

    A subclass defines the episode. Chance is questions / actions, the best return the number of questions.
    """

    episode_steps: int

    def __init__(
        self, num_envs: int, *, features: int, actions: int, episode_steps: int, questions: int, low: float = 0.0
    ) -> None:
        """``features``, ``low``: of the observations, float32 [features] in [low, 1]."""
        super().__init__(num_envs, Box(low, 1.0, (features,), np.float32), actions)
        self.scores = ReferenceScores(questions / actions, float(questions), "chance", "best")
        self.episode_steps = episode_steps
        self._rows = 2 * episode_steps
        self._observations = np.zeros((self._rows, num_envs, features), dtype=np.float32)
        self._answers = np.zeros((self._rows, num_envs), dtype=np.int64)
        self._last = np.zeros((self._rows, num_envs), dtype=bool)
        self._drawn: np.ndarray | None = None
        """What was drawn for the last episode that is written of each stream, int64 [N,D]."""
        self._time = self._row = 0
        self._in_phase = False
        """Whether all streams are at the same position."""
        self._written = np.zeros(num_envs, dtype=np.int64)
        """The time at which that episode is over."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> np.ndarray | list[np.int64]:
        """All that is random in one episode of one stream, D integers."""

    @abstractmethod
    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        """Writes the episodes of what was drawn, int64 [M,D], into `observations` float32 [steps,M,features], which
        are all 0, and `answers` int64 [steps,M], which are all NO_ANSWER."""

    @property
    def answers(self) -> np.ndarray:
        """The action that is right now in each stream, or NO_ANSWER, int64 [N]."""
        return self._answers[self._row]

    @property
    def script(self) -> np.ndarray:
        """What was written of what the streams show now, float32 [N,features]."""
        return self._observations[self._row]

    def observe(self) -> np.ndarray:
        """What the streams show now, float32 [N,features], the caller's to keep; called once at each time."""
        return self.script.copy()

    def pay(self, actions: np.ndarray) -> np.ndarray:
        """Lets the actions, int64 [N], take effect; their rewards, float64 [N]."""
        return (actions == self.answers).astype(np.float64)

    def seed_streams(self, seed: int | Sequence[int] | np.ndarray | None) -> None:
        super().seed_streams(seed)
        self._written[:] = self._time

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream, or in those of `options["reset_mask"]`; a `seed` goes to `seed_streams`,
        None keeps the generators as they are."""
        if seed is not None or not self._generators:
            self.seed_streams(seed)
        mask = (options or {}).get("reset_mask")
        streams = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        # An episode that is written and has not begun yet is the next one.
        self._draw(streams[self._written[streams] - self.episode_steps <= self._time])
        self._in_phase = len(streams) == self.num_envs
        if self._in_phase:
            self._time = self._row = 0
        self._written[streams] = self._time
        self._last[:, streams] = False
        self._write(streams)
        return self.observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward = self.pay(np.asarray(actions))
        terminated, truncated = self._last[self._row].copy(), np.zeros(self.num_envs, dtype=bool)
        info: dict[str, Any] = {}
        if np.count_nonzero(terminated):
            info = Signals(final_observation=self.script.copy(), has_final=terminated.copy()).info()
            self._last[self._row] = False
        self._time += 1
        self._row = self._time % self._rows
        if self._row % self.episode_steps == 0:
            streams = np.flatnonzero(self._written < self._time + self.episode_steps)
            self._draw(streams)
            self._write(streams)
        return self.observe(), reward, terminated, truncated, info

    def _draw(self, streams: np.ndarray) -> None:
        if streams.size:
            drawn = np.array([self.draw(self._generators[stream]) for stream in streams.tolist()])
            if self._drawn is None:
                self._drawn = np.zeros((self.num_envs, drawn.shape[1]), dtype=np.int64)
            self._drawn[streams] = drawn

    def _write(self, streams: np.ndarray) -> None:
        """Writes the episodes that were drawn for M streams after those that are written."""
        assert self._drawn is not None
        steps = self.episode_steps
        if self._in_phase:
            # The same as below, but faster.
            half = slice(self._row, self._row + steps)
            observations, answers, last = self._observations[half], self._answers[half], self._last[half]
            observations[:], answers[:], last[-1] = 0, NO_ANSWER, True
            self.write(self._drawn, observations, answers)
        else:
            observations = np.zeros((steps, len(streams), self._observations.shape[2]), dtype=np.float32)
            answers = np.full((steps, len(streams)), NO_ANSWER)
            self.write(self._drawn[streams], observations, answers)
            rows = (self._written[streams] + np.arange(steps)[:, None]) % self._rows
            self._observations[rows, streams], self._answers[rows, streams] = observations, answers
            self._last[rows[-1], streams] = True
        self._written[streams] += steps


def one_hot(symbols: np.ndarray, size: int) -> np.ndarray:
    """int64 [...] -> float32 [...,size]."""
    return np.eye(size, dtype=np.float32).take(symbols, axis=0)


SIDE = 3
"""A picture has 3 x 3 fields."""
FIELD = 8
"""Height and width of a field in pixels."""
COLOURS = [
    *((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)),
    *((255, 0, 255), (0, 255, 255), (255, 128, 0), (128, 128, 128)),
]
"""Red, green and blue of each symbol."""
WHITE = (255, 255, 255)


def paint(fields: Iterable[tuple[int, int]], colour: tuple[int, int, int]) -> np.ndarray:
    """A picture in which the fields (row, column) have a colour and all others are black, uint8 [3,SIDE,SIDE]."""
    picture = np.zeros((3, SIDE, SIDE), dtype=np.uint8)
    for row, column in fields:
        picture[:, row, column] = colour
    return picture


class PictureVector(VectorWrapper):
    """Shows the features as pictures: uint8 [N,3,24,24], the sum of the pictures of the features that are 1.
    ``pictures``: one a feature, uint8 [3,SIDE,SIDE]; those of features that are 1 together share no field."""

    def __init__(self, env: VectorEnv, pictures: Sequence[np.ndarray]) -> None:
        super().__init__(env)
        self._pictures = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
        self.single_observation_space = Box(0, 255, (3, SIDE * FIELD, SIDE * FIELD), np.uint8)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        features, info = self.env.reset(seed=seed, options=options)
        return self._picture(features), info

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        features, reward, terminated, truncated, info = self.env.step(actions)
        signals = Signals.of(info)
        if signals.final_observation is not None:
            info = replace(signals, final_observation=self._picture(signals.final_observation)).info()
        return self._picture(features), reward, terminated, truncated, info

    def _picture(self, features: np.ndarray) -> np.ndarray:
        small = (features @ self._pictures).astype(np.uint8).reshape(-1, 3, SIDE, SIDE)
        return small.repeat(FIELD, axis=2).repeat(FIELD, axis=3)
