"""What is printed at the start and at the end of a training, and its exit code."""

from __future__ import annotations

import shlex
import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.envs import EngineFailed, EnvironmentFailed
from r2ac.launch.rollouts.inference.pool import InferenceFailed
from r2ac.launch.rollouts.rollout_source import ActorsLost
from r2ac.launch.runs.run_directory import default_run_directory, new_directory
from r2ac.launch.runs.storage import StorageUnavailable
from r2ac.launch.runtime.errors import LearnersLost, RunUnwritable
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.runtime.supervisor import TRY_AGAIN
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.train.loop import Summary
from r2ac.launch.train.memory_budget import MemoryBudget, print_budget
from r2ac.learner import CaptureFailed, TrainingDiverged

RUN_FAILURES = (
    TrainingDiverged,
    ActorsLost,
    InferenceFailed,
    EngineFailed,
    CaptureFailed,
    LearnersLost,
    RunUnwritable,
    StorageUnavailable,
)
"""What ends a run that began well; each message is one sentence."""
FINAL_FAILURES = (TrainingDiverged, CaptureFailed)
"""Those of them that would come again in another try from the newest checkpoint."""


def failure_code(error: BaseException) -> int:
    """The exit code of what ended a run: TRY_AGAIN where it may go better from the newest checkpoint, 2 where its
    environment never worked, else 1."""
    if isinstance(error, EnvironmentFailed) and error.never_worked:
        return 2
    return TRY_AGAIN if isinstance(error, RUN_FAILURES) and not isinstance(error, FINAL_FAILURES) else 1


def print_start(console: Console, config: TrainConfig[Any], budget: MemoryBudget, who: str = "the run") -> None:
    """What is done to rewards and ends, and what memory ``who`` will hold."""
    console.print(config.rewards_and_ends(), soft_wrap=True, markup=False)
    print_budget(console, budget, who)


def print_summary(console: Console, task: str, summary: Summary, stopped_by: signal.Signals | None) -> None:
    """The table at the end, and where everything lies."""
    mean_return = summary.mean_return
    title = f"{task}: {'stopped by ' + stopped_by.name if stopped_by else 'trained'}"
    rows = [
        ("environment steps", f"{summary.env_steps:,} ({summary.env_frames:,} frames)"),
        ("updates", f"{summary.updates:,}"),
        ("time", f"{summary.seconds:,.0f} s, {summary.steps / summary.seconds:,.0f} steps/s"),
        ("return, last 100 episodes", "–" if mean_return is None else f"{mean_return:,.3f}"),  # noqa: RUF001
    ]
    rows += [(name, f"{count:,}") for name, count in summary.notes.items() if count]
    print_table(console, title, [*rows, *summary.profile], summary.paths)
    if stopped_by:
        console.print(f"Continue with: {resume_command(summary.paths['run'])}", soft_wrap=True, markup=False)


def resume_command(place: Path | str) -> str:
    """What goes on with the run at a path or a URL."""
    return shlex.join(("r2ac", "train", "--resume", str(place)))


def new_run_path(config: TrainConfig[Any]) -> AbstractContextManager[Path]:
    """Where a new run is written; by default a directory that is made here, and removed if no run comes to be.

    Raises ConfigError where --run-dir is no folder of its own.
    """
    if config.run_dir is None:
        return new_directory(default_run_directory(config.task, config.agent.label, config.seed))
    if not config.run_dir.name:
        raise ConfigError(f"--run-dir is '{config.run_dir}', but a run needs a folder of its own")
    return nullcontext(config.run_dir)
