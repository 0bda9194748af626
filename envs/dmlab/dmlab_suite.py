"""The suite `dmlab`: the 30 tasks of DMLab-30 and the basic levels, by DeepMind Lab.

The defaults are those of Irie et al. 2024. Their maximum of two frames takes 4 calls of the engine and draws 2 frames a
step; with `max_of_two_frames` off the engine repeats the action itself, in 1 call that draws 1 frame: the game is the
same, and up to twice as fast where drawing takes most of the time.

An episode's seed is below 2**30 in training and from 2**30 up in tests, where the engine's own `mixerSeed` is IMPALA's
for evaluation too. The two tasks with a hold-out level play it in the split test, and only there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from gymnasium.vector import VectorEnv

from r2ac.envs.dmlab.engine import INSTALL, EngineSettings
from r2ac.envs.dmlab.levels import HAS_HOLD_OUT, NEEDS_DATASET, TASKS, level_of, reference_scores
from r2ac.envs.dmlab.options import DmlabOptions
from r2ac.envs.seeding import HALF, engine_seeds
from r2ac.envs.suite import InvalidOption, Spaces, Split, Suite, check_at_least

# From scalable_agent's experiment.py.
_MIXER_SEED_OF_TESTS = 0x600D5EED
# In place of a data set: the engine then shows coloured squares of its own.
_COLOURED_SQUARES = "dummy"


def _check(name: str, options: DmlabOptions) -> None:
    check_at_least("action_repeat", options.action_repeat, 1, "frames")
    for label in ("image_height", "image_width"):
        check_at_least(label, getattr(options, label), 4, "pixels, a multiple of 4")
        if getattr(options, label) % 4:
            raise InvalidOption(f"{label} is {getattr(options, label)}, but the engine draws multiples of 4 pixels")
    check_at_least("num_levels", options.num_levels, 0, "seeds, 0 for 2**30")
    if options.num_levels > HALF:
        raise InvalidOption(f"num_levels is {options.num_levels}, but training has only {HALF} seeds")
    check_at_least("parallel_resets", options.parallel_resets, 0, "engines, 0 for all")
    check_at_least("max_engine_failures", options.max_engine_failures, 1, "failures")
    for label in ("step_timeout", "reset_timeout"):
        if not 0 < getattr(options, label) < math.inf:
            raise InvalidOption(f"{label} is {getattr(options, label)}, but it must be above 0 and finite (seconds)")


def level_seeds(split: Split, options: DmlabOptions) -> tuple[int, int]:
    """(first, number) of the seeds that the episodes of a split are drawn from."""
    return (0, options.num_levels or HALF) if split == "train" else (HALF, HALF)


def engine_settings(name: str, split: Split, options: DmlabOptions) -> EngineSettings:
    """What the engines of a task run with in a split; raises InvalidOption for a task that lacks its data set."""
    config = {
        "width": str(options.image_width),
        "height": str(options.image_height),
        # The mazes of the explore levels would be printed at every reset.
        "logLevel": "WARN",
    }
    if folder := _dataset(name, options):
        config["datasetPath"] = folder
    if split == "test":
        config["mixerSeed"] = str(_MIXER_SEED_OF_TESTS)
        if name in HAS_HOLD_OUT:
            config["allowHoldOutLevels"] = "true"
    # Engines run in folders of their own.
    level_cache = options.level_cache and str(Path(options.level_cache).expanduser().absolute())
    return EngineSettings(level_of(name, split), config, replace(options, level_cache=level_cache))


def _dataset(name: str, options: DmlabOptions) -> str:
    """The folder of the pictures that a task shows, empty where it shows none. Raises InvalidOption without it."""
    folder = options.dataset_path
    path = Path(folder).expanduser().absolute()
    if name not in NEEDS_DATASET:
        return ""
    if folder == _COLOURED_SQUARES:
        return folder
    # A picture that is missing would end the engine in the middle of an episode.
    if folder and (path / "0001.png").is_file():
        return str(path)
    raise InvalidOption(
        f"dataset_path is {folder!r}, but {name} shows the pictures of Brady, Konkle et al. 2008 and needs the folder "
        "that holds them (0001.png, …), which data/brady_konkle_oliva2008/README.md of DeepMind Lab says how to get"
    )


def _make_each(names: Sequence[str], seed: int, split: Split, options: DmlabOptions) -> VectorEnv:
    settings = [engine_settings(name, split, options) for name in names]
    from r2ac.envs.dmlab.vector import DmlabVector  # its locks are not there on Windows

    return DmlabVector(settings, engine_seeds(seed, split, len(names)), level_seeds(split, options))


SUITE = Suite(
    name="dmlab",
    summary="first-person 3D rooms, mazes and language (DMLab-30 and the basic levels of DeepMind Lab)",
    options=DmlabOptions,
    list_tasks=lambda: TASKS,
    modules=("deepmind_lab",),
    check=_check,
    read_by={"dataset_path": NEEDS_DATASET},
    make=lambda name, num_envs, seed, split, options: _make_each([name] * num_envs, seed, split, options),
    check_here=_dataset,
    make_each=_make_each,
    frames_per_step=lambda name, options: options.action_repeat,
    reference_scores=lambda name, options: reference_scores(name),
    remedy=INSTALL,
    load=lambda: import_module("deepmind_lab"),
    engine_processes=True,
    spaces=lambda name, options: Spaces((3, options.image_height, options.image_width), "uint8", options.actions),
    final_observations=False,
)
