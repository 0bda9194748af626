"""The suite `minigrid`: the memory mazes of MiniGrid (Chevalier-Boisvert et al. 2023).

`minigrid/MemoryS13` is MiniGrid's id `MiniGrid-MemoryS13-v0`: S is the width of the maze, and with `Random` each
episode has a corridor of its own length. MiniGrid's dictionary becomes a float32 vector: for each of the 7 x 7 fields
in view one-hot its object (11), colour (6) and state (3), then one-hot the direction (4). The mission is always the
same here and left out. All 7 actions of MiniGrid.

Reward: 1 - 0.9 n / (5 S^2) for reaching the right object in step n, 0 for the wrong one; both terminate. An episode is
truncated after 5 S^2 steps. Best, a bound: with the object known from the start it takes, from place x of a corridor
that ends at place E, E + 3 - x steps; x is uniform in 1 ... E, E is S - 3 (uniform in 4 ... S - 3 with `Random`), so
that the mean is (E + 5) / 2. Chance: the same path to a random end, half of that; a random walk has less.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from r2ac.envs.action_spaces import OneDiscreteAction
from r2ac.envs.single import single_streams
from r2ac.envs.suite import ReferenceScores, Spaces, Suite, SuiteOptions

_TASKS = ("MemoryS7", "MemoryS9", "MemoryS11", "MemoryS13", "MemoryS13Random", "MemoryS17Random")
_CODES = (11, 6, 3)
"""MiniGrid's numbers of objects, colours and states."""
_VIEW = 7
_TILE = 8


@dataclass(frozen=True)
class MinigridOptions(SuiteOptions):
    """Options of the MiniGrid mazes."""

    pixels: bool = False
    """Show the view as an image, uint8 [3,56,56], in place of a vector; it takes the encoder impala."""


class CodesAsVector(gymnasium.ObservationWrapper):
    """MiniGrid's dictionary as float32 [7 * 7 * 20 + 4], see the module."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._one_hot = [np.eye(size, dtype=np.float32) for size in (*_CODES, 4)]
        self.observation_space = Box(0.0, 1.0, (_VIEW * _VIEW * sum(_CODES) + 4,), np.float32)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        *codes, direction = self._one_hot
        image = observation["image"]
        fields = np.concatenate([code[image[..., i]] for i, code in enumerate(codes)], axis=-1)
        return np.concatenate([fields.ravel(), direction[observation["direction"]]])


class ViewAsPixels(gymnasium.ObservationWrapper):
    """What the agent sees, drawn by MiniGrid: uint8 [3,56,56]."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = Box(0, 255, (3, _VIEW * _TILE, _VIEW * _TILE), np.uint8)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        engine: Any = self.unwrapped
        return np.moveaxis(engine.get_frame(tile_size=_TILE, agent_pov=True), 2, 0)


def _load() -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on standard output when it is imported
    importlib.import_module("minigrid")  # registers the ids


def _make_one(name: str, options: MinigridOptions) -> gymnasium.Env:
    _load()
    env = OneDiscreteAction(gymnasium.make(f"MiniGrid-{name}-v0", disable_env_checker=True))
    return ViewAsPixels(env) if options.pixels else CodesAsVector(env)


def _spaces(name: str, options: MinigridOptions) -> Spaces:
    if options.pixels:
        return Spaces((3, _VIEW * _TILE, _VIEW * _TILE), "uint8", 7)
    return Spaces((_VIEW * _VIEW * sum(_CODES) + 4,), "float32", 7)


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
    make=single_streams(_make_one),
    reference_scores=_reference_scores,
    spaces=_spaces,
)
