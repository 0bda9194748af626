"""The command line: ``r2ac train | evaluate | plot | envs``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from r2ac.envs import InvalidOption, MissingPackage, UnknownTask
from r2ac.launch.cluster import ConnectionFailed
from r2ac.launch.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.errors import RunError
from r2ac.launch.evaluate import EvaluationConfig, evaluate, evaluation_path, write_evaluation
from r2ac.launch.plot import plot_runs
from r2ac.launch.presets import preset
from r2ac.launch.progress import print_table
from r2ac.launch.rollout_source import ActorsLost
from r2ac.launch.run_directory import RunDirectory
from r2ac.launch.tables import EpisodeProgress, print_evaluations, print_suites, reference_lines
from r2ac.launch.train import open_interrupted, train
from r2ac.learner import TrainingDiverged
from r2ac.learner.checkpoint import CheckpointError

USAGE = """\
Train, evaluate and plot recurrent actor-critics with exact real-time recurrent learning.

usage: r2ac COMMAND …

  r2ac train TASK [--flags]            train an agent, e.g. r2ac train memory/tmaze --seed 2
  r2ac train --resume RUN [--flags]    go on with an interrupted run
  r2ac evaluate RUN_OR_CHECKPOINT …    play whole episodes, by default on seeds that no training uses
  r2ac plot RUN …                      draw learning curves
  r2ac envs                            every suite and task, and whether it can run here

r2ac COMMAND --help lists the flags of a command, r2ac train TASK --help those of a task with its preset.
"""

# Whatever the user can mend is told in one sentence, with exit code 2.
USER_ERRORS = (UnknownTask, InvalidOption, MissingPackage, ConfigError, ConnectionFailed, RunError, CheckpointError)


@dataclass(frozen=True)
class EnvsArguments:
    """Show every suite and task, whether it can run here, and if not, what to install."""


@dataclass(frozen=True)
class PlotArguments:
    """Draw the learning curves of runs: mean and spread over the seeds of one configuration."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    output: Path | None = None
    """The picture (.png, .svg or .pdf); curves.png in the first run if not given."""
    x: Literal["steps", "frames"] = "steps"
    """What the x axis counts."""
    metric: str = "episode_return"
    """What the y axis shows, a key of metrics.jsonl."""
    smoothing: float | None = None
    """Window of the trailing mean, in units of the x axis; 0: none; about 2 % of the run if not given."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Play whole episodes on seeds that no training uses, and write evaluation.json into each run."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories (their newest checkpoint) or checkpoints."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)


def train_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac train TASK [--flags]`` or ``r2ac train --resume RUN [--flags]``."""
    resumed, prog, rest = None, "r2ac train TASK", list(arguments)
    if any(word == "--resume" or word.startswith("--resume=") for word in rest):
        if rest[0] != "--resume" or len(rest) < 2 or rest[1].startswith("-"):
            raise ConfigError(
                "--resume comes first, with the run and without a task: r2ac train --resume RUN [--flags]"
            )
        path = Path(rest[1])
        resumed = open_interrupted(path)
        default = replace(config_from_json(resumed.run.read_config(), resumed.run.config_path), run_dir=path)
        prog, rest = "r2ac train --resume RUN", rest[2:]
    elif not rest:
        raise ConfigError("the task is missing: r2ac train TASK, such as memory/tmaze (r2ac envs lists them)")
    elif rest[0] in ("-h", "--help"):
        default = preset("memory/tmaze")
        rest = ["--help"]
    elif rest[0].startswith("-"):
        raise ConfigError("the task comes first, then the flags, such as r2ac train memory/tmaze --seed 2")
    else:
        default = preset(rest.pop(0))
        prog = f"r2ac train {default.task}"
    config = _parse(TrainConfig[type(default.env)], prog, rest, default)  # type: ignore[misc]
    if resumed is not None and config.run_dir != default.run_dir:
        raise ConfigError(f"--run-dir is {config.run_dir}, but a run goes on where it is, in {default.run_dir}")
    return train(config, console, resumed)


def evaluate_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac evaluate RUN_OR_CHECKPOINT … [--flags]``."""
    parsed = _parse(EvaluateArguments, "r2ac evaluate", arguments)
    _require_runs(parsed.runs, "evaluate")
    parsed.evaluation.check()
    targets = [evaluation_path(path) for path in parsed.runs]
    for path, target in zip(parsed.runs, targets, strict=True):
        if targets.count(target) > 1:
            raise ConfigError(f"{path} would share {target} with another one: evaluate them one at a time")
    rows = []
    for path in parsed.runs:
        with EpisodeProgress(console, str(path)) as progress:
            evaluation = evaluate(path, parsed.evaluation, progress.update)
        rows.append((path, evaluation, write_evaluation(path, evaluation)))
    print_evaluations(console, rows)
    return 0


def plot_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac plot RUN … [--flags]``."""
    parsed = _parse(PlotArguments, "r2ac plot", arguments)
    _require_runs(parsed.runs, "plot")
    output = parsed.output or RunDirectory(parsed.runs[0]).curves_path
    lines = reference_lines(parsed.runs) if parsed.metric == "episode_return" else {}
    written = plot_runs(parsed.runs, output, parsed.x, parsed.metric, parsed.smoothing, lines)
    print_table(console, "learning curves", [], {"figure": written})
    return 0


def envs_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac envs``."""
    _parse(EnvsArguments, "r2ac envs", arguments)
    print_suites(console)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str], Console], int]] = {
    "train": train_command,
    "evaluate": evaluate_command,
    "plot": plot_command,
    "envs": envs_command,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2 for bad input, told in one sentence; 1 for a run that failed)."""
    # A file has no width: tables need not be cut to that of a terminal.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    errors = Console(stderr=True, highlight=False)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        console.print(USAGE, markup=False, end="", soft_wrap=True)
        return 0 if words else 2
    if words[0] == "--version":
        console.print(f"r2ac {version('r2ac')}")
        return 0
    command = COMMANDS.get(words[0])
    try:
        if command is None:
            raise ConfigError(f"there is no command {words[0]!r}; the commands are {', '.join(COMMANDS)}")
        return command(words[1:], console)
    except USER_ERRORS as error:
        errors.print(f"r2ac: {error}", markup=False, soft_wrap=True)
        return 2
    except (TrainingDiverged, ActorsLost) as error:
        errors.print(f"r2ac: {error}", markup=False, soft_wrap=True)
        return 1
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parse(kind: Any, prog: str, arguments: Sequence[str], default: Any = None) -> Any:
    """The dataclass ``kind`` from the command line; tyro ends the program with code 2 where it cannot be read."""
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed)
    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=prog, args=list(arguments), config=markers, **extra)


def _require_runs(runs: Sequence[Path], command: str) -> None:
    if not runs:
        raise ConfigError(f"r2ac {command} needs at least one run directory")
