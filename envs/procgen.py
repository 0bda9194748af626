"""The suite `procgen`: the 16 procedurally generated games of Cobbe et al. 2020.

The preset is that of Irie et al. 2024 (section 4): hard levels, training on levels 0 to 499, tests on ranges of 200
levels that training never sees. Levels are numbered by an int32: training levels lie below 2**30, those of the test
split from 2**30 up, so that no option and no seed can make the two meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from r2ac.envs.envpool_vector import EnvPoolVector
from r2ac.envs.procgen_engine import ENVPOOL, PACKAGE, ProcgenVector, time_out
from r2ac.envs.scores import PROCGEN_MIN_MAX
from r2ac.envs.seeding import HALF, engine_seeds
from r2ac.envs.suite import InvalidOption, ReferenceScores, Spaces, Split, Suite, SuiteOptions, check_at_least

DistributionMode = Literal["easy", "hard", "extreme", "memory", "exploration"]

GAMES = tuple(PROCGEN_MIN_MAX["hard"])

# What the engine accepts: with any other mode it ends the process.
_GAMES_OF_MODE: dict[str, tuple[str, ...]] = {
    "easy": GAMES,
    "hard": GAMES,
    "extreme": ("chaser", "dodgeball", "leaper", "starpilot"),
    "memory": ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"),
    "exploration": ("caveflyer", "climber", "coinrun", "heist", "jumper", "leaper", "maze", "ninja"),
}
_LAST_LEVEL = 2**31 - 1


@dataclass(frozen=True)
class ProcgenOptions(SuiteOptions):
    """Options of the ProcGen games; the defaults are the paper's preset."""

    distribution_mode: DistributionMode = "hard"
    """Kind of levels; extreme, memory and exploration exist for some games only."""
    num_levels: int = 500
    """Number of training levels; 0 for all of them (2**30 less start_level). Unused in exploration mode (one level)."""
    start_level: int = 0
    """The first training level. Unused in exploration mode."""
    test_levels: int = 200
    """Number of unseen levels in one test range; the base seed says which range."""
    threads: int = 0
    """Engine threads of one vector environment; 0 for one a core. They do not change what is computed."""


def level_range(seed: int, split: Split, options: ProcgenOptions) -> tuple[int, int]:
    """(first level, number of levels) of a split: in training for all seeds, in tests disjoint for different seeds
    (modulo the number of ranges, 5.4 million with the preset)."""
    if split == "train":
        return options.start_level, options.num_levels or HALF - options.start_level
    ranges = (_LAST_LEVEL - HALF) // options.test_levels
    return HALF + seed % ranges * options.test_levels, options.test_levels


def _check(name: str, options: ProcgenOptions) -> None:
    mode = options.distribution_mode
    if name not in _GAMES_OF_MODE.get(mode, ()):
        modes = ", ".join(mode for mode, games in _GAMES_OF_MODE.items() if name in games)
        raise InvalidOption(f"{name} has no {mode!r} levels: its distribution_mode must be one of {modes}")
    check_at_least("num_levels", options.num_levels, 0, "levels, 0 for all")
    check_at_least("start_level", options.start_level, 0, "a level")
    check_at_least("test_levels", options.test_levels, 1, "levels")
    check_at_least("threads", options.threads, 0, "threads, 0 for one a core")
    if options.start_level + max(options.num_levels, 1) > HALF:
        raise InvalidOption(
            f"start_level {options.start_level} with num_levels {options.num_levels} goes beyond the training levels, "
            f"which end at {HALF - 1}"
        )
    if options.test_levels > _LAST_LEVEL - HALF:
        raise InvalidOption(f"test_levels is {options.test_levels}, but there are only {_LAST_LEVEL - HALF}")


def _make(name: str, num_envs: int, seed: int, split: Split, options: ProcgenOptions) -> VectorEnv:
    mode = options.distribution_mode
    if mode == "exploration" and split == "test":
        raise InvalidOption("split is 'test', but exploration mode has one level only: use the split 'train'")
    levels = None if mode == "exploration" else level_range(seed, split, options)
    if PACKAGE is ENVPOOL:
        settings = {"num_threads": options.threads, "max_episode_steps": time_out(name, mode)}
        if levels is not None:
            settings["start_level"], settings["num_levels"] = levels
        ENVPOOL.load()
        task, space = f"{name.title()}{mode.title()}-v0", Box(0, 255, (3, 64, 64), np.uint8)
        return EnvPoolVector(task, engine_seeds(seed, split, num_envs), space, np.asarray, **settings)
    (engine_seed,) = engine_seeds(seed, split, 1)
    return ProcgenVector(name, num_envs, engine_seed, mode=mode, levels=levels, threads=options.threads)


def _reference_scores(name: str, options: ProcgenOptions) -> ReferenceScores | None:
    scores = PROCGEN_MIN_MAX.get(options.distribution_mode, {}).get(name)
    return None if scores is None else ReferenceScores(*scores, "lowest", "highest")


SUITE = Suite(
    name="procgen",
    summary="procedurally generated games, trained and tested on different levels (ProcGen)",
    options=ProcgenOptions,
    list_tasks=lambda: GAMES,
    modules=PACKAGE.modules,
    remedy=PACKAGE.remedy,
    load=PACKAGE.load,
    check=_check,
    make=_make,
    reference_scores=_reference_scores,
    spaces=lambda name, options: Spaces((3, 64, 64), "uint8", 15),
    final_observations=False,
)
