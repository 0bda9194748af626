"""Training on a list of tasks in turn: one agent and one run for each, below one directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from r2ac.envs import InvalidOption, MissingPackage, Task
from r2ac.launch.runs.mirror import Mirror
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.suite_run import SuiteRun
from r2ac.launch.runtime.errors import RunError, with_details_kept
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.places import is_url
from r2ac.launch.train.resume import Resumed, open_interrupted
from r2ac.launch.train.summary import RUN_FAILURES, failure_code
from r2ac.launch.train.train import train
from r2ac.learner.checkpoint import CheckpointError

# What can be wrong with one task while others can be trained.
_OF_ONE_TASK = (*RUN_FAILURES, RunError, CheckpointError, ConfigError, InvalidOption, MissingPackage)

Configure = Callable[[Task, Path, Resumed | None], TrainConfig[Any]]
"""configure(task, run_dir, resumed): the checked settings of a task's run, new or resumed."""


def train_suite(suite: SuiteRun, tasks: Sequence[Task], configure: Configure, console: Console) -> int:
    """Train an agent on each of the tasks in turn: what has ended is left alone, what was interrupted goes on. A task
    that fails is told in one sentence, and the others are trained all the same.

    Returns:
        0 where every task has ended, 128 + the signal's number where one came; where one failed what `failure_code`
        says of it, TRY_AGAIN if that is so of any.
    """
    states: dict[str, str] = {}
    failures: set[int] = set()
    for number, task in enumerate(tasks, start=1):
        console.print(f"[bold]{task.name}[/bold] ({number} of {len(tasks)})", highlight=False)
        code = 0
        try:
            code = _train_one(suite, task, configure, console)
            states[task.name] = "trained"
        except _OF_ONE_TASK as error:
            sentence = with_details_kept(error)
            console.print(f"r2ac: {sentence}", markup=False, soft_wrap=True)
            states[task.name] = f"failed: {sentence}"
            failures.add(failure_code(error))
        if code:
            console.print(f"Continue with: r2ac train --resume {suite.place}", soft_wrap=True, markup=False)
            return code
    _print_summary(console, suite, states)
    return max(failures, default=0)


def _train_one(suite: SuiteRun, task: Task, configure: Configure, console: Console) -> int:
    place = suite.place_of(task)
    with ExitStack() as stack:
        mirror = stack.enter_context(Mirror(place, console, new=None)) if is_url(place) else None
        path = mirror.path if mirror is not None else Path(place)
        resumed = _open(path) if path.exists() else None
        if resumed is not None:
            stack.callback(resumed.run.close)
        return train(configure(task, path, resumed), console, resumed, mirror=mirror)


def _open(path: Path) -> Resumed | None:
    """The interrupted run at ``path``; None where it never came to its first checkpoint, and begins anew."""
    checkpoints = RunDirectory.open(path, for_writing=False).checkpoints
    if any(checkpoints.glob("step_*")):
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
    console.print(f"  runs  {suite.place}", soft_wrap=True, markup=False)
