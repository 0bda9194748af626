"""The suite `minigrid`: the memory mazes of MiniGrid (Chevalier-Boisvert et al. 2023).

`minigrid/MemoryS13` is MiniGrid's id `MiniGrid-MemoryS13-v0`: S is the width of the maze, and with `Random` each
episode has a corridor of its own length. MiniGrid's dictionary becomes a float32 vector: for each of the 7 x 7 fields
in view one-hot its object (11), colour (6) and state (3), then one-hot the direction (4). The mission is always the
same here and left out. All 7 actions of MiniGrid. EnvPool's engine plays the same mazes, drawn by other generators.

Reward: 1 - 0.9 n / (5 S^2) for reaching the right object in step n, 0 for the wrong one; both terminate. An episode is
truncated after 5 S^2 steps. Best, a bound: with the object known from the start it takes, from place x of a corridor
that ends at place E, E + 3 - x steps; x is uniform in 1 ... E, E is S - 3 (uniform in 4 ... S - 3 with `Random`), so
that the mean is (E + 5) / 2. Chance: the same path to a random end, half of that; a random walk has less.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from r2ac.envs.envpool_vector import EnvPoolVector
from r2ac.envs.seeding import engine_seeds
from r2ac.envs.single import SingleVector
from r2ac.envs.suite import (
    InvalidOption,
    MissingPackage,
    ReferenceScores,
    Spaces,
    Split,
    Suite,
    SuiteOptions,
    missing_modules,
)

_TASKS = ("MemoryS7", "MemoryS9", "MemoryS11", "MemoryS13", "MemoryS13Random", "MemoryS17Random")
_CODES = (11, 6, 3)
"""MiniGrid's numbers of objects, colours and states."""
_VIEW = 7
_TILE = 8
_SIZE = _VIEW * _VIEW * sum(_CODES) + 4
_FIRST_PLACES = np.append(sum(_CODES) * np.arange(_VIEW * _VIEW)[:, None] + [0, *np.cumsum(_CODES)[:-1]], _SIZE - 4)
"""Where in a vector each of the 7 * 7 * 3 codes begins, and the direction."""


@dataclass(frozen=True)
class MinigridOptions(SuiteOptions):
    """Options of the MiniGrid mazes."""

    pixels: bool = False
    """Show the view as an image, uint8 [3,56,56], in place of a vector; it takes the encoder impala."""
    engine: Literal["minigrid", "envpool"] = "minigrid"
    """The engine that plays: MiniGrid itself or EnvPool, which draws other mazes of the same kind for a seed and has no
    pixels."""


def one_hot(codes: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """MiniGrid's dictionaries as vectors float32 [N,984], see the module.

    codes: the entry `image`, uint8 [N,7,7,3]; directions: the entry `direction`, int [N].
    """
    hot = np.zeros((len(codes), _SIZE), dtype=np.float32)
    places = np.concatenate([codes.reshape(len(codes), -1), directions[:, None]], axis=1) + _FIRST_PLACES
    np.put_along_axis(hot, places, 1, axis=1)
    return hot


class Maze(gymnasium.Wrapper):
    """A maze of MiniGrid that draws each view once: nothing moves there but the agent (`pickup` toggles, and there is
    nothing to toggle), so that what it sees follows from the maze, its place and its direction.

    engine: MiniGrid's own; it no longer makes observations.
    views: those drawn so far, by maze and by place and direction; mazes of one size may share them.
    """

    def __init__(self, engine: Any, views: dict[Any, dict[Any, np.ndarray]], options: MinigridOptions) -> None:
        super().__init__(engine)
        self._engine, self._views, self._pixels = engine, views, options.pixels
        self._see, engine.gen_obs = engine.gen_obs, lambda: None
        self.observation_space = _space(options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = self._engine.reset(seed=seed, options=options)
        # Objects of a kind have one colour here.
        self._views_here = self._views.setdefault(tuple(map(type, self._engine.grid.grid)), {})
        return self._view(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self._engine.step(int(action))
        return self._view(), reward, terminated, truncated, info

    def _view(self) -> np.ndarray:
        place = (*self._engine.agent_pos, self._engine.agent_dir)
        view = self._views_here.get(place)
        if view is None:
            view = self._views_here[place] = self._draw()
        return view

    def _draw(self) -> np.ndarray:
        if self._pixels:
            return np.moveaxis(self._engine.get_frame(tile_size=_TILE, agent_pov=True), 2, 0)
        seen = self._see()
        return one_hot(seen["image"][None], np.array([seen["direction"]]))[0]


def _load() -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on standard output when it is imported
    importlib.import_module("minigrid")  # registers the ids


def _check(name: str, options: MinigridOptions) -> None:
    if options.pixels and options.engine == "envpool":
        raise InvalidOption("pixels is True, but with engine 'envpool' it must be False: MiniGrid draws them")


def _check_here(name: str, options: MinigridOptions) -> None:
    if options.engine == "envpool" and missing_modules("envpool"):
        raise MissingPackage(
            "minigrid with engine 'envpool' needs envpool, not installed here: pip install 'r2ac[envpool]'"
        )


def _make(name: str, num_envs: int, seed: int, split: Split, options: MinigridOptions) -> VectorEnv:
    _check_here(name, options)
    task, seeds = f"MiniGrid-{name}-v0", engine_seeds(seed, split, num_envs)
    if options.engine == "envpool":
        return EnvPoolVector(task, seeds, _space(options), lambda seen: one_hot(seen["image"], seen["direction"]))
    _load()
    views: dict[Any, dict[Any, np.ndarray]] = {}
    return SingleVector(lambda: Maze(gymnasium.make(task, disable_env_checker=True).unwrapped, views, options), seeds)


def _space(options: MinigridOptions) -> Box:
    if options.pixels:
        return Box(0, 255, (3, _VIEW * _TILE, _VIEW * _TILE), np.uint8)
    return Box(0.0, 1.0, (_SIZE,), np.float32)


def _spaces(name: str, options: MinigridOptions) -> Spaces:
    space = _space(options)
    return Spaces(space.shape, str(space.dtype), 7)


def _reference_scores(name: str, options: MinigridOptions) -> ReferenceScores:
    size = int(name.removeprefix("MemoryS").removesuffix("Random"))
    corridor_end = (4 + size - 3) / 2 if name.endswith("Random") else size - 3
    best = 1 - 0.9 * (corridor_end + 5) / 2 / (5 * size**2)
    return ReferenceScores(best / 2, best, "chance", "best")


SUITE = Suite(
    name="minigrid",
    summary="mazes whose fork asks for the object at their start (MiniGrid)",
    options=MinigridOptions,
    list_tasks=lambda: _TASKS,
    modules=("minigrid",),
    remedy="pip install 'r2ac[minigrid]'",
    load=_load,
    check=_check,
    check_here=_check_here,
    make=_make,
    reference_scores=_reference_scores,
    spaces=_spaces,
)
