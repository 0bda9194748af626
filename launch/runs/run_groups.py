"""Which runs belong together in a plot: those whose settings are equal in all that learning depends on."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from r2ac.envs import SUITES, SuiteOptions, UnknownTask, find_tasks
from r2ac.launch.runs.event_files import has_event_files
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.settings.presets import of_the_algorithm

# Settings that change where and how fast a run goes, or what is kept of it, but not what is learned.
_NOT_COMPARED = frozenset(
    {"seed", "run_dir", "device", "learner_threads", "threads", "ray_address", "log_steps", "checkpoint_minutes"}
    | {"keep_checkpoints", "rtrl_metrics_every", "video_minutes", "profile", "max_failures"}
    | {"log", "stall_seconds", "step_timeout", "cuda_graph"}
    # It has chosen hidden_size, which is compared.
    | {"match_parameters", "transport", "inference", "inference_workers", "inference_device"}
)
_ALGORITHM = "learner.algorithm"
UNSET = "unset"
"""Stands for a setting that a group does not have."""
NO_TASK = "(no task)"
"""Stands where the name of a task would, for runs of other programs that name none."""
# CleanRL names its runs <environment>__<experiment>__<seed>__<unix time>.
_CLEANRL = re.compile(r"(?P<env>.+?)__(?P<name>.+)__(?P<seed>\d+)__\d+")
# What stands around the name of a task in the id of a Gymnasium environment.
_ENVIRONMENT_ID = re.compile(r"(popgym-|MiniGrid-)?(?P<name>.+?)(NoFrameskip|Deterministic)?(-v\d+)?")


@dataclass(frozen=True)
class RunGroup:
    """Runs whose settings are equal in all that learning depends on, but for the seed."""

    task: str
    """A task, or several as `find_tasks` reads them; empty for a run of another program that names none."""
    settings: dict[str, Any]
    """The settings that are compared, flat: ``{"agent.gradient": "rtrl", ...}``, with defaults for what an older
    ``config.json`` does not name."""
    runs: tuple[Path, ...]
    seeds: tuple[Any, ...]
    name: str | None = None
    """What the runs are called where another program wrote them."""


def group_runs(runs: Iterable[Path | str], left_out: list[str] | None = None) -> list[RunGroup]:
    """The runs by their settings, in the order in which they are first met; a run named twice counts once.

    A directory that is no run stands for the runs that it holds. One with TensorBoard event files and nothing of r2ac
    is a run of another program and a group of its own, but for runs of one folder whose names of CleanRL's form differ
    in seed and time alone. ``left_out`` gets a sentence for each run that cannot be read; without it RunDirectoryError
    is raised.
    """
    unique = {run.resolve(): run for path in runs for run in runs_of(Path(path)) or [Path(path)]}
    groups: dict[str, RunGroup] = {}
    for run in unique.values():
        try:
            one = _ours(run) or _of_another_program(run)
        except RunDirectoryError as error:
            leave_out(error, left_out)
            continue
        key = json.dumps([one.task, one.name, one.settings], sort_keys=True)
        known = groups.setdefault(key, replace(one, runs=(), seeds=()))
        groups[key] = replace(known, runs=(*known.runs, *one.runs), seeds=(*known.seeds, *one.seeds))
    return _named_apart(_with_tasks(list(groups.values())))


def runs_of(path: Path) -> list[Path]:
    """The run at ``path``, or those that the directory and its directories hold, but for hidden ones, links to
    directories of runs, and what may not be read; ``sweep.json`` stands for its folder. Raises RunDirectoryError where
    ``path`` itself cannot be read."""
    with os_errors_as(RunDirectoryError, f"{path} cannot be read"):
        if _is_sweep(path):
            return runs_of(path.parent)
        if _is_run(path):
            return [path]
        children = sorted(path.iterdir()) if path.is_dir() else []
    runs: list[Path] = []
    for child in children:
        with suppress(PermissionError, RunDirectoryError):
            # A link may lead back to where it lies.
            if child.is_dir() and not child.name.startswith(".") and (not child.is_symlink() or _is_run(child)):
                runs += runs_of(child)
    return runs


def first_place(paths: Sequence[Path]) -> Path:
    """Where figures of runs are written by default: the first of the paths with a run, else the first."""
    first = next(filter(runs_of, paths), paths[0])
    return first.parent if _is_sweep(first) else first


def leave_out(error: RunDirectoryError, left_out: list[str] | None) -> None:
    """Adds what is wrong with a run to ``left_out``, once; raises it where that is None."""
    if left_out is None:
        raise error
    if str(error) not in left_out:
        left_out.append(str(error))


def tasks_of(names: str) -> tuple[str, ...]:
    """The full names of the tasks that a run's ``task`` stands for; as they stand where this version knows them not."""
    try:
        return tuple(task.name for task in find_tasks(names))
    except UnknownTask:
        return tuple(names.split(","))


def differing_fields(panels: Iterable[Sequence[RunGroup]], of_algorithms: bool = False) -> list[str]:
    """The settings, by their flat names, in which groups of one panel differ, but for runs of other programs, for the
    options of the environment in groups with different tasks, and, unless ``of_algorithms``, for what comes with
    another algorithm."""
    pairs = [pair for panel in panels for pair in combinations([g for g in panel if g.name is None], 2)]
    names = dict.fromkeys(name for pair in pairs for group in pair for name in group.settings)

    def differ(a: RunGroup, b: RunGroup, name: str) -> bool:
        other_algorithm = not of_algorithms and a.settings.get(_ALGORITHM) != b.settings.get(_ALGORITHM)
        if other_algorithm and name.split(".")[-1] in of_the_algorithm(a.task.partition("/")[0]):
            return False
        compared = a.task == b.task or not name.startswith("env.")
        return compared and bool(a.settings.get(name, UNSET) != b.settings.get(name, UNSET))

    return [name for name in names if any(differ(a, b, name) for a, b in pairs)]


def group_labels(
    groups: Sequence[RunGroup], panels: Sequence[Sequence[RunGroup]], always: Sequence[str] = ()
) -> list[str]:
    """The settings in which each group differs from those that it shares a panel with, and those in ``always``."""
    names = list(dict.fromkeys([*differing_fields(panels), *always]))
    mixed = any(len({group.task for group in panel if group.name is None}) > 1 for panel in panels)
    labels = []
    for group in groups:
        label = group_label(group, names)
        if mixed and group.name is None and len(tasks_of(group.task)) > 1:
            label = ", ".join(filter(None, [label, f"trained on {group.task.replace(',', ', ')}"]))
        labels.append(label)
    return labels


def unnamed_differences(panel: Sequence[RunGroup], panels: Sequence[Sequence[RunGroup]]) -> str:
    """``2 other settings differ, too: input_scale, readout``, which `group_labels` does not name as they come with
    another algorithm; empty where there are none."""
    named = differing_fields(panels)
    others = [name.split(".")[-1] for name in differing_fields([panel], of_algorithms=True) if name not in named]
    count = "1 other setting differs" if len(others) == 1 else f"{len(others)} other settings differ"
    return f"{count}, too: {', '.join(others)}" if others else ""


def group_label(group: RunGroup, names: Sequence[str]) -> str:
    """``gradient=rtrl, rollout_length=10`` for the flat names given; the part before the dot stays where it must."""
    if group.name is not None:
        return group.name
    last_parts = [name.split(".")[-1] for name in names]
    short = [last if last_parts.count(last) == 1 else name for name, last in zip(names, last_parts, strict=True)]
    values = [group.settings.get(name, UNSET) for name in names]
    return ", ".join(f"{label}={value}" for label, value in zip(short, values, strict=True))


def changed_settings(config: TrainConfig[Any]) -> dict[str, Any]:
    """The task, and the settings that learning depends on and that are not the defaults, by their flat names."""
    defaults = _defaults(config.task)
    own = dict(_flat(json.loads(json.dumps(config.to_json(), default=os.fspath))))
    compared = {name: value for name, value in own.items() if name.split(".")[-1] not in _NOT_COMPARED}
    return {name: value for name, value in compared.items() if value != defaults.get(name)}


def _is_sweep(path: Path) -> bool:
    return path.name == "sweep.json" and path.is_file()


def _is_run(path: Path) -> bool:
    run = RunDirectory(path)
    return run.config_path.exists() or run.metrics_path.exists() or has_event_files(path)


def _ours(run: Path) -> RunGroup | None:
    """None for a run of another program: event files, and nothing of r2ac."""
    directory = RunDirectory(run)
    foreign = not directory.metrics_path.exists() and has_event_files(run)
    if foreign and not directory.config_path.exists():
        return None
    config = RunDirectory.open(run, for_writing=False).read_config()
    task = config.pop("task", None)
    if not isinstance(task, str):
        if foreign:
            return None
        raise RunDirectoryError(f"config.json of {run} names no task")
    own = dict(_flat(config))
    # In the order of config.json.
    every = own | {name: value for name, value in _defaults(task).items() if name not in own}
    settings = {name: value for name, value in every.items() if name.split(".")[-1] not in _NOT_COMPARED}
    return RunGroup(task, settings, (run,), (config.get("seed"),))


def _of_another_program(run: Path) -> RunGroup:
    path = run.resolve()
    match = _CLEANRL.fullmatch(path.name)
    if match is None:
        return RunGroup("", {"path": str(path)}, (run,), (None,), path.name)
    # Those of another folder may have other settings, which the name does not say.
    return RunGroup(match["env"], {"path": str(path.parent)}, (run,), (int(match["seed"]),), match["name"])


def _with_tasks(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Runs of other programs get r2ac's task for their environment, or without one the only task of all the others."""
    named = dict.fromkeys(task for group in groups if group.name is None for task in tasks_of(group.task))
    every = [*named, *(task.name for suite in SUITES.values() for task in suite.tasks)]
    found = [g if g.name is None or not g.task else replace(g, task=_task_of(g.task, every)) for g in groups]
    tasks = dict.fromkeys(task for group in found if group.task for task in tasks_of(group.task))
    only = next(iter(tasks)) if len(tasks) == 1 else ""
    return [group if group.task else replace(group, task=only) for group in found]


def _task_of(environment: str, tasks: Sequence[str]) -> str:
    """The first of the tasks whose name is that of the environment: BreakoutNoFrameskip-v4 is atari/Breakout."""
    match = _ENVIRONMENT_ID.fullmatch(environment)
    names = [environment, match["name"] if match else environment]
    return next((task for name in names for task in tasks if task.partition("/")[2] == name), environment)


def _named_apart(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Runs of other programs that have one name in different folders are called by their paths."""
    count = Counter((group.task, group.name) for group in groups)
    return [
        replace(group, name=str(group.runs[0].parent / group.name))
        if group.name is not None and count[group.task, group.name] > 1
        else group
        for group in groups
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _defaults(task: str) -> dict[str, Any]:
    """Of every setting of a training on the task, as ``config.json`` would hold them."""
    suite = SUITES.get(tasks_of(task)[0].partition("/")[0])
    config = TrainConfig(task, SuiteOptions() if suite is None else suite.options()).to_json()
    del config["task"]
    return dict(_flat(json.loads(json.dumps(config, default=os.fspath))))
