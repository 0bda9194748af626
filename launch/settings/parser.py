"""Reading a command line into a typed dataclass."""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.places import local_path

_UNITS = {"": 0, "k": 3, "M": 6, "B": 9}
_COUNT = re.compile(r"([+-]?(?:\d[\d_]*)(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)([kMB]?)", re.ASCII)


def whole_number(word: str) -> int:
    """A whole number as people write it: 1000000, 1_000_000, 1e6, 500k, 2M, 1.5M, 1B.
    Raises ValueError, with one sentence, for anything else."""
    match = _COUNT.fullmatch(word)
    if match is not None:
        value = Decimal(match[1]).scaleb(_UNITS[match[2]])
        if value == value.to_integral_value():
            return int(value)
    raise ValueError(f"{word!r} is no whole number; write one such as 1000000, 1_000_000, 1e6, 500k or 2M")


_ONE_AT_A_TIME = threading.RLock()
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_RULES = ConstructorRegistry()


def number(word: str) -> float:
    """Raises ValueError, with one sentence, for what is no number."""
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no number; write one such as 0.001 or 1e-3") from None


def truth(word: str) -> bool:
    """True for true, False for false, also with capitals; raises ValueError for anything else."""
    if word.lower() not in ("true", "false"):
        raise ValueError(f"{word!r} is neither true nor false")
    return word.lower() == "true"


_NO_VALUE: Mapping[Any, Mapping[str, str | None]] = {NoneType: {"None": None}, Literal["none"]: {"none": "none"}}
"""The word that may stand in the place of a value, and what it means, by its type."""


def _read_by(read: Callable[[str], Any], kind: type, metavar: str, plain: bool = True) -> None:
    """Let ``read`` make the value of every field of type ``kind | None``, ``kind | Literal["none"]`` and, if ``plain``,
    ``kind`` out of a word."""

    @_RULES.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kinds = get_args(info.type)
        no_value = next((_NO_VALUE[each] for each in kinds if each in _NO_VALUE), {})
        optional = bool(no_value) and len(kinds) == 2 and kind in kinds
        if not optional and not (plain and info.type is kind):
            return None
        or_none = ", or none" if "none" in no_value else ""

        def read_word(words: list[str]) -> Any:
            try:
                return no_value[words[0]] if words[0] in no_value else read(words[0])
            except ValueError as error:
                raise ValueError(f"{error}{or_none}") from None

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{metavar}|none" if or_none else metavar,
            instance_from_str=read_word,
            is_instance=lambda value: isinstance(value, kind) or value in no_value.values(),
            str_from_instance=lambda value: [str(value)],
        )


_read_by(whole_number, int, "INT")
_read_by(number, float, "FLOAT")
_read_by(local_path, Path, "PATH")
_read_by(truth, bool, "{true,false}", plain=False)


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """(class, field) -> its docstring as one line, of all classes in a module. What tyro does itself reads each class
    anew, in half of the time that a command takes to begin, and keeps line breaks. Empty where there is no source."""
    try:
        source = inspect.getsource(sys.modules[module])
    except OSError:
        return {}
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return {
        (of.name, field.target.id): " ".join(text.value.value.split())
        for of in classes
        for field, text in pairwise(of.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def describe(kind: type, default: Any) -> None:
    """Put the docstring of every field, or else of the dataclass in it, into its metadata, where tyro looks first."""
    for field in fields(kind):
        value = getattr(default, field.name, None)
        found = (_docstrings(base.__module__).get((base.__name__, field.name)) for base in kind.__mro__[:-1])
        text = next(filter(None, found), value.__doc__ if is_dataclass(value) else None)
        if text and "help" not in field.metadata:
            field.metadata = MappingProxyType({**field.metadata, "help": " ".join(text.split())})
        if is_dataclass(value):
            describe(type(value), value)


def _read(kind: Any, prog: str, arguments: Sequence[str], default: Any, **settings: Any) -> Any:
    describe(get_origin(kind) or kind, default)
    if default is not None:
        settings["default"] = default
    printed = io.StringIO()
    try:
        # Both change what belongs to the whole process.
        with _ONE_AT_A_TIME, redirect_stderr(printed), _wide_lines(arguments):
            parsed = tyro.cli(
                kind,
                prog=prog,
                args=list(arguments),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed),
                registry=_RULES,
                **settings,
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        raise ConfigError(_with_place(_sentence(printed.getvalue()), arguments)) from None
    sys.stderr.write(printed.getvalue())
    return parsed


@contextmanager
def _wide_lines(arguments: Sequence[str]) -> Iterator[None]:
    """Errors are not broken into lines; a help text that is asked for fits the terminal."""
    before = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def _sentence(box: str) -> str:
    """What tyro prints, a title and several parts below it, in one sentence: the first part, and the flags that are
    proposed. Parts lie between lines, in a box or, where the terminal has no characters for one, without. All of it
    where it has another form."""
    box = _COLOURS.sub("", box)
    parts: list[list[str]] = [[""]] if box.startswith("╭") else [[]]
    for line in box.splitlines():
        text = line.strip("│")
        if text.strip(" -─") == "" or text[0] in "╭╰":
            parts.append([])
        elif not text.startswith(" " * 9):  # as the descriptions of flags
            parts[-1].append(text.strip())
    parts = [part for part in parts if part][1:] or [[" ".join(box.split()) or "the command line cannot be read"]]
    sentence = " ".join(parts[0]).removeprefix("Error parsing ")
    for head, *flags in parts[1:]:
        if head.startswith("Perhaps"):
            sentence += f"; perhaps you meant {', '.join(flags)}"
        elif head.startswith("Arguments similar to"):
            sentence += f"; for {head.split()[-1].rstrip(':')} perhaps {', '.join(flags)}"
    return sentence


def _with_place(sentence: str, arguments: Sequence[str]) -> str:
    """The sentence about one word that is neither a flag nor the value of one, with the word before it."""
    unread = "Unrecognized options:"
    word = sentence.removeprefix(unread).strip()
    places = [i for i, each in enumerate(arguments) if each == word or each.endswith(f"={word}")]
    if not sentence.startswith(unread) or word.startswith("-") or len(places) != 1:
        return sentence
    at = places[0]
    before = ["", *arguments][at] if arguments[at] == word else arguments[at].removesuffix(f"={word}")
    takes_none = before.startswith("--") and "=" not in before
    shown = f"{unread} {word or repr(word)}"
    return f"{shown}, after {before}" + ", which takes no value" * takes_none if before not in ("", "--") else shown


def parse(kind: Any, prog: str, arguments: Sequence[str], default: Any = None, description: str | None = None) -> Any:
    """The dataclass ``kind`` from the command line. Raises ConfigError where it cannot be read, and SystemExit with
    code 0 after it printed the help that was asked for."""
    return _read(kind, prog, arguments, default, description=description)


def parse_known(kind: Any, prog: str, arguments: Sequence[str], default: Any = None) -> tuple[Any, list[str]]:
    """The same, and all words that are not for ``kind``, in their order."""
    parsed, rest = _read(kind, prog, arguments, default, return_unknown_args=True)
    return parsed, list(rest)
