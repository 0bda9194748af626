"""Every suite and task by name, and the one function that makes environments."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from gymnasium.vector import VectorEnv

from r2ac.envs import atari, dmlab, gym, memory, minigrid, popgym, procgen
from r2ac.envs.checked import checked_vector
from r2ac.envs.episode_limit import EpisodeLimit
from r2ac.envs.mixed import MixedVector, spread
from r2ac.envs.seeding import stagger_positions
from r2ac.envs.suite import InvalidOption, MissingPackage, Split, Suite, Task, UnknownTask, cannot_load, check_at_least

SUITES = {each.SUITE.name: each.SUITE for each in (memory, popgym, minigrid, atari, procgen, dmlab, gym)}
"""A new suite is added here."""

_BENCHMARKS = {"atari-57": "atari", "procgen-16": "procgen", "dmlab-30": "dmlab"}
"""Lists of the tasks of a suite that have reference scores."""


def find_task(name: str) -> Task:
    """The task of a full name `suite/task`, spelt exactly; raises UnknownTask with the nearest names."""
    suite_name, _, short_name = name.partition("/")
    suite = SUITES.get(suite_name)
    if suite is not None and short_name in suite.list_tasks():
        return Task(suite, short_name)
    if suite is not None and suite.look_up is not None and short_name:
        suite.look_up(short_name)
        return Task(suite, short_name)
    raise UnknownTask(_unknown(name))


def list_names() -> tuple[str, ...]:
    """The names that stand for several tasks: the benchmarks, and the suites that can list theirs."""
    return (*_BENCHMARKS, *(suite.name for suite in SUITES.values() if suite.look_up is None))


def find_tasks(names: str) -> tuple[Task, ...]:
    """The tasks that `names` stands for: full names and names of lists (`dmlab-30`, `memory`), separated by commas.
    Raises UnknownTask for a name that is neither, and for a task that is named twice."""
    tasks: list[Task] = []
    for name in names.split(","):
        for task in _listed(name) or (find_task(name),):
            if task in tasks:
                raise UnknownTask(f"{task.name} is named twice in {names!r}")
            tasks.append(task)
    return tuple(tasks)


def _listed(name: str) -> tuple[Task, ...]:
    """The tasks of a list; none where there is no list of that name."""
    if name in _BENCHMARKS:
        return tuple(task for task in SUITES[_BENCHMARKS[name]].tasks if task.reference_scores() is not None)
    suite = SUITES.get(name)
    # Of a suite that cannot list its tasks, some examples are no list.
    if suite is None or suite.look_up is not None:
        return ()
    return tuple(task for task in suite.tasks if task.short_name not in suite.unlisted)


def make_vector(
    task: str,
    num_envs: int,
    seed: int,
    *,
    split: Split = "train",
    options: Any = None,
    first_stream: int = 0,
    stagger: int | None = None,
) -> VectorEnv:
    """`num_envs` streams of a task, stepped together; or of several, over which they are spread evenly.

    task: full name, such as `atari/Breakout`, or several tasks of one suite as `find_tasks` reads them.
    seed: int >= 0 of any size. One seed gives one sequence of episodes; each stream has its own engine seed.
    split: "train" or "test". The engine seeds (and ProcGen's levels) of the two are disjoint, whatever the base seeds.
    options: the suite's options dataclass, or None for the paper's preset.
    first_stream: the number of the first stream: of n tasks, stream i plays number i mod n.
    stagger: a seed of any size. Where all episodes of a task have the same number of steps, the first one of each
        stream is truncated at a step that follows from this seed and the stream's number, and `Signals.ends` says that
        it is not a whole one. None: streams of such a task stay in phase.

    Call `reset()` once, without a seed. step(actions) takes int64 [N], int64 [N,K] or float32 [N,K], as the action
    space is Discrete, MultiDiscrete or a Box of one axis. It returns observations uint8 [N,C,H,W] or float32 [N,K],
    rewards float [N], unclipped, terminated and truncated bool [N], and a dict for `Signals.of`. Autoreset SAME_STEP:
    in the step that ends an episode the observation is the first of the next one. Arrays are the caller's to keep.

    Raises UnknownTask, InvalidOption or MissingPackage; it, `reset` and `step` raise EnvironmentFailed where the
    environment raises anything or gives numbers that are not finite, and EngineFailed where an engine fails for good.
    """
    tasks = find_tasks(task)
    suite = one_suite(tasks)
    check_at_least("num_envs", num_envs, 1, "streams")
    check_at_least("seed", seed, 0, "of any size")
    if split not in get_args(Split):
        raise InvalidOption(f"split is {split!r}, but it must be one of {', '.join(get_args(Split))}")
    for each in tasks:
        options = each.checked_options(options)
    if (sentence := suite.missing()) is not None:
        raise MissingPackage(sentence)
    played = spread(tasks, int(num_envs), first_stream)
    positions = np.zeros(num_envs, dtype=np.int64)
    if stagger is not None:
        steps = {each.name: each.episode_steps(options) or 0 for each in tasks}
        positions = stagger_positions(stagger, first_stream, [steps[each.name] for each in played])

    def make() -> VectorEnv:
        try:
            return _make(suite, [each.short_name for each in played], int(seed), split, options, positions)
        except ImportError as error:
            if isinstance(error, MissingPackage) or not suite.remedy:
                raise
            raise MissingPackage(cannot_load(suite.name, error, suite.remedy)) from error

    return checked_vector(make, [each.name for each in played], first_stream) if suite.foreign else make()


def _make(
    suite: Suite, names: Sequence[str], seed: int, split: Split, options: Any, positions: np.ndarray
) -> VectorEnv:
    """Streams of the tasks `names`, one name a stream."""
    if len(set(names)) == 1:
        return _limited(suite.make(names[0], len(names), seed, split, options), options, positions)
    if suite.make_each is not None:
        return _limited(suite.make_each(names, seed, split, options), options, positions)
    # The tasks share no engine: in each, streams have the seeds that they would have in it alone.
    parts = {name: suite.make(name, names.count(name), seed, split, options) for name in dict.fromkeys(names)}
    own = {name: positions[np.asarray(names) == name] for name in parts}
    return MixedVector({name: _limited(part, options, own[name]) for name, part in parts.items()}, names)


def _limited(env: VectorEnv, options: Any, positions: np.ndarray) -> VectorEnv:
    """``positions``: where to cut first episodes short, all 0 for nowhere."""
    if not options.max_episode_steps and not positions.any():
        return env
    return EpisodeLimit(env, options.max_episode_steps, positions if positions.any() else None)


def one_suite(tasks: Sequence[Task]) -> Suite:
    """The suite of the tasks; raises InvalidOption where they have more than one."""
    suites = list(dict.fromkeys(task.suite.name for task in tasks))
    if len(suites) > 1:
        raise InvalidOption(f"tasks in one training must be of one suite, not of {', '.join(suites)}")
    return tasks[0].suite


def _unknown(name: str) -> str:
    """One sentence with the nearest full names, and without a suite those of lists too, whatever their case."""
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
    near = [] if "/" in name else difflib.get_close_matches(folded, [*SUITES, *_BENCHMARKS], cutoff=0.75)
    near += [by_full[match] for match in difflib.get_close_matches(folded, by_full, cutoff=0.75)]
    near += [by_short[match] for match in difflib.get_close_matches(short, by_short)]
    if near := list(dict.fromkeys(near))[:3]:
        return f"there is no task {name!r}; the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}"
    return f"there is no task {name!r}; the suites are {', '.join(SUITES)}, and a task is named such as {full_names[0]}"
