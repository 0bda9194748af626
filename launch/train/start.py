"""Begins and resumes trainings: one, or one for each task of a suite; here, or in a child that is supervised."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from r2ac.envs import InvalidOption, MissingPackage, Task, find_tasks
from r2ac.launch.runs.run_directory import RunDirectory, default_run_directory, new_directory
from r2ac.launch.runs.suite_run import SuiteRun
from r2ac.launch.runs.trackers import check_trackers
from r2ac.launch.runtime.errors import RunError, with_details_kept
from r2ac.launch.runtime.supervisor import restarts, supervise
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.flags import take_flag, training_config, with_flag
from r2ac.launch.train.resume import continued_config, newest_step
from r2ac.launch.train.summary import RUN_FAILURES, failure_code, resume_command
from r2ac.launch.train.train import train
from r2ac.learner.checkpoint import CheckpointError

# What can be wrong with one task while others can be trained.
_OF_ONE_TASK = (*RUN_FAILURES, RunError, CheckpointError, ConfigError, InvalidOption, MissingPackage)


def begin(config: TrainConfig[Any], url: str | None, flags: Sequence[str], console: Console) -> int:
    """A training with checked settings, which were read from ``flags``; at a URL if there is one."""
    with nullcontext(url) if url else new_path(config) as place:
        if _is_watched_over(config):
            others = list(flags)
            take_flag(others, "--run-dir")
            words = ["train", config.task, *others, "--run-dir", str(place)]
            return _supervise(config, str(place), words, new=True)
        elsewhere = restarts() and config.num_learners and config.ray_address != "local" and isinstance(place, Path)
        if elsewhere and not RunDirectory(Path(place)).config_path.exists():
            raise ConfigError(
                f"--run-dir is {place}, which its learners write but this process cannot see: it must be on a file "
                "system that all nodes share, or a URL"
            )
        # A restart goes on with what has come to a checkpoint.
        return train(config, place, None if restarts() else True, console)


def resume(place: str, arguments: Sequence[str], console: Console) -> int:
    """Go on with the run, or the trainings of a suite, at a path or a URL, with what the flags say."""
    words = ["train", "--resume", place, *arguments]
    if (begun := SuiteRun.read(place)) is not None:
        # Of a flag that is given twice the last holds.
        return _train_suite(replace(begun, flags=(*begun.flags, *arguments)), console, words)
    config = continued_config(place, arguments)
    if _is_watched_over(config):
        return _supervise(config, place, words)
    return train(config, place, False, console)


def begin_suite(first: TrainConfig[Any], names: str, given: str | None, flags: Sequence[str], console: Console) -> int:
    """A training on each task of a list; ``first`` has the settings of the first. One begun in ``given`` goes on."""
    with nullcontext(given) if given else new_path(replace(first, task=names, run_dir=None)) as place:
        suite = SuiteRun(str(place), names, tuple(flags))
        begun = SuiteRun.read(suite.place)
        if begun is not None and begun != suite:
            raise ConfigError(
                f"{given} holds a training on {begun.names} with other flags; {resume_command(suite.place)} goes on "
                "with it"
            )
        return _train_suite(suite, console, ["train", "--suite", names, *flags, "--run-dir", suite.place])


def _train_suite(suite: SuiteRun, console: Console, words: Sequence[str]) -> int:
    """Train on the tasks of a list, or let a child do so that is started with ``words``."""
    tasks = find_tasks(suite.names)
    configs = [training_config(task.name, suite.flags, suite.names) for task in tasks]
    for task, config in zip(tasks, configs, strict=True):
        # Before the first is begun: a wrong flag or a missing engine must not end it after days.
        if (sentence := task.suite.missing()) is not None:
            raise MissingPackage(sentence)
        config.check()
        check_trackers(config.log)
        task.suite.check_here(task.short_name, config.env)
    if _is_watched_over(configs[0]):
        return _supervise(configs[0], suite.place, words)
    suite.write()
    return _train_each(suite, tasks, console)


def _train_each(suite: SuiteRun, tasks: Sequence[Task], console: Console) -> int:
    """Train an agent on each of the tasks in turn: what has ended is left alone, what was interrupted goes on, and a
    task that fails does not keep the others from being trained. Returns 0 where every task has ended, 128 + the
    signal's number where one came, else the largest `failure_code`."""
    states: dict[str, str] = {}
    failures: set[int] = set()
    for number, task in enumerate(tasks, start=1):
        console.print(f"[bold]{task.name}[/bold] ({number} of {len(tasks)})", highlight=False)
        code = 0
        try:
            code = _train_one(suite, task, console)
            states[task.name] = "trained"
        except _OF_ONE_TASK as error:
            sentence = with_flag(with_details_kept(error))
            console.print(f"r2ac: {sentence}", markup=False, soft_wrap=True)
            states[task.name] = f"failed: {sentence}"
            failures.add(failure_code(error))
        if code:
            console.print(f"Continue with: {resume_command(suite.place)}", soft_wrap=True, markup=False)
            return code
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("")
    for name, state in states.items():
        table.add_row(name, state)
    console.print(table)
    console.print(f"  runs  {suite.place}", soft_wrap=True, markup=False)
    return max(failures, default=0)


def _train_one(suite: SuiteRun, task: Task, console: Console) -> int:
    place, flags = suite.place_of(task), list(suite.flags)
    if newest_step(place) is None:
        config = training_config(task.name, flags, suite.names)
    else:
        take_flag(flags, "--preset")
        config = continued_config(place, flags, suite.names)
    return train(config, place, None, console)


def new_path(config: TrainConfig[Any]) -> AbstractContextManager[Path]:
    """Where a new run is written; by default a new directory, removed if no run comes to be. Raises ConfigError."""
    if config.run_dir is None:
        return new_directory(default_run_directory(config.task, config.label, config.seed))
    if not config.run_dir.name:
        raise ConfigError(f"--run-dir is '{config.run_dir}', but a run needs a folder of its own")
    return nullcontext(config.run_dir)


def _is_watched_over(config: TrainConfig[Any]) -> bool:
    """Whether the training belongs into a child process; the child itself trains."""
    return config.max_failures > 0 and restarts() is None


def _supervise(config: TrainConfig[Any], place: str, words: Sequence[str], new: bool = False) -> int:
    """Run this command as a child, and again after failures, from the newest checkpoint; ``new``: it begins a run."""

    def state() -> str:
        step = newest_step(place)
        return f"with {place}" if step is None else f"from step {step:,} of {place}"

    def advice() -> str:
        if new and newest_step(place) is not None:
            return f"go on with: {resume_command(place)}"
        return f"{'begin again' if new else 'go on'} with: {shlex.join(('r2ac', *words))}"

    return supervise(words, config.max_failures, state, advice)
