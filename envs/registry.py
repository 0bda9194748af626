"""Every suite and task by name, and the one function that makes environments."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from gymnasium.vector import VectorEnv

from r2ac.envs import atari, dmlab, gym, memory, minigrid, popgym, procgen
from r2ac.envs.suite import InvalidOption, MissingPackage, Split, Suite, Task, UnknownTask, check_at_least

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        memory.SUITE,
        popgym.SUITE,
        minigrid.SUITE,
        atari.SUITE,
        procgen.SUITE,
        dmlab.SUITE,
        gym.SUITE,
    )
}
"""A new suite is added here."""


def find_task(name: str) -> Task:
    """The task of a full name `suite/task`, spelt exactly; raises UnknownTask with the nearest names."""
    suite_name, _, short_name = name.partition("/")
    suite = SUITES.get(suite_name)
    if suite is not None and short_name in suite.list_tasks():
        return Task(suite, short_name)
    if suite is not None and suite.look_up is not None:
        suite.look_up(short_name)
        return Task(suite, short_name)
    raise UnknownTask(_unknown(name))


def make_vector(task: str, num_envs: int, seed: int, *, split: Split = "train", options: Any = None) -> VectorEnv:
    """`num_envs` streams of a task, stepped together.

    task: full name, such as `atari/Breakout`.
    seed: int >= 0 of any size. One seed gives one sequence of episodes; each stream has its own engine seed.
    split: "train" or "test". The engine seeds (and ProcGen's levels) of the two are disjoint, whatever the base seeds.
    options: the suite's options dataclass, or None for the paper's preset.

    The environment resets itself in the step that ends an episode (SAME_STEP): reward, terminated and truncated belong
    to the step that ended it, the observation beside them is the first of the next episode. Call `reset()` once,
    without a seed. step(actions int64 [N]) gives observations uint8 [N,C,H,W] or float32 [N,K], rewards float [N] as
    the engine pays them (unclipped), terminated and truncated bool [N], and a dict. Arrays are the caller's to keep.
    Where an episode of the agent is a part of a game (atari with episodic_life), `game_over` in the dict, bool [N],
    says which games ended: a return is the sum over a whole game.

    Raises UnknownTask, InvalidOption or MissingPackage.
    """
    found = find_task(task)
    check_at_least("num_envs", num_envs, 1, "streams")
    check_at_least("seed", seed, 0, "of any size")
    if split not in get_args(Split):
        raise InvalidOption(f"split is {split!r}, but it must be one of {', '.join(get_args(Split))}")
    options = found.checked_options(options)
    if (sentence := found.suite.missing()) is not None:
        raise MissingPackage(sentence)
    return found.suite.make(found.short_name, int(num_envs), int(seed), split, options)


def frames_per_step(task: str, options: Any = None) -> int:
    """Engine frames in one agent step of a task (see `make_vector` for the arguments)."""
    return find_task(task).frames_per_step(options)


def _unknown(name: str) -> str:
    """One sentence: the nearest full names, whatever their case, and whether or not the suite is given or right."""
    full_names = [task.name for suite in SUITES.values() for task in suite.tasks]
    by_full = {full.casefold(): full for full in full_names}
    by_short = {full.partition("/")[2].casefold(): full for full in full_names}
    folded = name.casefold()
    short = folded.rpartition("/")[2]
    if exact := by_full.get(folded) or by_short.get(short):
        return f"there is no task {name!r}; the nearest is {exact}"
    if not short and (suite := SUITES.get(folded.rstrip("/"))):
        some = ", ".join(task.name for task in suite.tasks[:3])
        return f"there is no task {name!r}; those of {suite.name} are named such as {some}"
    near = [by_full[match] for match in difflib.get_close_matches(folded, by_full, cutoff=0.75)]
    near += [by_short[match] for match in difflib.get_close_matches(short, by_short)]
    if near:
        return f"there is no task {name!r}; the nearest are {', '.join(list(dict.fromkeys(near))[:3])}"
    return f"there is no task {name!r}; the suites are {', '.join(SUITES)}, and a task is named such as {full_names[0]}"
