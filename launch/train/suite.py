"""Training on a list of tasks in turn: one agent and one run for each, below one directory."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from r2ac.envs import InvalidOption, MissingPackage, Task
from r2ac.launch.runs.suite_run import SuiteRun
from r2ac.launch.runtime.errors import RunError, with_details_kept
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import take_flag, training_config
from r2ac.launch.train.resume import continued_config, newest_step
from r2ac.launch.train.summary import RUN_FAILURES, failure_code, resume_command
from r2ac.launch.train.train import train
from r2ac.learner.checkpoint import CheckpointError

# What can be wrong with one task while others can be trained.
_OF_ONE_TASK = (*RUN_FAILURES, RunError, CheckpointError, ConfigError, InvalidOption, MissingPackage)


def train_suite(suite: SuiteRun, tasks: Sequence[Task], console: Console) -> int:
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
            code = _train_one(suite, task, console)
            states[task.name] = "trained"
        except _OF_ONE_TASK as error:
            sentence = with_details_kept(error)
            console.print(f"r2ac: {sentence}", markup=False, soft_wrap=True)
            states[task.name] = f"failed: {sentence}"
            failures.add(failure_code(error))
        if code:
            console.print(f"Continue with: {resume_command(suite.place)}", soft_wrap=True, markup=False)
            return code
    _print_summary(console, suite, states)
    return max(failures, default=0)


def _train_one(suite: SuiteRun, task: Task, console: Console) -> int:
    place, flags = suite.place_of(task), list(suite.flags)
    if newest_step(place) is None:
        config = training_config(task.name, flags)
    else:
        take_flag(flags, "--preset")
        config = continued_config(place, flags)
    return train(config, place, None, console)


def _print_summary(console: Console, suite: SuiteRun, states: dict[str, str]) -> None:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("")
    for name, state in states.items():
        table.add_row(name, state)
    console.print(table)
    console.print(f"  runs  {suite.place}", soft_wrap=True, markup=False)
