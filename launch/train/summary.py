"""What is printed at the start and at the end of a training, and its exit code."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.agents.config import gradient_of
from r2ac.envs import EngineFailed, EnvironmentFailed
from r2ac.launch.rollouts.failures import ActorsLost
from r2ac.launch.rollouts.inference.pool import InferenceFailed
from r2ac.launch.runs.storage import StorageUnavailable
from r2ac.launch.runtime.errors import LearnersLost, RunUnwritable
from r2ac.launch.runtime.progress import number_text, print_table
from r2ac.launch.runtime.supervisor import TRY_AGAIN
from r2ac.launch.settings.config import TrainConfig
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
    """TRY_AGAIN where another try may go better, 2 where the run's environment never worked, else 1."""
    if isinstance(error, EnvironmentFailed) and error.never_worked:
        return 2
    return TRY_AGAIN if isinstance(error, RUN_FAILURES) and not isinstance(error, FINAL_FAILURES) else 1


@dataclass(frozen=True)
class Summary:
    """What became of a training."""

    env_steps: int
    env_frames: int
    updates: int
    steps: int
    """Environment steps of this process or group of learners, in ``seconds``: without those before a resume."""
    seconds: float
    mean_return: float | None
    episodes: int
    """How many ``mean_return`` is of: the last 100 at most."""
    notes: Mapping[str, int]
    """Counts that should be zero."""
    profile: list[tuple[str, str]]
    paths: Mapping[str, Path | str]


def print_start(console: Console, config: TrainConfig[Any], budget: MemoryBudget) -> None:
    """The agent and its size, what is done to rewards and ends, and what memory the run, or each of its learners, will
    hold."""
    who = f"each of {config.num_learners} learners, with its actors," if config.num_learners > 1 else "the run"
    agent = config.agent
    frozen = f"of which {budget.learned:,} learn" if budget.learned < budget.parameters else None
    trained_by = gradient_of(agent.core, agent.gradient, agent.freeze_core)
    layers = f" in each of {agent.layers} layers" if agent.layers > 1 else ""
    across = f"across layers {agent.layer_gradient}" if layers and trained_by == "rtrl" else None
    core = f"{agent.core} of {agent.hidden_size} units{layers}"
    parts = (core, trained_by, across, f"{budget.parameters:,} parameters", frozen)
    console.print(f"agent: {', '.join(filter(None, parts))}", soft_wrap=True, markup=False)
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
        (
            f"return, last {summary.episodes} episodes" if summary.episodes > 1 else "return",
            "no episode has ended since it began or went on" if mean_return is None else number_text(mean_return),
        ),
    ]
    rows += [(name, f"{count:,}") for name, count in summary.notes.items() if count]
    print_table(console, title, [*rows, *summary.profile], summary.paths)
    if stopped_by:
        console.print(f"Continue with: {resume_command(summary.paths['run'])}", soft_wrap=True, markup=False)


def resume_command(place: Path | str) -> str:
    """What goes on with the run at a path or a URL."""
    return shlex.join(("r2ac", "train", "--resume", str(place)))
