"""``r2ac train``: one training, or one for each task of a suite. Flags are checked before torch is imported."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from rich.console import Console

from r2ac.envs import find_tasks
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.flags import flag_value, parse_with_options, take_flag, training_config
from r2ac.launch.settings.places import is_url, local_place
from r2ac.launch.settings.presets import preset


def train_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac train TASK [--flags]``, ``r2ac train --suite LIST [--flags]`` or ``r2ac train --resume RUN [--flags]``."""
    rest = list(arguments)
    if not rest:
        raise ConfigError("the task is missing: r2ac train TASK, such as memory/tmaze (r2ac envs lists them)")
    if rest[0] in ("-h", "--help"):
        example = preset("memory/tmaze")
        parse_with_options(TrainConfig, "r2ac train TASK", ["--help"], example, example.task)
    if any(word == "--resume" or word.startswith("--resume=") for word in rest):
        if rest[0] != "--resume" or len(rest) < 2 or rest[1].startswith("-"):
            raise ConfigError(
                "--resume comes first, with the run and without a task: r2ac train --resume RUN [--flags]"
            )
        if rest[2:] and not rest[2].startswith("-"):
            raise ConfigError(f"--resume goes on with the task of the run: {rest[2]!r} cannot be given too")
        return _start().resume(local_place(rest[1]), rest[2:], console)
    names = take_flag(rest, "--suite")
    if names is not None:
        return _begin_suite(names, rest, console)
    if rest[0].startswith("-"):
        raise ConfigError("the task comes first, then the flags, such as r2ac train memory/tmaze --seed 2")
    task, *flags = rest
    url = take_flag(flags, "--run-dir") if is_url(flag_value(flags, "--run-dir") or "") else None
    config = training_config(task, flags)
    config.check()
    return _start().begin(config, url, flags, console)


def _begin_suite(names: str, arguments: list[str], console: Console) -> int:
    if arguments and not arguments[0].startswith("-"):
        raise ConfigError(f"--suite {names} names all tasks, joined by commas: {arguments[0]!r} cannot be given too")
    flags = list(arguments)
    given = take_flag(flags, "--run-dir")
    first = training_config(find_tasks(names)[0].name, flags, names)
    return _start().begin_suite(first, names, local_place(given) if given else None, flags, console)


def _start() -> ModuleType:
    """The module that trains, and torch with it. To look for garbage among what is imported takes a tenth of a start:
    what is there after the first import is never looked through."""
    # The profiler of torch, which reads this once, would report its start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if gc.isenabled() and "torch" not in sys.modules:
        gc.disable()
        try:
            import_module("torch")
        finally:
            gc.freeze()
            gc.enable()
    from r2ac.launch.train import start

    return start
