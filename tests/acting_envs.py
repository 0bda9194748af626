"""Environments with actions of every kind, which refuse what their spaces and masks do not allow."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space


class Acting(gymnasium.Env):
    """Shows two random numbers; pays the sum of the action's numbers; ends after six steps."""

    action_space: Space
    observation_space: Space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is no action")
        self.steps += 1
        return self._see(), float(np.sum(action)), self.steps == 6, False, {}

    def _see(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


class Steering(Acting):
    """A Box of two axes and of float64; a bound of .1 is less than its float32."""

    action_space = Box(np.array([[-1.0, 0.0, -np.inf]]), np.array([[1.0, 0.1, np.inf]]), dtype=np.float64)


class Wheel(Acting):
    action_space = Box(-2, 4, (1,), np.float32)


class Gamepad(Acting):
    action_space = MultiDiscrete([[3, 2]], start=[[1, 5]])


class Masked(Acting):
    """Allows some of four actions, and in its last observation none."""

    action_space = Discrete(4, start=3)
    observation_space = Dict({"seen": Box(-1, 1, (2,), np.float32), "action_mask": Box(0, 1, (4,), np.int8)})
    none_after = 6
    """The steps of an episode after which nothing is allowed."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.allowed[int(action) - 3]:
            raise ValueError(f"{action} is masked")
        return super().step(action)

    def _see(self) -> Any:
        self.allowed = np.zeros(4, np.int8)
        if self.steps < self.none_after:
            self.allowed[self.np_random.choice(4, size=self.np_random.integers(1, 4), replace=False)] = 1
        return {"seen": super()._see(), "action_mask": self.allowed}


class Barred(Masked):
    """Allows nothing after three steps."""

    none_after = 3


class _TwoParts(Acting):
    """Allows two of three and one of two choices."""

    action_space = MultiDiscrete([3, 2])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        first, second = np.ravel(action) - np.ravel(self.action_space.start)  # type: ignore[attr-defined]
        if not (self.allowed[first] and self.allowed[3 + second]):
            raise ValueError(f"{action} is masked")
        return super().step(action)

    def _see(self) -> Any:
        self.allowed = np.ones(5, bool)
        self.allowed[self.np_random.integers(3)] = self.allowed[3 + self.np_random.integers(2)] = False
        return super()._see()


class MaskedGamepad(_TwoParts):
    """The mask by a method, the parts one after another."""

    def action_masks(self) -> np.ndarray:
        return self.allowed


class MaskedRows(MaskedGamepad):
    """Beside other observations, whose order is not that of the alphabet."""

    action_space = MultiDiscrete([[3, 2]], start=[[1, 5]])
    observation_space = Dict(
        seen=Box(-1, 1, (2,), np.float32), choice=Discrete(3), action_mask=Box(0, 1, (5,), np.int8)
    )

    def _see(self) -> Any:
        seen = super()._see()
        return {"seen": seen, "choice": 1, "action_mask": self.allowed.astype(np.int8)}


class TellingInfo(_TwoParts):
    """The mask in the info, as a tuple."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, _ = super().reset(seed=seed)
        return observation, self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        return {"action_mask": (self.allowed[:3].astype(np.int8), self.allowed[3:].astype(np.int8))}


for kind in (Steering, Wheel, Gamepad, Masked, Barred, MaskedGamepad, MaskedRows, TellingInfo):
    gymnasium.register(f"acting/{kind.__name__}-v0", entry_point=kind)
