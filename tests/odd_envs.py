"""Small Gymnasium environments with a slip each, as users write them: `gym/tests.odd_envs:OddInfos-v0`, …

Without one they show the number of the step in three numbers, pay 1 a step and end after ten.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Plain(gymnasium.Env):
    """No slip."""

    observation_space = Box(-1, 99, (3,), np.float32)
    action_space = Discrete(2)
    length = 10

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.full(3, self.steps, np.float32), 1.0, self.steps >= self.length, False, {}


class OddInfos(Plain):
    """Entries that are named as signals are, and such as no array can hold; three to eight steps, the last pays 1."""

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        observation, _ = super().reset(**keywords)
        self.length = int(self.np_random.integers(3, 9))
        return observation, self._info()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, _ = super().step(action)
        return observation, float(terminated), terminated, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        here = self.np_random.random() < 0.5
        return {
            **dict.fromkeys(("game_over", "engine_failed", "instruction", "r2ac", "final_obs"), here),
            "ragged": np.zeros(self.np_random.integers(5), dtype=object if here else float),
            "nested": {"ragged": np.zeros((2, self.np_random.integers(5)))},
            3: None,
        }


for each in (OddInfos,):
    gymnasium.register(f"{each.__name__}-v0", entry_point=each)
