"""What the actions of a task mean, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import VectorEnv

from r2ac.envs.action_spaces import first_action
from r2ac.launch.watching.pictures import action_text

_MOVES = ("up", "down", "left", "right")
# As the docstrings of the tasks number them; answers that are symbols have no other name than their number.
_MEMORY = {
    "tmaze": ("up", "down"),
    "chain": ("left", "right"),
    "parity": ("even", "odd"),
    "match_to_sample": ("left", "right"),
    "key_to_door": _MOVES,
    "passive_tmaze": ("right", "up", "left", "down"),
    "active_tmaze": ("right", "up", "left", "down"),
    "endless_tmaze": ("forward", "left", "right"),
}
_MINIGRID = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
_PROCGEN = (
    *("left down", "left", "left up", "down", "nothing", "up", "right down", "right", "right up"),
    *("key D", "key A", "key W", "key S", "key Q", "key E"),
)
_DMLAB_MOVES = ("forward", "back", "strafe left", "strafe right")
_DMLAB = {
    9: (*_DMLAB_MOVES, "look left", "look right", "forward + left", "forward + right", "fire"),
    15: (
        *_DMLAB_MOVES,
        *("look left 10", "look right 10", "look left 60", "look right 60", "look down", "look up"),
        *("forward + left 10", "forward + right 10", "forward + left 60", "forward + right 60", "fire"),
    ),
}


def action_names(task: str, env: VectorEnv) -> tuple[str, ...]:
    """The name of every action: its meaning where the suite or the engine knows it, else its number; of an action of
    several parts, the name of every choice of each part, or of each part that is continuous. ``env`` is the task's
    environment, as `make_vector` makes it."""
    space, first = env.single_action_space, first_of(env)
    if isinstance(space, MultiDiscrete):
        starts = np.broadcast_to(first, space.nvec.shape)
        parts = enumerate(zip(starts, space.nvec, strict=True))
        return tuple(f"{part}: {start + choice}" for part, (start, size) in parts for choice in range(size))
    if isinstance(space, Box):
        return tuple(f"action {part}" for part in range(space.shape[0]))
    number = int(space.n)  # type: ignore[attr-defined]
    suite, _, name = task.partition("/")
    names = _known(suite, name, number, env.unwrapped)
    return names if len(names) == number else tuple(str(first + choice) for choice in range(number))


def first_of(env: VectorEnv) -> np.ndarray | np.int64:
    """The :func:`first_action` of the environments of a vector, 0 where it has none that step alone."""
    return first_action(next(iter(getattr(env.unwrapped, "envs", ())), None))


def taken_text(names: Sequence[str], chosen: np.ndarray, action: np.ndarray) -> str:
    """An action by the names of what was chosen, int64 [K], or by its numbers where it is continuous."""
    return ", ".join(names[i] for i in chosen) if len(chosen) else action_text(action)


def _known(suite: str, name: str, number: int, engine: Any) -> tuple[str, ...]:
    if suite == "atari":
        return tuple(action.name.lower() for action in engine.ale.get_action_set())
    if suite == "minigrid":
        return _MINIGRID
    if suite == "gym":
        meanings = getattr(engine.envs[0].unwrapped, "get_action_meanings", None)
        return tuple(str(meaning).lower() for meaning in meanings()) if meanings else ()
    if suite == "procgen":
        return _PROCGEN
    return _DMLAB.get(number, ()) if suite == "dmlab" else _MEMORY.get(name, ()) if suite == "memory" else ()
