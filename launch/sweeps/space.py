"""What a sweep varies: the small language of ``--vary``, and the draws from it.

NAME=a,b,c              every one of the values: with several lists, every combination
NAME=choice(a,b,c)      one of them at random for each draw
NAME=uniform(a,b)       a number between a and b
NAME=loguniform(a,b)    the same, uniform in its logarithm
NAME=randint(a,b)       a whole number from a to b, both included
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from r2ac.launch.settings.config import ConfigError

Value = float | int | str
Settings = dict[str, Value]
"""Values by the names of their flags, without the dashes in front."""

_CALL = re.compile(r"(?P<kind>[a-z_]+)\((?P<inside>.*)\)")
FORMS = "a list such as 1,2,3, or choice(a,b,…), uniform(a,b), loguniform(a,b), randint(a,b)"


@dataclass(frozen=True)
class Listed:
    """Every one of the values."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Choice:
    """One of the values."""

    values: tuple[Value, ...]

    def draw(self, generator: np.random.Generator) -> Value:
        return self.values[int(generator.integers(len(self.values)))]


@dataclass(frozen=True)
class Span:
    """A number between two bounds."""

    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def draw(self, generator: np.random.Generator) -> Value:
        """Uniform, or uniform in the logarithm."""
        if self.whole:
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        if self.logarithmic:
            return min(self.high, max(self.low, math.exp(generator.uniform(math.log(self.low), math.log(self.high)))))
        return float(generator.uniform(self.low, self.high))


Domain = Listed | Choice | Span


def parse_vary(texts: Sequence[str]) -> dict[str, Domain]:
    """What each ``--vary`` says, by the name of its flag. Raises ConfigError for other forms and repeated names."""
    space: dict[str, Domain] = {}
    for text in texts:
        name, separator, form = text.partition("=")
        name = name.strip().removeprefix("--").replace("_", "-")
        if not separator or not name or not form.strip():
            raise ConfigError(f"--vary is {text!r}, but it must be NAME=VALUES, with {FORMS}")
        if name in space:
            raise ConfigError(f"--vary {name} is given twice")
        space[name] = _parse_domain(text, form.strip())
    return space


def _parse_domain(text: str, form: str) -> Domain:
    match = _CALL.fullmatch(form)
    if match is None:
        if "(" in form or ")" in form:
            raise ConfigError(f"--vary is {text!r}, but its values must be {FORMS}")
        return Listed(_values(text, form))
    kind, inside = match["kind"], match["inside"]
    if kind == "choice":
        return Choice(_values(text, inside))
    if kind not in ("uniform", "loguniform", "randint"):
        raise ConfigError(f"--vary is {text!r}, but there is no {kind}(…): it must be {FORMS}")
    low, high = parse_bounds(f"--vary is {text!r}", inside, positive=kind == "loguniform")
    if kind == "randint" and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"--vary is {text!r}, but randint needs whole numbers")
    return Span(low, high, logarithmic=kind == "loguniform", whole=kind == "randint")


def parse_bounds(what: str, text: str, positive: bool = False) -> tuple[float, float]:
    """Two finite numbers, separated by a comma, the first below the second; else raises ConfigError with a sentence
    that begins with ``what``."""
    least = "above 0 and " if positive else ""
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"{what}, but it needs two numbers, separated by a comma") from error
    if not (-math.inf < low < high < math.inf) or (positive and low <= 0):
        raise ConfigError(f"{what}, but the first number must be {least}below the second, and both finite")
    return low, high


def _values(text: str, inside: str) -> tuple[Value, ...]:
    words = [word.strip() for word in inside.split(",")]
    if not all(words):
        raise ConfigError(f"--vary is {text!r}, but a value is missing")
    if len(set(words)) < len(words):
        raise ConfigError(f"--vary is {text!r}, but a value comes twice")
    return tuple(map(_number, words))


def _number(word: str) -> Value:
    """A number where the word is one, so that tables and charts can sort it."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def draw_settings(space: Mapping[str, Domain], draws: int, seed: int) -> list[Settings]:
    """The settings of every trial: each of ``draws`` draws of what is random, at every combination of the lists.

    The draws depend on ``seed`` and on what is random alone: sweeps with other schedulers or more draws begin equally.
    """
    generator = np.random.default_rng(seed)
    lists = {name: domain.values for name, domain in space.items() if isinstance(domain, Listed)}
    random = {name: domain for name, domain in space.items() if not isinstance(domain, Listed)}
    drawn = [{name: domain.draw(generator) for name, domain in random.items()} for _ in range(draws)]
    grid = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    return [{name: {**one, **point}[name] for name in space} for one in drawn for point in grid]
