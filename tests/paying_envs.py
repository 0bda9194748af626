"""Small Gymnasium environments whose rewards are large, or whose time limits are no ends: `gym/tests.paying_envs:…`.

All show the number of the step in two numbers, and have two actions.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Steps(gymnasium.Env):
    """Each step pays 1, and none is the last."""

    observation_space = Box(0, 99, (2,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._shown(), 1.0, False, False, {}

    def _shown(self) -> np.ndarray:
        return np.full(2, self.steps, np.float32)


class Prices(Steps):
    """Action 1 in the first step pays 100 and ends the episode; all else pays 1, five times."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        shown, *_ = super().step(action)
        big = self.steps == 1 and int(action) == 1
        return shown, 100.0 if big else 1.0, big or self.steps == 5, False, {}


class Growing(Steps):
    """Pays 50 times the number of the step; action 1 in an even step ends the episode."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        shown, *_ = super().step(action)
        return shown, 50.0 * self.steps, self.steps % 2 == 0 and int(action) == 1, False, {}


gymnasium.register("Prices-v0", entry_point=Prices)
gymnasium.register("Limited-v0", entry_point=Steps, max_episode_steps=5)
gymnasium.register("Growing-v0", entry_point=Growing, max_episode_steps=4)
