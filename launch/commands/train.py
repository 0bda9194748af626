"""``r2ac train``: one training, or one for each task of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.envs import MissingPackage, Task, find_tasks, one_suite
from r2ac.launch.commands.parsing import parse, take_flag, with_options
from r2ac.launch.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.presets import preset
from r2ac.launch.run_directory import default_run_directory
from r2ac.launch.suite_training import SuiteRun, train_suite
from r2ac.launch.train import Resumed, open_interrupted, train


def train_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac train TASK [--flags]``, ``r2ac train --suite LIST [--flags]`` or ``r2ac train --resume RUN [--flags]``."""
    rest = list(arguments)
    if not rest:
        raise ConfigError("the task is missing: r2ac train TASK, such as memory/tmaze (r2ac envs lists them)")
    if rest[0] in ("-h", "--help"):
        example = preset("memory/tmaze")
        parse(with_options(TrainConfig, example.env), "r2ac train TASK", ["--help"], example)
    if any(word == "--resume" or word.startswith("--resume=") for word in rest):
        if rest[0] != "--resume" or len(rest) < 2 or rest[1].startswith("-"):
            raise ConfigError(
                "--resume comes first, with the run and without a task: r2ac train --resume RUN [--flags]"
            )
        return _resume(Path(rest[1]), rest[2:], console)
    names = take_flag(rest, "--suite")
    if names is not None:
        return _begin_suite(names, rest, console)
    if rest[0].startswith("-"):
        raise ConfigError("the task comes first, then the flags, such as r2ac train memory/tmaze --seed 2")
    return train(training_config(rest[0], rest[1:]), console)


def training_config(task: str, arguments: Sequence[str]) -> TrainConfig[Any]:
    """The task's preset with what the flags say. What suits the agent depends on what it is shown, and that on the
    flags of the environment: where those change the preset, the flags are read once more over the fitting one."""
    rest = list(arguments)
    protocol = take_flag(rest, "--preset")
    default = preset(task, protocol)
    prog, kind = f"r2ac train {task}", with_options(TrainConfig, default.env)
    named = " or ".join(one_suite(find_tasks(task)).presets)
    doc = " ".join((TrainConfig.__doc__ or "").split())
    about = f"{doc} Presets of this suite, which flags override: --preset {named}" if named else None
    config = parse(kind, prog, rest, default, about)
    fitting = preset(task, options=config.env)
    if fitting != replace(default, env=config.env):
        config = parse(kind, prog, rest, fitting)
    return config


def _continued(resumed: Resumed, path: Path, arguments: Sequence[str]) -> TrainConfig[Any]:
    """The settings of an interrupted run with what the flags say."""
    before = config_from_json(resumed.run.read_config(), resumed.run.config_path)
    default = replace(before, run_dir=path)
    config = parse(with_options(TrainConfig, default.env), "r2ac train --resume RUN", arguments, default)
    if config.run_dir != default.run_dir:
        raise ConfigError(f"--run-dir is {config.run_dir}, but a run goes on where it is, in {default.run_dir}")
    return config


def _resume(path: Path, arguments: list[str], console: Console) -> int:
    if SuiteRun.at(path):
        begun = SuiteRun.open(path)
        # Of a flag that is given twice the last holds.
        return _train_suite(replace(begun, flags=(*begun.flags, *arguments)), console)
    resumed = open_interrupted(path)
    return train(_continued(resumed, path, arguments), console, resumed)


def _begin_suite(names: str, arguments: list[str], console: Console) -> int:
    """``r2ac train --suite LIST``; with the ``--run-dir`` of one that has begun it goes on."""
    if arguments and not arguments[0].startswith("-"):
        raise ConfigError(f"--suite {names} trains an agent on each of its tasks: {arguments[0]!r} cannot be given too")
    flags = list(arguments)
    given = take_flag(flags, "--run-dir")
    first = training_config(find_tasks(names)[0].name, flags)
    path = Path(given) if given else default_run_directory(names, first.agent.label, first.seed)
    if SuiteRun.at(path) and (begun := SuiteRun.open(path)) != SuiteRun(path, names, tuple(flags)):
        raise ConfigError(
            f"{path} holds a training on {begun.names} with other flags; r2ac train --resume {path} goes on with it"
        )
    return _train_suite(SuiteRun(path, names, tuple(flags)), console)


def _train_suite(suite: SuiteRun, console: Console) -> int:
    tasks = find_tasks(suite.names)
    for task in tasks:
        # Before the first is begun: a wrong flag or a missing engine shall not be met after days.
        if (sentence := task.suite.missing()) is not None:
            raise MissingPackage(sentence)
        config = training_config(task.name, suite.flags)
        config.check()
        task.suite.check_here(task.short_name, config.env)
    suite.write()

    def configure(task: Task, path: Path, resumed: Resumed | None) -> TrainConfig[Any]:
        if resumed is not None:
            flags = list(suite.flags)
            take_flag(flags, "--preset")
            return _continued(resumed, path, flags)
        return replace(training_config(task.name, suite.flags), run_dir=path)

    return train_suite(suite, tasks, configure, console)
