"""Small Gymnasium environments with a slip each, as users write them: `gym/tests.odd_envs:OddInfos-v0`, …

Without one they show the number of the step in three numbers, pay 1 a step and end after ten.
"""

import random
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


class Endless(Plain):
    """Does not say whether an episode has ended."""

    def step(self, action: Any) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, None, truncated, info


class OldReset(Plain):
    """Resets as environments of old Gym did."""

    def reset(self, **keywords: Any) -> Any:
        return super().reset(**keywords)[0]


class Misshapen(Plain):
    """Shows one number too many after an action; as an image, fractions."""

    def __init__(self, image: bool = False) -> None:
        if image:
            self.observation_space = Box(0, 255, (4, 4), np.uint8)

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**keywords)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        shape = self.observation_space.shape
        return np.full(shape if len(shape) == 2 else (4,), 0.5), *super().step(action)[1:]


class Buffer(gymnasium.Env):
    """Six steps; shows 10 times the number of the step as brightness, all environments in one and the same array."""

    observation_space = Box(0, 255, (4, 4, 3), np.uint8)
    action_space = Discrete(2)
    image = np.zeros((4, 4, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._show(), 0.0, self.steps >= 6, False, {}

    def _show(self) -> np.ndarray:
        self.image[:] = 10 * self.steps
        return self.image


class VectorBuffer(Buffer):
    """The same as a vector."""

    observation_space = Box(0, 255, (3,), np.float32)
    image = np.zeros(3, np.float32)  # type: ignore[assignment]


class NotFinite(Plain):
    """In the third step the observation or the reward is `value`; with `at_end`, in the last one."""

    def __init__(self, value: float, pays: bool = False, at_end: bool = False) -> None:
        self.value, self.pays, self.at = value, pays, self.length if at_end else 3

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        if self.steps == self.at and self.pays:
            reward = self.value
        elif self.steps == self.at:
            observation[1] = self.value
        return observation, reward, *rest


class BeginsWithNan(Plain):
    """Shows it in the first observation."""

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**keywords)
        return np.nan * observation, info


class Lottery(Plain):
    """Draws from Python's and numpy's global generators and from its spaces, as soon as it is made; four steps."""

    length = 4

    def __init__(self) -> None:
        self.observation_space, self.action_space = Box(0, 1, (4,), np.float32), Discrete(2)
        self.luck = random.random()

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**keywords)
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        _, _, *rest = super().step(action)
        return self._draw(), float(self.action_space.sample() == action), *rest

    def _draw(self) -> np.ndarray:
        sample = self.observation_space.sample()[0]
        return np.array([self.luck, random.random(), np.random.random(), sample], np.float32)


for kind in (Plain, OddInfos, Buffer, VectorBuffer, BeginsWithNan, Lottery):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind)
for name, arguments in {
    "NanObservation": {"value": np.nan},
    "InfObservation": {"value": -np.inf},
    "NanReward": {"value": np.nan, "pays": True},
    "InfReward": {"value": np.inf, "pays": True},
    "HugeReward": {"value": 1e39, "pays": True},
    "NanAtEnd": {"value": np.nan, "at_end": True},
}.items():
    gymnasium.register(f"{name}-v0", entry_point=NotFinite, kwargs=arguments)
gymnasium.register("Endless-v0", entry_point=Endless)
gymnasium.register("OldReset-v0", entry_point=OldReset)
gymnasium.register("Misshapen-v0", entry_point=Misshapen)
gymnasium.register("Fractions-v0", entry_point=Misshapen, kwargs={"image": True})
gymnasium.register("NanAtLimit-v0", entry_point=NotFinite, kwargs={"value": np.nan}, max_episode_steps=3)
