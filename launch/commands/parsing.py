"""Reading a command line into a typed dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from r2ac.launch.config import ConfigError


def parse(kind: Any, prog: str, arguments: Sequence[str], default: Any = None, description: str | None = None) -> Any:
    """The dataclass ``kind`` from the command line; tyro ends the program with code 2 where it cannot be read."""
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed)
    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=prog, args=list(arguments), config=markers, description=description, **extra)


def with_options(kind: Any, options: Any) -> Any:
    """The generic dataclass `kind` for the type of a suite's options: their flags are then known."""
    return kind[type(options)]


def is_flag(word: str, flag: str) -> bool:
    """Whether a word of the command line is this flag, alone or with its value; underscores are dashes, as tyro has
    it."""
    return word.startswith("--") and word.partition("=")[0].replace("_", "-") == flag


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """What follows a flag, written ``--flag value`` or ``--flag=value``; None where it is not there.

    Raises:
        ConfigError: where nothing follows.
    """
    for i, word in enumerate(arguments):
        if is_flag(word, flag):
            if "=" in word:
                return word.partition("=")[2]
            if i + 1 == len(arguments) or arguments[i + 1].startswith("--"):
                raise ConfigError(f"{flag} is given without a value")
            return arguments[i + 1]
    return None


def take_flag(arguments: list[str], flag: str) -> str | None:
    """The same, and takes both out of the arguments."""
    value = flag_value(arguments, flag)
    if value is not None:
        i = next(i for i, word in enumerate(arguments) if is_flag(word, flag))
        del arguments[i : i + (1 if "=" in arguments[i] else 2)]
    return value


def require_runs(runs: Sequence[Path], command: str) -> None:
    if not runs:
        raise ConfigError(f"r2ac {command} needs at least one run directory")
