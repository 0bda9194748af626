"""Numbers of an engine or a user's environment are checked where they come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from r2ac.envs.signals import Signals
from r2ac.envs.suite import EnvironmentFailed

_LARGEST = np.finfo(np.float32).max


class CheckedVector(VectorWrapper):
    """Raises EnvironmentFailed for an observation or a reward that is not a finite number in float32.

    tasks: full name of the task of each stream.
    first_stream: the number of the first stream.
    """

    def __init__(self, env: VectorEnv, tasks: Sequence[str], first_stream: int) -> None:
        super().__init__(env)
        self._tasks, self._first_stream = tasks, first_stream
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        """What an engine has beyond Gymnasium's interface, such as `engine_restarts`."""
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._check("shows", observation)
        return observation, info

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._steps += 1
        observation, reward, terminated, truncated, info = self.env.step(actions)
        self._check("pays", reward)
        self._check("shows", observation)
        if (final := Signals.of(info).final_observation) is not None:
            self._check("shows", final, truncated)
        return observation, reward, terminated, truncated, info

    def _check(self, does: str, numbers: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Checks numbers [N,...], or some of their rows."""
        if numbers.dtype == np.uint8:
            return
        # False for NaN too.
        right = np.abs(numbers) <= _LARGEST
        if rows is not None:
            right[~rows] = True
        if right.all():
            return
        where = np.argwhere(~right)[0]
        stream = int(where[0])
        raise EnvironmentFailed(
            f"{self._tasks[stream]} {does} {numbers[tuple(where)]} in step {self._steps} of stream "
            f"{self._first_stream + stream}: observations and rewards must be finite numbers"
        )
