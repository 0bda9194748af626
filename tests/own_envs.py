"""Small environments as users write them, each of one kind; importing this module registers them as own/<Name>-v0."""

import random
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Text, Tuple


class Walk(gymnasium.Env):
    """Shows samples of a space, pays 1 for action 1, ends after `level` steps."""

    shown: Space = Box(-1, 1, (3,), np.float32)
    taken: Space = Discrete(2)

    def __init__(self, level: int = 4) -> None:
        self.observation_space, self.action_space, self.level = self.shown, self.taken, level

    def _see(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._see(), float(action == 1), self.steps >= self.level, False, {"hint": 3}


class Coin(Walk):
    """Shows nothing that helps to guess a coin, and pays for the right guess."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        gymnasium.Env.reset(self, seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(3, np.float32), float(action == self.np_random.integers(2)), self.steps >= 50, False, {}


class Needy(Walk):
    """Wants an argument."""

    def __init__(self, level: int) -> None:
        super().__init__(level)


class GlobalRandom(Walk):
    """Draws from the generator that all share."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, *rest = super().step(action)
        return np.full(3, random.uniform(-1, 1), np.float32), *rest


class Unseeded(Walk):
    """Does not look at its seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=None)


class Outside(Walk):
    """Shows what its space does not hold."""

    def _see(self) -> Any:
        return np.full(3, 7, np.float32)


class Misfit(Walk):
    """Shows an observation with one flaw, and pays nothing at all."""

    shown = Dict({"place": Box(0, 1, (2,), np.float32), "phase": Tuple((Discrete(3),))})
    flaws: ClassVar[dict[str, Any]] = {
        "dtype": {"place": np.zeros(2), "phase": (1,)},
        "shape": {"place": np.zeros(3, np.float32), "phase": (1,)},
        "high": {"place": np.array([0, 7], np.float32), "phase": (1,)},
        "number": {"place": np.zeros(2, np.float32), "phase": (3,)},
        "array": np.zeros(2, np.float32),
        "keys": {"place": np.zeros(2, np.float32)},
    }

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw

    def _see(self) -> Any:
        return self.flaws[self.flaw]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, None, *rest


class Falls(Walk):
    """Fails in its third step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.steps == 2:
            raise ValueError("the floor is gone")
        return super().step(action)


class Hangs(Walk):
    """No step returns."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        while True:
            time.sleep(1)


class Endless(Walk):
    """Never ends, and pays no number."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *_ = super().step(action)
        return observation, float("nan"), False, False, {}


IMAGE, VECTOR = Box(0, 255, (8, 8, 3), np.uint8), Box(-1, 1, (3,), np.float32)
SPACES: dict[str, tuple[Space, Space]] = {
    "Mixed": (
        Dict({"speed": VECTOR, "pair": Tuple((Discrete(3), MultiBinary(2))), "grid": Box(0, 1, (2, 2))}),
        Discrete(2),
    ),
    "Pair": (Tuple((Discrete(3), VECTOR)), Discrete(2)),
    "OneImage": (Dict({"camera": Tuple((IMAGE,))}), Discrete(2)),
    "ImageAndMore": (Dict({"camera": IMAGE, "speed": VECTOR}), Discrete(2)),
    "Words": (Dict({"speed": VECTOR, "mission": Text(5)}), Discrete(2)),
    "Switches": (VECTOR, MultiBinary(3)),
    "Several": (VECTOR, Tuple((Discrete(2), Box(-1, 1, (1,))))),
    "Integers": (VECTOR, Box(0, 5, (2,), np.int64)),
}
for name, (shown, taken) in SPACES.items():
    kind = type(name, (Walk,), {"shown": shown, "taken": taken})
    gymnasium.register(f"own/{name}-v0", entry_point=kind)
for kind in (Walk, Coin, Needy, GlobalRandom, Unseeded, Outside, Misfit, Falls, Hangs, Endless):
    gymnasium.register(f"own/{kind.__name__}-v0", entry_point=kind)
gymnasium.register("own/Limited-v0", entry_point=Endless, max_episode_steps=5)


class Louder(gymnasium.RewardWrapper):
    """Pays ten times as much."""

    def reward(self, reward: Any) -> float:
        return 10.0 * float(reward)


def deaf(env: gymnasium.Env) -> gymnasium.Env:
    """Shows the first number alone."""
    return gymnasium.wrappers.TransformObservation(env, lambda seen: seen[:1], Box(-1, 1, (1,), np.float32))


def nothing(env: gymnasium.Env) -> None:
    """No wrapper."""
