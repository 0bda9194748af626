"""The command line: ``r2ac train | evaluate | plot | envs``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import tyro
from rich.console import Console

from r2ac.envs import SUITES, EngineFailed, InvalidOption, MissingPackage, Split, UnknownTask, find_task
from r2ac.launch.cluster import ConnectionFailed
from r2ac.launch.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.errors import RunError
from r2ac.launch.evaluate import EvaluationConfig, evaluate, evaluation_path, write_evaluation
from r2ac.launch.pictures import check_output, draw
from r2ac.launch.plot import plot_runs
from r2ac.launch.presets import preset
from r2ac.launch.progress import print_table
from r2ac.launch.rollout_source import ActorsLost
from r2ac.launch.run_directory import RunDirectory
from r2ac.launch.suites import print_named, print_overview, print_suites
from r2ac.launch.tables import EpisodeProgress, print_evaluations, reference_lines
from r2ac.launch.train import open_interrupted, train
from r2ac.launch.watch import TrainedAgent, record
from r2ac.learner import CaptureFailed, TrainingDiverged
from r2ac.learner.checkpoint import CheckpointError

USAGE = """\
Train, evaluate and plot recurrent actor-critics with exact real-time recurrent learning.

usage: r2ac COMMAND …

  r2ac train TASK [--flags]            train an agent, e.g. r2ac train memory/tmaze --seed 2
  r2ac train --resume RUN [--flags]    go on with an interrupted run
  r2ac evaluate RUN_OR_CHECKPOINT …    play whole episodes, by default on seeds that no training uses
  r2ac plot RUN …                      draw learning curves
  r2ac envs [SUITE | SUITE/TASK]       every suite and task, what is seen there, and whether it can run here
  r2ac envs --watch TASK [--flags]     a picture or video of what an agent sees, of a random or a trained one

r2ac COMMAND --help lists the flags of a command, r2ac train TASK --help those of a task with its preset.
"""

# Whatever the user can mend is told in one sentence, with exit code 2.
USER_ERRORS = (UnknownTask, InvalidOption, MissingPackage, ConfigError, ConnectionFailed, RunError, CheckpointError)


@dataclass(frozen=True)
class EnvsArguments:
    """Show every suite and task, what an agent sees and does there, whether it can run here, and if not, what to
    install. What an agent sees, as a picture: r2ac envs --watch TASK [--flags]"""

    name: tyro.conf.Positional[str | None] = None
    """A suite or a task to tell more about, such as atari or atari/Breakout."""
    all: bool = False
    """Tell about every task of every suite, one line each."""


EnvOptions = TypeVar("EnvOptions")


@dataclass(frozen=True)
class WatchArguments(Generic[EnvOptions]):
    """Write a picture or a video of what an agent sees, with its actions and rewards."""

    env: EnvOptions
    agent: Path | None = None
    """Run directory or checkpoint of the agent that plays; uniformly random actions if not given."""
    greedy: bool = False
    """Let the agent take its most probable action instead of drawing from its policy."""
    steps: int | None = None
    """Steps to play; if not given, 48 for a picture and 240 for a video."""
    seed: int = 0
    """Seeds the environment and what is drawn."""
    split: Split = "train"
    """Which episodes to play: train, or test (held out)."""
    output: Path | None = None
    """The contact sheet (.png) or video (.gif, or .mp4 where imageio-ffmpeg is installed); <suite>-<task>.png in this
    folder if not given."""
    fps: int = 15
    """Steps that a video shows in a second."""

    def check(self) -> None:
        """Raise ConfigError for the first setting that is not allowed."""
        for name, least, most in (("steps", 1, 100_000), ("seed", 0, 2**64 - 1), ("fps", 1, 50)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ConfigError(f"--{name} is {value}, but it must be from {least} to {most}")


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
        return train(_train_config(rest.pop(0), rest), console, None)
    config = _parse(_generic(TrainConfig, default.env), prog, rest, default)
    if resumed is not None and config.run_dir != default.run_dir:
        raise ConfigError(f"--run-dir is {config.run_dir}, but a run goes on where it is, in {default.run_dir}")
    return train(config, console, resumed)


def _train_config(task: str, arguments: Sequence[str]) -> TrainConfig[Any]:
    """The task's preset with what the flags say. What suits the agent depends on what it is shown, and that on the
    flags of the environment: where those change the preset, the flags are read once more over the fitting one."""
    rest = list(arguments)
    protocol = _take(rest, "--preset")
    default = preset(task, protocol)
    prog, kind = f"r2ac train {task}", _generic(TrainConfig, default.env)
    named = " or ".join(find_task(task).suite.presets)
    doc = " ".join((TrainConfig.__doc__ or "").split())
    about = f"{doc} Presets of this suite, which flags override: --preset {named}" if named else None
    config = _parse(kind, prog, rest, default, about)
    fitting = preset(task, options=config.env)
    if fitting != replace(default, env=config.env):
        config = _parse(kind, prog, rest, fitting)
    return config


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
    """``r2ac envs [SUITE | SUITE/TASK] [--all]`` or ``r2ac envs --watch TASK [--flags]``."""
    rest = list(arguments)
    watched = _take(rest, "--watch")
    if watched is not None:
        return _watch(watched, rest, console)
    parsed = _parse(EnvsArguments, "r2ac envs", rest)
    if parsed.name is not None:
        print_named(console, parsed.name)
    elif parsed.all:
        print_suites(console, SUITES.values())
    else:
        print_overview(console)
    return 0


def _watch(task: str, arguments: list[str], console: Console) -> int:
    """``r2ac envs --watch TASK [--flags]``."""
    options, agent = preset(task, _take(arguments, "--preset")).env, _value(arguments, "--agent")
    trained = None if agent is None else TrainedAgent.load(Path(agent))
    if trained is not None:
        # It is shown what it was trained with, unless flags say otherwise.
        trained.check_plays(task)
        options = trained.training.env
    kind = _generic(WatchArguments, options)
    parsed = _parse(kind, f"r2ac envs --watch {task}", arguments, WatchArguments(options))
    parsed.check()
    output = parsed.output or Path(re.sub(r"[^\w.-]+", "-", task) + ".png")
    check_output(output)
    steps = parsed.steps or (48 if output.suffix.lower() == ".png" else 240)
    recording = record(
        task, parsed.env, trained, steps=steps, seed=parsed.seed, split=parsed.split, greedy=parsed.greedy
    )
    draw(recording, output, parsed.fps)
    ended = sum(moment.is_first for moment in recording.moments) - 1
    rewards = sum(moment.reward for moment in recording.moments)
    rows: list[tuple[str, object]] = [("player", recording.player), ("steps", steps), ("episodes ended", ended)]
    print_table(console, task, [*rows, ("rewards", f"{rewards:,.6g}")], {"written": output})
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
    except (TrainingDiverged, ActorsLost, EngineFailed, CaptureFailed) as error:
        errors.print(f"r2ac: {error}", markup=False, soft_wrap=True)
        return 1
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parse(kind: Any, prog: str, arguments: Sequence[str], default: Any = None, description: str | None = None) -> Any:
    """The dataclass ``kind`` from the command line; tyro ends the program with code 2 where it cannot be read."""
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed)
    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=prog, args=list(arguments), config=markers, description=description, **extra)


def _generic(kind: Any, options: Any) -> Any:
    """The generic dataclass `kind` for the type of a suite's options: their flags are then known."""
    return kind[type(options)]


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """What follows a flag, written ``--flag value`` or ``--flag=value``; None where it is not there.

    Raises:
        ConfigError: where nothing follows.
    """
    for i, word in enumerate(arguments):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag:
            if i + 1 == len(arguments) or arguments[i + 1].startswith("--"):
                raise ConfigError(f"{flag} is given without a value")
            return arguments[i + 1]
    return None


def _take(arguments: list[str], flag: str) -> str | None:
    """The same, and takes both out of the arguments."""
    value = _value(arguments, flag)
    if value is not None:
        i = next(i for i, word in enumerate(arguments) if word == flag or word.startswith(f"{flag}="))
        del arguments[i : i + 1 + (arguments[i] == flag)]
    return value


def _require_runs(runs: Sequence[Path], command: str) -> None:
    if not runs:
        raise ConfigError(f"r2ac {command} needs at least one run directory")
