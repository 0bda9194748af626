"""``r2ac evaluate``: whole episodes of trained agents."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from r2ac.launch.evaluation.protocols import Settings
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.settings.config import ConfigError, require
from r2ac.launch.settings.flags import require_runs, with_flag
from r2ac.launch.settings.parser import parse

if TYPE_CHECKING:
    from r2ac.launch.evaluation.plan import EvaluationPlan


@dataclass(frozen=True)
class EvaluateArguments:
    """Play whole episodes with trained agents, by default on seeds that no training uses, and write what was found into
    evaluation.json and evaluation.md of each run. Interrupted, the same command goes on with what is missing."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN …")] = ()
    """Run directories (their newest checkpoint), checkpoints, or directories that hold runs (at any depth: all)."""
    suite: str | None = None
    """Tasks to play, by their names or that of a list (atari-57, dmlab-30, memory), each agent those of its own suite;
    if not given, the tasks that it was trained on."""
    settings: Settings = field(default_factory=Settings)
    stall_seconds: float = 60.0
    """Seconds without a step after which the progress line says which seed stands still."""
    workers: int | None = None
    """Ray tasks side by side, each with one core; 0: this process, without Ray; as many as there are cores if not
    given, or this process where that is quick. The numbers are the same."""
    ray_address: str = "local"
    """Ray cluster to join; local starts Ray on this machine, reachable from this machine only."""
    output: Path | None = None
    """A folder for evaluation.json and evaluation.md of all that is evaluated, for runs that may not be written; those
    of each run are written into it if not given. The same command goes on with what is there."""
    fresh: bool = False
    """Begin anew: what is on file for the same checkpoints, tasks, splits and protocol does not count."""


def evaluate_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac evaluate RUN_OR_CHECKPOINT … [--flags]``: 1 where a part failed, 2 where nothing could be evaluated for
    bad input, 128 + the signal's number where one came."""
    plan, received = evaluate_runs(evaluate_arguments(arguments), console)
    print_failures(with_flag(failure.sentence) for failure in plan.failures)
    if received is not None:
        return 128 + received
    if not plan.failures:
        return 0
    return 1 if plan.results or not all(failure.bad_input for failure in plan.failures) else 2


def evaluate_arguments(words: Sequence[str]) -> EvaluateArguments:
    """The words of a command line; what a protocol prescribes is the default of the flags."""
    parsed = parse(EvaluateArguments, "r2ac evaluate", words)
    default = EvaluateArguments(settings=Settings.of(parsed.settings.protocol))
    return parse(EvaluateArguments, "r2ac evaluate", words, default)


def evaluate_runs(parsed: EvaluateArguments, console: Console) -> tuple[EvaluationPlan, signal.Signals | None]:
    """Play, write and print; returns what was found, with what failed, and the signal that ended it early, if any."""
    require_runs(parsed.runs, "evaluate")
    require(parsed.stall_seconds > 0, "stall_seconds", parsed.stall_seconds, "above 0")
    require(parsed.workers is None or parsed.workers >= 0, "workers", parsed.workers, "at least 0")
    device = _device(parsed)
    from r2ac.launch.evaluation.plan import make_plan
    from r2ac.launch.evaluation.session import play_plan, print_results
    from r2ac.launch.evaluation.workers import Workers

    plan = make_plan(parsed.runs, parsed.suite, replace(parsed.settings, device=device), parsed.output)
    workers = Workers(parsed.workers, parsed.ray_address, gpu=device.startswith("cuda"))
    with StopSignals() as signals:
        play_plan(plan, console, workers, signals, parsed.stall_seconds, parsed.fresh)
    print_results(plan, console)
    return plan, signals.received


def _device(arguments: EvaluateArguments) -> str:
    """Where the agents run. Raises ConfigError for a device that is not there, or that Ray cannot hand out."""
    here = arguments.workers == 0
    if arguments.settings.device == "auto" and not here:
        return "cpu"
    from r2ac.launch.runs.loading import choose_device

    device = choose_device(arguments.settings.device)
    if device.index is not None and not here:
        remedy = "--device cuda, or --workers 0 for this process"
        raise ConfigError(f"--device is {arguments.settings.device}, but Ray hands out the GPUs: {remedy}")
    return str(device)
