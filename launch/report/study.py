"""What a report is made from: the runs, which of them belong together, and what is known of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r2ac.envs import MissingPackage, UnknownTask
from r2ac.launch.evaluation.evaluate import Evaluation, evaluation_path
from r2ac.launch.evaluation.results_file import read_evaluation
from r2ac.launch.runs.metrics import NothingMeasured, read_metrics
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.run_groups import UNSET, RunGroup, group_labels, group_runs, runs_of, tasks_of
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.settings.config import training_label

# What sets agents apart is always part of their names, even where no two of them share a task.
_ALWAYS_NAMED = ("learner.algorithm", "agent.core", "agent.gradient", "agent.freeze_core", "agent.layers")


@dataclass(frozen=True, eq=False)
class StudiedRun:
    """A training run and all that could be read of it."""

    path: Path
    seed: Any
    tasks: tuple[str, ...]
    """What the agent was trained on."""
    config: dict[str, Any]
    """``config.json``; empty for a run of another program."""
    rows: tuple[dict[str, Any], ...] = ()
    """The lines of ``metrics.jsonl``."""
    metrics_problem: str | None = None
    """Why there are none, in a sentence."""
    evaluations: tuple[Evaluation, ...] = ()
    """What ``evaluation.json`` holds, each with at least one seed."""
    evaluation_problem: str | None = None
    """What is wrong with ``evaluation.json``, in a sentence; None also where there is none."""

    @property
    def steps(self) -> int | None:
        """Environment steps of the last line that was measured."""
        return int(self.rows[-1]["env_steps"]) if self.rows else None

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs that are trained in the same way: equal settings but for the seed, and but for the task."""

    name: str
    """What sets it apart from the others, such as ``gradient=rtrl``; no two have the same."""
    number: int
    """Its place among all, from 0."""
    baseline: bool
    """Whether the others are compared with it."""
    groups: tuple[RunGroup, ...]
    """One for each task (or list of tasks) that it is trained on."""
    runs: tuple[StudiedRun, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task for run in self.runs for task in run.tasks))


@dataclass(frozen=True)
class Study:
    configurations: tuple[Configuration, ...]

    @property
    def runs(self) -> tuple[StudiedRun, ...]:
        return tuple(run for configuration in self.configurations for run in configuration.runs)


def read_study(runs: Sequence[Path], baseline: Sequence[Path] = (), left_out: list[str] | None = None) -> Study:
    """The configurations of ``runs``, then those of the ``baseline``.

    A directory that is no run stands for the runs that it holds. Whatever cannot be read of a run is noted in it, and
    what is damaged of it in ``left_out``, too. Raises RunError where a path is no run (``left_out`` takes the sentence
    instead), its ``config.json`` is damaged, or a run is both a run and the baseline.
    """
    theirs = {run.resolve() for path in baseline for run in runs_of(path)}
    for path in runs:
        for run in runs_of(path):
            if run.resolve() in theirs:
                raise RunError(f"{run} is named both as a run and as the baseline: it would be compared with itself")
    groups = group_runs([*runs, *baseline], left_out)
    # Runs and baseline may have equal settings, such as those of two versions of the program.
    found: dict[tuple[bool, str], list[RunGroup]] = {}
    for is_baseline in (False, True):
        for label, group in zip(_labels(groups), groups, strict=True):
            part = _part(group, theirs, is_baseline)
            if part.runs:
                found.setdefault((is_baseline, label), []).append(part)
    configurations = []
    for number, ((is_baseline, label), own) in enumerate(found.items()):
        name = f"{label} (baseline)" if is_baseline else label
        members = [
            _read_run(run, seed, group, left_out)
            for group in own
            for run, seed in zip(group.runs, group.seeds, strict=True)
        ]
        configurations.append(Configuration(name, number, is_baseline, tuple(own), tuple(members)))
    return Study(tuple(configurations))


def differing_settings(groups: Sequence[RunGroup]) -> list[str]:
    """The settings, by their flat names, in which any two of the groups differ, whatever their tasks."""
    names = dict.fromkeys(name for group in groups for name in group.settings if group.name is None)
    return [name for name in names if len({json.dumps(value) for _, value in setting_of(groups, name)}) > 1]


def setting_of(groups: Iterable[RunGroup], name: str) -> list[tuple[RunGroup, Any]]:
    """(group, its value of a setting), ``unset`` for a group without; not of runs of other programs, nor, of an option
    of the environment, of groups whose suites do not have it."""
    own = [group for group in groups if group.name is None]
    return [(g, g.settings.get(name, UNSET)) for g in own if name in g.settings or not name.startswith("env.")]


def _part(group: RunGroup, baseline: set[Path], is_baseline: bool) -> RunGroup:
    """The runs of a group that are in the baseline, or those that are not."""
    pairs = zip(group.runs, group.seeds, strict=True)
    chosen = [(run, seed) for run, seed in pairs if (run.resolve() in baseline) == is_baseline]
    return replace(group, runs=tuple(run for run, _ in chosen), seeds=tuple(seed for _, seed in chosen))


def _labels(groups: Sequence[RunGroup]) -> list[str]:
    """What sets each group apart from those that it shares a task with, and which agent it is where there are several.

    Groups on different tasks with one label are one configuration: settings that differ between their tasks only, such
    as budgets, come with the task.
    """
    tasks = dict.fromkeys(task for group in groups for task in tasks_of(group.task))
    panels = [[group for group in groups if task in tasks_of(group.task)] for task in tasks]
    always = [name for name in differing_settings(groups) if name in _ALWAYS_NAMED]
    labels = group_labels(groups, panels, always)
    agents = [training_label(*(group.settings.get(name) for name in _ALWAYS_NAMED)) for group in groups]
    return [label or agent or "r2ac" for label, agent in zip(labels, agents, strict=True)]


def _read_run(path: Path, seed: Any, group: RunGroup, left_out: list[str] | None) -> StudiedRun:
    damaged = [] if left_out is None else left_out
    tasks = tuple(task for task in tasks_of(group.task) if task)
    if group.name is not None:
        return StudiedRun(path, seed, tasks, {})
    run = StudiedRun(path, seed, tasks, RunDirectory(path).read_config())
    try:
        run = replace(run, rows=tuple(read_metrics(path)))
    except RunError as error:
        run = replace(run, metrics_problem=str(error))
        damaged += [] if isinstance(error, NothingMeasured) else [str(error)]
    if not evaluation_path(path).exists():
        return run
    try:
        return replace(run, evaluations=read_evaluation(path))
    except RunError as error:
        damaged += [] if isinstance(error.__cause__, MissingPackage | UnknownTask) else [str(error)]
        return replace(run, evaluation_problem=str(error))
