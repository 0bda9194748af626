"""Small environments that users could have written, each with one slip that ends it.

They are gym/tests.failing_envs:<Name>-v0.
"""

import os
import sys
from typing import Any

import gymnasium
import numpy as np


class Base(gymnasium.Env):
    """Ten steps of reward 1; slips in step 50."""

    observation_space = gymnasium.spaces.Box(-1, 99, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> tuple[Any, ...]:
        self.steps += 1
        if self.steps == 50:
            self.slip()
        return np.zeros(3, np.float32), 1.0, self.steps % 10 == 0, False, {}

    def slip(self) -> None:
        """What is wrong with it."""


class Raises(Base):
    def slip(self) -> None:
        raise ValueError("physics exploded")


class Quits(Base):
    def slip(self) -> None:
        sys.exit()


class Leaves(Base):
    def slip(self) -> None:
        os._exit(0)


class Interrupts(Base):
    def slip(self) -> None:
        raise KeyboardInterrupt


class NoConstructor(Base):
    def __init__(self) -> None:
        raise RuntimeError("no level file")


class WrongTypes(Base):
    def __init__(self) -> None:
        self.size = self.metadata + 1  # type: ignore[operator]


class FourValues(Base):
    def step(self, action: int) -> tuple[Any, ...]:
        observation, reward, done, *_ = super().step(action)
        return observation, reward, done, {}


class OnlyObservation(Base):
    def reset(self, **keywords: Any) -> Any:
        return super().reset(**keywords)[0]


class WrongShape(Base):
    def step(self, action: int) -> tuple[Any, ...]:
        return np.zeros(4, np.float32), *super().step(action)[1:]


class WordReward(Base):
    def step(self, action: int) -> tuple[Any, ...]:
        observation, _, *rest = super().step(action)
        return observation, "1", *rest


class ArrayReward(Base):
    def step(self, action: int) -> tuple[Any, ...]:
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward]), *rest


class CloseRaises(Base):
    def close(self) -> None:
        raise OSError("the window is gone")


for each in Base.__subclasses__():
    gymnasium.register(f"{each.__name__}-v0", entry_point=f"tests.failing_envs:{each.__name__}")
