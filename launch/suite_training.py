"""Training on a list of tasks in turn: one agent and one run for each, below one directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from r2ac.envs import InvalidOption, MissingPackage, Task
from r2ac.launch.config import ConfigError, TrainConfig
from r2ac.launch.errors import RunDirectoryError, RunError, os_reason
from r2ac.launch.run_directory import RunDirectory, write_atomically
from r2ac.launch.train import RUN_FAILURES, Resumed, open_interrupted, train
from r2ac.learner.checkpoint import CheckpointError

# What can be wrong with one task while others can be trained.
_OF_ONE_TASK = (*RUN_FAILURES, RunError, CheckpointError, ConfigError, InvalidOption, MissingPackage)

Configure = Callable[[Task, Path, Resumed | None], TrainConfig[Any]]
"""configure(task, run_dir, resumed): the checked settings of a task's run, new or resumed."""


@dataclass(frozen=True)
class SuiteRun:
    """A directory of runs, one for each task of a list; ``suite.json`` says which, and with which flags."""

    path: Path
    names: str
    """The tasks, as `find_tasks` reads them."""
    flags: tuple[str, ...]
    """What the command line said beside the tasks and the directory."""

    @staticmethod
    def at(path: Path) -> bool:
        """Whether ``path`` is such a directory."""
        return _description(path).is_file()

    @staticmethod
    def open(path: Path) -> SuiteRun:
        """The directory as it was written. Raises RunDirectoryError where it is damaged."""
        try:
            values = json.loads(_description(path).read_text(encoding="utf-8"))
            return SuiteRun(path, str(values["tasks"]), tuple(map(str, values["flags"])))
        except OSError as error:
            raise RunDirectoryError(f"{_description(path)} cannot be read: {os_reason(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{_description(path)} is damaged: {error}") from error

    def write(self) -> None:
        """Raises RunDirectoryError where it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(_description(self.path), json.dumps({"tasks": self.names, "flags": self.flags}) + "\n")
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot hold runs: {os_reason(error)}") from error

    def run_of(self, task: Task) -> Path:
        """Where the run of a task lies."""
        return self.path / task.name.replace("/", "-")


def _description(path: Path) -> Path:
    return path / "suite.json"


def train_suite(suite: SuiteRun, tasks: Sequence[Task], configure: Configure, console: Console) -> int:
    """Train an agent on each of the tasks in turn: what has ended is left alone, what was interrupted goes on. A task
    that fails is told in one sentence, and the others are trained all the same.

    Returns:
        0 where every task has ended, 1 where one failed, 128 + the signal's number where one came.
    """
    states: dict[str, str] = {}
    for number, task in enumerate(tasks, start=1):
        console.print(f"[bold]{task.name}[/bold] ({number} of {len(tasks)})", highlight=False)
        code = 0
        try:
            code = _train_one(suite, task, configure, console)
            states[task.name] = "trained"
        except _OF_ONE_TASK as error:
            console.print(f"r2ac: {error}", markup=False, soft_wrap=True)
            states[task.name] = f"failed: {error}"
        if code:
            console.print(f"Continue with: r2ac train --resume {suite.path}", soft_wrap=True, markup=False)
            return code
    _print_summary(console, suite, states)
    return int(any(state != "trained" for state in states.values()))


def _train_one(suite: SuiteRun, task: Task, configure: Configure, console: Console) -> int:
    path, resumed = suite.run_of(task), None
    if path.exists():
        resumed = _open(path)
    try:
        config = configure(task, path, resumed)
        return train(config, console, resumed)
    finally:
        if resumed is not None:
            resumed.run.close()


def _open(path: Path) -> Resumed | None:
    """The interrupted run at ``path``; None where it never came to its first checkpoint, and begins anew."""
    checkpoints = RunDirectory.open(path, for_writing=False).checkpoints
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        return open_interrupted(path)
    RunDirectory.open(path, for_writing=True).discard()
    return None


def _print_summary(console: Console, suite: SuiteRun, states: dict[str, str]) -> None:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("")
    for name, state in states.items():
        table.add_row(name, state)
    console.print(table)
    console.print(f"  runs  {suite.path}", soft_wrap=True, markup=False)
