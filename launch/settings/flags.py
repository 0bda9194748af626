"""Reading a command line into a typed dataclass."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from r2ac.envs import find_tasks, one_suite
from r2ac.launch.settings.config import ConfigError, TrainConfig, require
from r2ac.launch.settings.places import local_path
from r2ac.launch.settings.presets import preset, preset_options

_UNITS = {"": 0, "k": 3, "M": 6, "B": 9}
_COUNT = re.compile(r"([+-]?(?:\d[\d_]*)(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)([kMB]?)", re.ASCII)


def whole_number(word: str) -> int:
    """A whole number as people write it: 1000000, 1_000_000, 1e6, 500k, 2M, 1.5M, 1B.

    Raises:
        ValueError: for anything else; the message is one sentence.
    """
    match = _COUNT.fullmatch(word)
    if match is not None:
        value = Decimal(match[1]).scaleb(_UNITS[match[2]])
        if value == value.to_integral_value():
            return int(value)
    raise ValueError(f"{word!r} is no whole number; write one such as 1000000, 1_000_000, 1e6, 500k or 2M")


_RULES = ConstructorRegistry()


def _read_by(read: Callable[[str], Any], kind: type, metavar: str) -> None:
    """Let ``read`` make the value of every field of type ``kind`` or ``kind | None`` out of a word."""

    @_RULES.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        optional = set(get_args(info.type)) == {kind, NoneType}
        if info.type is not kind and not optional:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: None if optional and words == ["None"] else read(words[0]),
            is_instance=lambda value: isinstance(value, kind) or (optional and value is None),
            str_from_instance=lambda value: [str(value)],
        )


_read_by(whole_number, int, "INT")
_read_by(local_path, Path, "PATH")

_PARSER: dict[str, Any] = {"config": (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed), "registry": _RULES}


def parse(kind: Any, prog: str, arguments: Sequence[str], default: Any = None, description: str | None = None) -> Any:
    """The dataclass ``kind`` from the command line; tyro ends the program with code 2 where it cannot be read."""
    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=prog, args=list(arguments), description=description, **_PARSER, **extra)


def parse_known(kind: Any, prog: str, arguments: Sequence[str], default: Any = None) -> tuple[Any, list[str]]:
    """The same, and all words that are not for ``kind``, in their order."""
    extra = {} if default is None else {"default": default}
    parsed, rest = tyro.cli(kind, prog=prog, args=list(arguments), return_unknown_args=True, **_PARSER, **extra)
    return parsed, list(rest)


def with_options(kind: Any, options: Any) -> Any:
    """The generic dataclass `kind` for the type of a suite's options: their flags are then known."""
    return kind[type(options)]


def is_flag(word: str, flag: str) -> bool:
    """Whether a word of the command line is this flag, alone or with its value; underscores are dashes, as tyro has
    it."""
    return word.startswith("--") and word.partition("=")[0].replace("_", "-") == flag


def take_flag(arguments: list[str], flag: str) -> str | None:
    """Take a flag and its value, written ``--flag value`` or ``--flag=value``, out of the arguments; returns the value,
    None where the flag is not there.

    Raises:
        ConfigError: where no value follows.
    """
    for i, word in enumerate(arguments):
        if is_flag(word, flag):
            if "=" in word:
                return arguments.pop(i).partition("=")[2]
            if i + 1 == len(arguments) or arguments[i + 1].startswith("--"):
                raise ConfigError(f"{flag} is given without a value")
            del arguments[i]
            return arguments.pop(i)
    return None


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """The same, but the arguments stay as they are."""
    return take_flag(list(arguments), flag)


def require_runs(runs: Sequence[Path], command: str) -> None:
    if not runs:
        raise ConfigError(f"r2ac {command} needs at least one run directory")


def check_ranges(arguments: object, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Raise ConfigError for the first number of the arguments that is not within its range, both ends included."""
    for name, (least, most) in ranges.items():
        value = getattr(arguments, name)
        require(value is None or least <= value <= most, name, value, f"from {least} to {most}")


def training_config(task: str, arguments: Sequence[str]) -> TrainConfig[Any]:
    """The task's preset with what the flags say. What suits the agent depends on what it is shown, and that on the
    flags of the environment: they are read first."""
    rest = list(arguments)
    options = preset_options(task, take_flag(rest, "--preset"))
    prog = f"r2ac train {task}"
    options, _ = parse_known(type(options), prog, [word for word in rest if word not in ("-h", "--help")], options)
    named = " or ".join(one_suite(find_tasks(task)).presets)
    doc = " ".join((TrainConfig.__doc__ or "").split())
    about = f"{doc} Presets of this suite, which flags override: --preset {named}" if named else None
    return parse(with_options(TrainConfig, options), prog, rest, preset(task, options=options), about)
