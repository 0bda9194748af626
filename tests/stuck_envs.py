"""Environments that do not end, or do not come back, as users could write them: gym/tests.stuck_envs:<Name>-v0."""

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


class Forever(gymnasium.Env):
    """Shows the step's number and never ends."""

    observation_space = gymnasium.spaces.Box(0, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, False, False, {}


class Uneven(Forever):
    """Ends by itself after 1 to 9 steps."""

    def reset(self, **keywords: Any) -> tuple[np.ndarray, dict]:
        first = super().reset(**keywords)
        self.length = int(self.np_random.integers(1, 10))
        return first

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, _, *rest = super().step(action)
        return observation, reward, self.t == self.length, *rest


class Stuck(Uneven):
    """A step that does not come back, once for each line of the file that STUCK_TIMES names; STUCK_AFTER steps of the
    environment come before (0 if not set). Without a file no step comes back."""

    steps = 0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self.steps > int(os.environ.get("STUCK_AFTER", "0")) and self._may_get_stuck():
            time.sleep(1e6)
        return super().step(action)

    def _may_get_stuck(self) -> bool:
        times = os.environ.get("STUCK_TIMES")
        if times is None:
            return True
        lines = Path(times).read_text().splitlines()
        if lines:
            Path(times).write_text("".join(f"{line}\n" for line in lines[1:]))
        return bool(lines)


class Broken(Forever):
    """Can be made, but never begins an episode; adds a line to the file STARTS for each try."""

    def reset(self, **keywords: Any) -> tuple[np.ndarray, dict]:
        with open(os.environ["STARTS"], "a") as starts:
            starts.write("tried\n")
        raise ValueError("no map for this level")


for each in (Broken, Forever, Uneven, Stuck):
    gymnasium.register(f"{each.__name__}-v0", entry_point=f"tests.stuck_envs:{each.__name__}")
