"""What the recall tasks share: streams in step with one another, episodes written out beforehand, small pictures."""

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


class LockstepVector(StreamsVector):
    """`num_envs` streams of a task whose episodes all have the same number of steps; autoreset SAME_STEP.

    All episodes begin together. Each stream draws its episodes from a generator of its own, whatever the number of
    streams. Every episode is terminated, never truncated; its final observation is the last one again.

    Observation: float32 [features], each 0 or 1. Actions: 0 … actions - 1. A subclass defines the episode.
    """

    scores: ReferenceScores
    """Chance level and best return; the subclass gives the arithmetic."""

    def __init__(self, num_envs: int, *, features: int, actions: int, episode_steps: int) -> None:
        super().__init__(num_envs, Box(0.0, 1.0, (features,), np.float32), actions)
        self.episode_steps = episode_steps
        self._generators: list[np.random.Generator] = []
        self._position = 0

    def seed_streams(self, seed: int | Sequence[int] | np.ndarray | None) -> None:
        """Gives each stream a new generator: one seed a stream, or an int s for s, s + 1, ..."""
        self._generators = stream_generators(seed, self.num_envs)

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> np.ndarray | list[np.int64]:
        """All that is random in one episode of one stream, D integers."""

    @abstractmethod
    def begin(self, drawn: np.ndarray) -> None:
        """Begins an episode in every stream with what was drawn for it, int64 [N,D]."""

    @abstractmethod
    def observe(self, position: int) -> np.ndarray:
        """What is seen at a step, float32 [N,features], the caller's to keep."""

    @abstractmethod
    def pay(self, position: int, actions: np.ndarray) -> np.ndarray:
        """Lets the actions of a step take effect; their rewards, float64 [N]."""

    @abstractmethod
    def pictures(self) -> list[np.ndarray]:
        """How each feature looks in pixels, uint8 [3,SIDE,SIDE] (see `PictureVector`)."""

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream; a `seed` goes to `seed_streams`, None keeps the generators as they are."""
        if seed is not None or not self._generators:
            self.seed_streams(seed)
        return self._first_observations(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward = self.pay(self._position, np.asarray(actions))
        last = self._position == self.episode_steps - 1
        terminated, truncated = np.full(self.num_envs, last), np.zeros(self.num_envs, dtype=bool)
        if not last:
            self._position += 1
            return self.observe(self._position), reward, terminated, truncated, {}
        signals = Signals(final_observation=self.observe(self._position), has_final=terminated.copy())
        return self._first_observations(), reward, terminated, truncated, signals.info()

    def _first_observations(self) -> np.ndarray:
        self._position = 0
        self.begin(np.array([self.draw(generator) for generator in self._generators]))
        return self.observe(0)


class ScriptedVector(LockstepVector):
    """Tasks in which actions change nothing but the reward: 1 for the right answer to each question, else 0. So an
    episode is written out when it begins; chance is questions / actions, the best return the number of questions."""

    def __init__(self, num_envs: int, *, features: int, actions: int, episode_steps: int, questions: int) -> None:
        super().__init__(num_envs, features=features, actions=actions, episode_steps=episode_steps)
        self.scores = ReferenceScores(questions / actions, float(questions), "chance", "best")
        self._observations = np.zeros((episode_steps, num_envs, features), dtype=np.float32)
        self._answers = np.full((episode_steps, num_envs), NO_ANSWER)

    @abstractmethod
    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        """Writes the episodes of what was drawn, int64 [N,D], into `observations` float32 [steps,N,features], which
        are all 0, and `answers` int64 [steps,N], which are all NO_ANSWER."""

    def begin(self, drawn: np.ndarray) -> None:
        self._observations[:] = 0
        self._answers[:] = NO_ANSWER
        self.write(drawn, self._observations, self._answers)

    def observe(self, position: int) -> np.ndarray:
        return self._observations[position].copy()

    def pay(self, position: int, actions: np.ndarray) -> np.ndarray:
        return (actions == self._answers[position]).astype(np.float64)


def one_hot(symbols: np.ndarray, size: int) -> np.ndarray:
    """int64 [...] -> float32 [...,size]."""
    return np.eye(size, dtype=np.float32)[symbols]


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
