"""ProcGen's engine as a Gymnasium vector environment."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from r2ac.envs.signals import StreamsVector

# Steps after which the engine ends an episode (from the games' sources); 1000 in the others.
_TIME_OUT = {"bigfish": 6000, "bossfight": 4000, "leaper": 500, "maze": 500, "plunder": 4000}


class ProcgenVector(StreamsVector):
    """`num_envs` streams of one ProcGen game, stepped together by the engine; autoreset SAME_STEP.

    Observations are uint8 [N,3,64,64] (a view of the engine's [N,64,64,3]), rewards float32 [N]; 15 actions. The engine
    never shows the last frame of an episode and does not tell a time-out from an end in the game: an episode that ends
    in the step of the game's time-out without its level being completed is truncated, every other one terminated.

    seed: non-negative int32; each stream draws its levels from a generator of its own.
    mode: one that the game has: with any other the engine ends the process.
    levels: (first level, number of levels); None in exploration mode, which has one level.
    threads: 0 for one a core.
    """

    def __init__(
        self, game: str, num_envs: int, seed: int, *, mode: str, levels: tuple[int, int] | None, threads: int = 0
    ) -> None:
        super().__init__(num_envs, Box(0, 255, (3, 64, 64), np.uint8), actions=15)
        threads = min(num_envs, threads or len(os.sched_getaffinity(0)))
        self._settings: dict[str, Any] = {
            "num": num_envs,
            "env_name": game,
            "distribution_mode": mode,
            # One thread is the caller's own: to hand all steps to a single other one costs a quarter of the speed.
            "num_threads": threads if threads > 1 else 0,
        }
        if levels is not None:
            self._settings["start_level"], self._settings["num_levels"] = levels
        self._time_out = 2000 if (game, mode) == ("jumper", "memory") else _TIME_OUT.get(game, 1000)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._fresh = True
        self._start(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begins a new episode in every stream, or in those of `options["reset_mask"]` (bool [N]), whose rows alone
        mean something then; with a seed (non-negative int32), in a new engine."""
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        if seed is not None:
            self._engine.close()
            self._start(seed)
        elif not self._fresh:
            before = self._engine.get_state() if not mask.all() else []
            self._engine.act(np.full(self.num_envs, -1))  # the engine's way to ask for a new episode
            if before:
                # It steps all streams or none: the others go back to where they were.
                after = self._engine.get_state()
                self._engine.set_state([after[i] if mask[i] else before[i] for i in range(self.num_envs)])
        self._fresh = False
        self._elapsed[mask] = 0
        _, observation, _ = self._engine.observe()
        return np.moveaxis(observation["rgb"], 3, 1), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._fresh = False
        self._engine.act(actions)
        reward, observation, ended = self._engine.observe()
        self._elapsed += 1
        truncated = ended & (self._elapsed >= self._time_out)
        if truncated.any():
            truncated &= ~np.array([bool(info["prev_level_complete"]) for info in self._engine.get_info()])
        self._elapsed[ended] = 0
        return np.moveaxis(observation["rgb"], 3, 1), reward, ended & ~truncated, truncated, {}

    def level_seeds(self) -> np.ndarray:
        """The number of the level that each stream now plays, int64 [N]."""
        return np.array([int(info["level_seed"]) for info in self._engine.get_info()])

    def close_extras(self, **kwargs: Any) -> None:
        self._engine.close()

    def _start(self, seed: int) -> None:
        self._engine = load_engine()(rand_seed=seed, **self._settings)
        self._fresh = True


def load_engine() -> Any:
    """The engine's class; imports the engine."""
    with nullcontext() if "procgen" in sys.modules else _gym_stand_in():
        return importlib.import_module("procgen").ProcgenGym3Env


@contextmanager
def _gym_stand_in() -> Iterator[None]:
    """Lets `import procgen` pass without the old `gym`, where it only registers its names; the folder that the import
    appends to `sys.path` is removed."""
    names = ("gym", "gym.envs", "gym.envs.registration")
    stand_ins = {name: ModuleType(name) for name in names}
    stand_ins["gym.envs.registration"].register = lambda **kwargs: None  # type: ignore[attr-defined]
    modules_before = {name: sys.modules.get(name) for name in names}
    path_before = list(sys.path)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        sys.path[:] = path_before
        for name, module in modules_before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
