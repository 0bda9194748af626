"""Streams of several tasks in one vector environment, spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from gymnasium.vector import VectorEnv

from r2ac.envs.action_spaces import actions_text
from r2ac.envs.signals import Signals, StreamsVector
from r2ac.envs.suite import InvalidOption

Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int, first: int = 0) -> tuple[Item, ...]:
    """The items of ``count`` streams from number ``first`` on: stream i has item i mod n."""
    return tuple(items[i % len(items)] for i in range(first, first + count))


class MixedVector(StreamsVector):
    """Vector environments of several tasks, stepped in turn; autoreset SAME_STEP. Only signals of infos are kept.

    parts: the environments by the names of their tasks.
    names: the task that each stream plays, [N]; a part has as many streams as its name occurs.

    Raises InvalidOption where the parts differ in the shape or dtype of observations or in the actions.
    """

    def __init__(self, parts: dict[str, VectorEnv], names: Sequence[str]) -> None:
        first_name, first = next(iter(parts.items()))
        for name, part in parts.items():
            if _shown(part) != _shown(first):
                raise InvalidOption(
                    "tasks in one training must show the same and take the same actions, but "
                    f"{first_name} has {_words(first)}, and {name} {_words(part)}"
                )
        spaces = first.single_observation_space, first.single_action_space
        super().__init__(len(names), *spaces, getattr(first.unwrapped, "masks_actions", False))
        self._parts = list(parts.values())
        self._streams = [np.flatnonzero(np.asarray(names) == name) for name in parts]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream; ``seed`` is an int for every part, or one a stream, or None."""
        by_stream = None if seed is None or isinstance(seed, int | np.integer) else np.asarray(seed)
        observations, infos = [], []
        for part, streams in zip(self._parts, self._streams, strict=True):
            own = seed if by_stream is None else by_stream[streams].tolist()
            observation, info = part.reset(seed=own, options=options)
            observations.append(observation)
            infos.append(info)
        return self._join(observations), self._join_infos(infos)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        results = [part.step(actions[streams]) for part, streams in zip(self._parts, self._streams, strict=True)]
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        arrays = (self._join(rows) for rows in (observations, rewards, terminated, truncated))
        return (*arrays, self._join_infos(infos))  # type: ignore[return-value]

    def close_extras(self, **kwargs: Any) -> None:
        for part in self._parts:
            part.close()

    def _join(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """One array [N, ...] of those of the parts."""
        whole = np.empty((self.num_envs, *rows[0].shape[1:]), dtype=rows[0].dtype)
        for streams, own in zip(self._streams, rows, strict=True):
            whole[streams] = own
        return whole

    def _join_infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        signals = [Signals.of(info) for info in infos]
        return Signals.join(zip(self._streams, signals, strict=True), self.num_envs).info()


def _shown(env: VectorEnv) -> tuple[Any, ...]:
    observation: Any = env.single_observation_space
    masks = getattr(env.unwrapped, "masks_actions", False)
    return observation.shape, observation.dtype, env.single_action_space, masks


def _words(env: VectorEnv) -> str:
    shape, dtype, actions, masks = _shown(env)
    return f"{dtype} {list(shape)} and {actions_text(actions)} actions{' with masks' if masks else ''}"
