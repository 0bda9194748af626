"""Steps a second of every suite: the vector environment, Gymnasium's way to get one, the bare engine, and EnvPool.

    python benchmarks/environments.py             the table of docs/environments.md, in about 5 minutes on 2 CPU cores
    python benchmarks/environments.py --tasks atari/Pong --streams 8 64

Four methods play one task with the same number of streams, the same preprocessing and the same random actions:

    vector   r2ac.envs.make_vector, as rollout actors step it
    singles  Gymnasium's SyncVectorEnv of single environments with Gymnasium's own wrappers
    engine   what the vector environment is made of, without Gymnasium and without r2ac
    envpool  EnvPool's vector environment as it comes; of minigrid r2ac's own with `--engine envpool`

The engine of Atari is ale-py's vector environment, that of ProcGen gym3's; both have threads, as the vector environment
has. Those of popgym, minigrid and gym are the single environments without any wrapper, stepped in a loop. The memory
suite has no engine below it, and single environments of the T-maze only. DeepMind Lab has one engine a process, so that
there is nothing to compare its processes with. EnvPool has Atari, ProcGen and MiniGrid. Suites that cannot run here are
left out, with a line that says why. Atari's singles want opencv-python-headless, EnvPool's ProcGen the libraries of
Qt 5 (`pip install --no-deps PyQt5-Qt5`, and its folder `PyQt5/Qt5/lib` in LD_LIBRARY_PATH).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import _path  # noqa: F401
import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FlattenObservation, FrameStackObservation
from measure import Run, take_turns
from report import (
    COLOURS,
    Column,
    Goal,
    Row,
    count,
    header,
    make_parser,
    open_device,
    own_columns,
    print_goals,
    print_header,
    print_table,
    write_files,
)

from r2ac.envs import MissingPackage, UnknownTask, find_task, make_vector
from r2ac.envs.minigrid import MinigridOptions
from r2ac.envs.procgen_engine import PACKAGE
from r2ac.envs.suite import missing_modules

TASKS = (
    "atari/Breakout",
    "procgen/chaser",
    "memory/tmaze",
    "popgym/RepeatPreviousEasy",
    "minigrid/MemoryS13",
    "dmlab/rooms_watermaze",
    "gym/CartPole-v1",
)
METHODS = ("vector", "singles", "engine", "envpool")
Step = Callable[[np.ndarray], Any]
"""One step of all streams, from actions [N]."""


class ProcgenSingle(gymnasium.Env):
    """One ProcGen game as Gymnasium would have it."""

    def __init__(self, game: str, seed: int) -> None:
        self._engine = _procgen(num=1, env_name=game, rand_seed=seed, num_threads=0)
        self.observation_space, self.action_space = Box(0, 255, (64, 64, 3), np.uint8), Discrete(15)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return self._engine.observe()[1]["rgb"][0], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._engine.act(np.array([action]))
        reward, observation, first = self._engine.observe()
        return observation["rgb"][0], float(reward[0]), bool(first[0]), False, {}


def _procgen(**settings: Any) -> Any:
    """The engine of this Python; EnvPool is not called so."""
    return PACKAGE.load()(distribution_mode="hard", num_levels=500, **settings)


def make_single(task: str, seed: int) -> gymnasium.Env:
    """The task as one Gymnasium environment, with Gymnasium's own wrappers.

    Raises:
        MissingPackage: where a package is missing.
        LookupError: where there is no such environment.
    """
    suite, name = task.split("/", 1)
    if task == "memory/tmaze":
        return gymnasium.make("r2ac/TMaze-v0", disable_env_checker=True)
    if suite == "atari":
        if missing_modules("cv2"):
            raise MissingPackage("Gymnasium's AtariPreprocessing needs OpenCV: pip install opencv-python-headless")
        import ale_py

        gymnasium.register_envs(ale_py)
        engine = gymnasium.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=True)
        return FrameStackObservation(AtariPreprocessing(engine), 4)
    if suite == "procgen":
        return ProcgenSingle(name, seed)
    if suite == "minigrid":
        from minigrid.wrappers import ImgObsWrapper

        return ImgObsWrapper(_bare(suite, name))
    if suite in ("popgym", "gym"):
        return FlattenObservation(_bare(suite, name))
    raise LookupError(f"{task} has no single environments")


def make_engine(task: str, streams: int, threads: int) -> Step:
    """What the task's vector environment is made of.

    Raises:
        LookupError: where there is nothing below it to compare with.
    """
    suite, name = task.split("/", 1)
    if suite == "atari":
        from ale_py.registration import rom_id_to_name
        from ale_py.roms import get_all_rom_ids
        from ale_py.vector_env import AtariVectorEnv

        engine = AtariVectorEnv(
            {rom_id_to_name(rom): rom for rom in get_all_rom_ids()}[name],
            streams,
            num_threads=threads,
            full_action_space=True,
            autoreset_mode=AutoresetMode.SAME_STEP,
            reward_clipping=False,
        )
        engine.reset(seed=0)
        return engine.step
    if suite == "procgen":
        # One thread is the caller's own, as in the vector environment.
        games = _procgen(
            num=streams, env_name=name, rand_seed=0, num_threads=min(streams, threads) if threads > 1 else 0
        )

        def step(actions: np.ndarray) -> None:
            games.act(actions)
            games.observe()

        return step
    if suite in ("popgym", "minigrid", "gym"):
        singles = [_bare(suite, name).unwrapped for _ in range(streams)]
        for seed, single in enumerate(singles):
            single.reset(seed=seed)

        def step_all(actions: np.ndarray) -> None:
            for single, action in zip(singles, actions, strict=True):
                _, _, terminated, truncated, _ = single.step(action)
                if terminated or truncated:
                    single.reset()

        return step_all
    raise LookupError(f"nothing stands below {task} that it could be compared with")


def make_envpool(task: str, streams: int, threads: int) -> Step:
    """EnvPool's vector environment, with the settings of r2ac's.

    Raises:
        ImportError: where a package is missing.
        LookupError: where EnvPool has no such task.
    """
    suite, name = task.split("/", 1)
    if suite == "minigrid":
        vector = make_vector(task, streams, 0, options=MinigridOptions(engine="envpool"))
        vector.reset()
        return vector.step
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "atari": (f"{name}-v5", {"full_action_space": True}),
        "procgen": (f"{name.capitalize()}Hard-v0", {"num_levels": 500}),
    }
    if suite not in settings:
        raise LookupError(f"EnvPool has no {task}")
    make = import_module("envpool").make_gymnasium
    task_id, options = settings[suite]
    engine = make(task_id, num_envs=streams, num_threads=min(streams, threads), seed=0, **options)
    engine.reset()
    return engine.step


def _bare(suite: str, name: str) -> gymnasium.Env:
    """The environment that Gymnasium registers."""
    if suite == "popgym":
        import popgym  # noqa: F401

        return gymnasium.make(f"popgym-{name}-v0", disable_env_checker=True)
    if suite == "minigrid":
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import minigrid  # noqa: F401

        return gymnasium.make(f"MiniGrid-{name}-v0", disable_env_checker=True)
    return gymnasium.make(name, disable_env_checker=True)


def make_methods(task: str, streams: int, threads: int) -> tuple[dict[str, Step], int]:
    """A step of each method that there is for the task, after its reset, and the number of actions."""
    options = find_task(task).suite.options()
    if hasattr(options, "threads"):
        options = replace(options, threads=threads)
    vector = make_vector(task, streams, 0, options=options)
    vector.reset()
    methods: dict[str, Step] = {"vector": vector.step}
    with contextlib.suppress(LookupError):
        try:
            singles = SyncVectorEnv(
                [partial(make_single, task, seed) for seed in range(streams)], autoreset_mode=AutoresetMode.SAME_STEP
            )
            singles.reset(seed=0)
            methods["singles"] = singles.step
        except MissingPackage as error:
            warnings.warn(f"{task} is measured without singles: {error}", stacklevel=2)
    with contextlib.suppress(LookupError):
        methods["engine"] = make_engine(task, streams, threads)
    with contextlib.suppress(LookupError):
        try:
            methods["envpool"] = make_envpool(task, streams, threads)
        except ImportError as error:
            warnings.warn(f"{task} is measured without envpool: {error}", stacklevel=2)
    return methods, int(vector.single_action_space.n)  # type: ignore[attr-defined]


def measure(task: str, streams: int, steps: int, rounds: int, threads: int) -> Row:
    """One row: every method that the task has."""
    methods, num_actions = make_methods(task, streams, threads)
    actions = np.random.default_rng(0).integers(num_actions, size=(steps, streams))

    def run(step: Step) -> Run:
        def play() -> None:
            for row in actions:
                step(row)

        return play

    runs = {name: run(step) for name, step in methods.items()}
    for play in runs.values():
        play()
    times = take_turns(runs, rounds, torch.device("cpu"), dict.fromkeys(runs, steps * streams))
    return {
        "task": task,
        "streams": streams,
        "steps_per_second": {name: 1 / times.median(name) if name in runs else None for name in METHODS},
        "over singles": times.ratio("singles", "vector"),
        "of the engine": times.ratio("engine", "vector"),
        "over envpool": times.ratio("envpool", "vector"),
        "steps_per_second_of_rounds": {name: [1 / each for each in times.rounds[name]] for name in runs},
    }


def goals_of(rows: Sequence[Row]) -> list[Goal]:
    """For the suites whose engine has threads."""
    goals = []
    for row in rows:
        if row["task"].split("/")[0] in ("atari", "procgen"):
            goals.append(Goal(f"{row['task']}: times the steps of singles", row["over singles"], 3.0, True))
            goals.append(Goal(f"{row['task']}: share of the engine's steps", row["of the engine"], 0.8, True))
    return goals


def columns() -> list[Column]:
    """Of the table."""
    speeds = [
        Column(f"{name}, steps/s", lambda row, name=name: row["steps_per_second"][name], ",.0f") for name in METHODS
    ]
    ratios = [
        Column(f"vector / {name}", lambda row, key=key: row[key], ".2f")
        for name, key in (("singles", "over singles"), ("engine", "of the engine"), ("envpool", "over envpool"))
    ]
    return [*own_columns("task", "streams"), *speeds, *ratios]


def draw(figure: Any, figures: Row) -> None:
    """Bars side by side."""
    axes, rows = figure.subplots(), figures["environments"]
    for i, name in enumerate(METHODS):
        heights = [row["steps_per_second"][name] or np.nan for row in rows]
        axes.bar(np.arange(len(rows)) + 0.2 * (i - 1.5), heights, 0.2, color=COLOURS[i], label=name)
    labels = [f"{row['task']}\n{row['streams']} streams" for row in rows]
    axes.set_xticks(np.arange(len(rows)), labels, fontsize="small")
    axes.set(yscale="log", ylabel="steps a second")
    axes.legend(frameon=False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.set_defaults(device="cpu")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--streams", nargs="+", type=count, default=None, help="streams together, 32 by default")
    parser.add_argument("--steps", type=count, help="steps of all streams in one measurement, 100 by default")
    options = parser.parse_args(arguments)
    if options.device != "cpu":
        parser.error("environments run on the CPU")
    open_device(parser, options)
    rounds, steps = options.rounds or (2 if options.quick else 10), options.steps or (10 if options.quick else 100)
    figures, rows = header(torch.device("cpu"), options), []
    print_header(figures, f"{rounds} rounds of {steps} steps")
    for task in options.tasks:
        try:
            if (missing := find_task(task).suite.missing()) is not None:
                print(f"{task} is left out: {missing}")
                continue
            rows += [measure(task, n, steps, rounds, options.threads) for n in options.streams or [32]]
        except UnknownTask as error:
            parser.error(str(error))
    print_table("Steps a second", columns(), rows)
    print_goals(goals := goals_of(rows))
    write_files("environments", options, {**figures, "environments": rows}, goals, draw)


if __name__ == "__main__":
    main()
