"""ProcGen's engine as a Gymnasium vector environment, out of the package that has it for the Python that runs."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from r2ac.envs.signals import StreamsVector

# Steps after which the engine ends an episode (from the games' sources); 1000 in the others.
_TIME_OUT = {"bigfish": 6000, "bossfight": 4000, "leaper": 500, "maze": 500, "plunder": 4000}


def time_out(game: str, mode: str) -> int:
    """Steps after which the engine ends an episode."""
    return 2000 if (game, mode) == ("jumper", "memory") else _TIME_OUT.get(game, 1000)


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
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = min(num_envs, threads or cores)
        self._settings: dict[str, Any] = {
            "num": num_envs,
            "env_name": game,
            "distribution_mode": mode,
            # One thread is the caller's own: to hand all steps to a single other one costs a quarter of the speed.
            "num_threads": threads if threads > 1 else 0,
        }
        if levels is not None:
            self._settings["start_level"], self._settings["num_levels"] = levels
        self._time_out = time_out(game, mode)
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
        self._engine = PACKAGE.load()(rand_seed=seed, **self._settings)
        self._fresh = True


class _GymEngine:
    """procgen-gym's engine, called as that of procgen-mirror."""

    def __init__(self, num: int, **settings: Any) -> None:
        self._env = importlib.import_module("procgen_gym").ProcgenVecEnv(num_envs=num, **settings)
        observation, self._info = self._env.reset()
        self._seen = np.zeros(num, dtype=np.float32), {"rgb": observation}, np.ones(num, dtype=bool)

    def act(self, actions: np.ndarray) -> None:
        observation, reward, first, _, self._info = self._env.step(actions)
        self._seen = reward, {"rgb": observation}, first

    def observe(self) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        return self._seen

    def get_info(self) -> list[dict[str, Any]]:
        return [{name: column[i] for name, column in self._info.items()} for i in range(self._env.num_envs)]

    def get_state(self) -> list[bytes]:
        return self._env.get_state()

    def set_state(self, states: Sequence[bytes]) -> None:
        self._env.set_state(states)
        reward, _, first = self._seen
        observation, self._info = self._env.reset()  # it begins nothing: it reads what is there
        self._seen = reward, {"rgb": observation}, first

    def close(self) -> None:
        self._env.close()


def _load_mirror() -> Any:
    with nullcontext() if "procgen" in sys.modules else _gym_stand_in():
        return importlib.import_module("procgen").ProcgenGym3Env


def _load_gym() -> Any:
    importlib.import_module("procgen_gym")
    return _GymEngine


def _load_envpool() -> Any:
    # EnvPool's ProcGen is linked to Qt 5 and does not bring it.
    folder = next(iter(getattr(find_spec("PyQt5"), "submodule_search_locations", None) or [""]))
    for name in ("libQt5Core.so.5", "libQt5Gui.so.5"):
        try:
            ctypes.CDLL(str(Path(folder, "Qt5", "lib", name)))
        except OSError as error:  # a library of the system is missing
            raise ImportError(str(error)) from error
    return importlib.import_module("envpool").make_gymnasium


@dataclass(frozen=True)
class Package:
    """Where the engine is."""

    modules: tuple[str, ...]
    """Top-level modules that it needs."""
    remedy: str
    """What to install."""
    load: Callable[[], Any]
    """Imports the engine; what makes one."""


_MIRROR = Package(
    ("procgen", "gym3", "cffi", "glfw", "imageio"),
    "pip install cffi glfw imageio && pip install --no-deps procgen-mirror==0.10.7 gym3==0.3.3",
    _load_mirror,
)
_GYM = Package(("procgen_gym",), "pip install procgen-gym==0.1.1", _load_gym)
ENVPOOL = Package(
    ("envpool", "PyQt5"),
    "pip install 'envpool>=1.2.5,<1.3' PyQt5-Qt5, and on Debian apt install libgl1 libegl1 libopengl0 libglib2.0-0t64",
    _load_envpool,
)
"""Played as `EnvPoolVector`."""

PACKAGES = {(3, 11): _MIRROR, (3, 12): _MIRROR, (3, 13): _GYM}
"""By the version of Python, as there are wheels; EnvPool for later ones. All have the games of Cobbe et al. 2020, and
for a level the same."""

PACKAGE = PACKAGES.get(sys.version_info[:2], ENVPOOL)
"""That of this Python."""


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
