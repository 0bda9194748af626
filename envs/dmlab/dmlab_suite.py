"""The suite `dmlab`: the 30 tasks of DMLab-30 and the basic levels, by DeepMind Lab.

The preset is that of Irie et al. 2024: 72 x 96 RGB, 9 actions, each repeated for 4 frames, the observation the
pixel-wise maximum of the last two. That is the default because the paper's results are what to compare with. It takes
4 calls of the engine and draws 2 frames a step. With `max_of_two_frames` off the engine repeats the action itself, in
1 call that draws 1 frame: the game is the same, and up to twice as fast where drawing takes most of the time.

Two tasks have a hold-out level. It is played in the split test, and only there; the scores of both variants are
normalised by the hold-out level's. In the other tasks training and test play the same level with other seeds: an
episode's seed is below 2**30 in training and from 2**30 up in tests, and in tests the engine's own `mixerSeed` is
IMPALA's for evaluation too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from gymnasium.vector import VectorEnv

from r2ac.envs.dmlab.engine import ACTION_SETS, INSTALL, EngineSettings
from r2ac.envs.dmlab.levels import HAS_HOLD_OUT, NEEDS_DATASET, TASKS, level_of, reference_scores
from r2ac.envs.dmlab.vector import DmlabVector, Supervision
from r2ac.envs.seeding import HALF, engine_seeds
from r2ac.envs.suite import InvalidOption, Spaces, Split, Suite, SuiteOptions, check_at_least, missing_modules

ActionSet = Literal[9, 15]
Renderer = Literal["software", "hardware"]

# From scalable_agent's experiment.py.
_MIXER_SEED_OF_TESTS = 0x600D5EED
# In place of a data set: the engine then shows coloured squares of its own.
_COLOURED_SQUARES = "dummy"


@dataclass(frozen=True)
class DmlabOptions(SuiteOptions):
    """Options of DeepMind Lab; the defaults are the paper's preset. Each stream is a process of 200 to 400 MB."""

    actions: ActionSet = 9
    """Number of actions: 9 (the paper's), or IMPALA's larger set of 15, which also looks up and down."""
    action_repeat: int = 4
    """Frames that each action is repeated for."""
    max_of_two_frames: bool = True
    """Observe the maximum of the last two frames (the paper's); off: the last alone, which is faster."""
    image_height: int = 72
    """Height of the image, in pixels, a multiple of 4."""
    image_width: int = 96
    """Width of the image, in pixels, a multiple of 4."""
    instruction: bool = False
    """Observe the instructions of the language levels too, as ids of their words; r2ac train turns it on where one of
    these levels is among the tasks."""
    num_levels: int = 0
    """Number of seeds that training episodes are drawn from, the same for all workers; 0 for 2**30."""
    level_cache: str = ""
    """Folder of compiled maps that all workers share; worth its disk where num_levels makes seeds repeat."""
    dataset_path: str = ""
    """Folder of the pictures (0001.png, …) that two of the psychlab tasks show; dummy for coloured squares, to try them
    without."""
    renderer: Renderer = "software"
    """What draws the frames: software (OSMesa), or hardware (EGL or GLX, whichever the engine was built with)."""
    parallel_resets: int = 4
    """Engines of one vector environment that reset at a time: each may compile a map with 8 threads; 0 for all."""
    step_timeout: float = 120.0
    """Seconds after which an engine that gives no answer to a step is replaced; some load maps in a step."""
    reset_timeout: float = 600.0
    """Seconds that the start of an engine and the compiling of its map may take."""
    max_engine_failures: int = 5
    """Failures of a stream's engines in a row, without a step between them, that end the run."""


def _missing() -> str | None:
    if not missing_modules("deepmind_lab"):
        return None
    return f"the suite dmlab needs deepmind_lab, which no package index has: {INSTALL}"


def _check(name: str, options: DmlabOptions) -> None:
    for label, kind in (("actions", ActionSet), ("renderer", Renderer)):
        value, allowed = getattr(options, label), get_args(kind)
        if value not in allowed:
            raise InvalidOption(f"{label} is {value!r}, but it must be one of {', '.join(map(str, allowed))}")
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


def _check_here(name: str, options: DmlabOptions) -> None:
    if name in NEEDS_DATASET:
        _dataset(name, options.dataset_path)


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
    if name in NEEDS_DATASET:
        config["datasetPath"] = _dataset(name, options.dataset_path)
    if split == "test":
        config["mixerSeed"] = str(_MIXER_SEED_OF_TESTS)
        if name in HAS_HOLD_OUT:
            config["allowHoldOutLevels"] = "true"
    return EngineSettings(
        level=level_of(name, split),
        config=config,
        actions=ACTION_SETS[options.actions],
        action_repeat=options.action_repeat,
        max_of_two_frames=options.max_of_two_frames,
        instruction=options.instruction,
        renderer=options.renderer,
        # Engines run in folders of their own.
        level_cache=options.level_cache and str(Path(options.level_cache).expanduser().absolute()),
    )


def _dataset(name: str, folder: str) -> str:
    path = Path(folder).expanduser().absolute()
    if folder == _COLOURED_SQUARES:
        return folder
    # A picture that is missing would end the engine in the middle of an episode.
    if folder and (path / "0001.png").is_file():
        return str(path)
    raise InvalidOption(
        f"dataset_path is {folder!r}, but {name} shows the pictures of Brady, Konkle et al. 2008 and needs the folder "
        "that holds them (0001.png, …), which data/brady_konkle_oliva2008/README.md of DeepMind Lab tells how to get"
    )


def _make_each(names: Sequence[str], seed: int, split: Split, options: DmlabOptions) -> VectorEnv:
    return DmlabVector(
        [engine_settings(name, split, options) for name in names],
        size=(options.image_height, options.image_width),
        seeds=engine_seeds(seed, split, len(names)),
        levels=level_seeds(split, options),
        supervision=Supervision(
            options.step_timeout, options.reset_timeout, options.parallel_resets, options.max_engine_failures
        ),
    )


SUITE = Suite(
    name="dmlab",
    summary="first-person 3D rooms, mazes and language (DMLab-30 and the basic levels of DeepMind Lab)",
    options=DmlabOptions,
    list_tasks=lambda: TASKS,
    missing=_missing,
    check=_check,
    make=lambda name, num_envs, seed, split, options: _make_each([name] * num_envs, seed, split, options),
    check_here=_check_here,
    make_each=_make_each,
    frames_per_step=lambda name, options: options.action_repeat,
    reference_scores=lambda name, options: reference_scores(name),
    remedy=INSTALL,
    load=lambda: import_module("deepmind_lab"),
    engine_processes=True,
    spaces=lambda name, options: Spaces((3, options.image_height, options.image_width), "uint8", options.actions),
    final_observations=False,
)
