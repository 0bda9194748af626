"""Numbers and lists as text, the same everywhere on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from r2ac.launch.evaluation.statistics import Estimate
from r2ac.launch.runtime.progress import number_text, short_count, spread_text

# Control characters, which neither XML nor a reader has a use for, and bytes of file names that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text with a replacement character for each that cannot be printed."""
    return _UNPRINTABLE.sub("\ufffd", text)


def number(value: float) -> str:
    """``0.985``, ``1,234.5``, ``0.000152``."""
    return number_text(value) if abs(value) < 100 else f"{value:,.1f}"


def percent(value: float) -> str:
    """``98.5 %`` of 0.985."""
    return f"{100 * value:,.1f} %"


def percent_estimate(estimate: Estimate) -> str:
    """``98.5 % [97.0, 99.5]``, or ``98.5 %`` where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} [{100 * estimate.low:,.1f}, {100 * estimate.high:,.1f}]"


def spread(values: Sequence[float], percents: bool = False) -> str:
    """``0.985 ± 0.010``, mean and standard deviation (n - 1) of the values, or ``0.985`` of a single one."""
    average, deviation = mean(values), stdev(values) if len(values) > 1 else None
    if not percents:
        return spread_text(average, deviation, 3 if abs(average) < 100 else 1)
    more = "" if deviation is None else f" ± {100 * deviation:,.1f}"
    return f"{100 * average:,.1f}{more} %"


def count_range(values: Iterable[int]) -> str:
    """``400k``, or ``100k to 400k``."""
    known = sorted(set(values))
    ends = dict.fromkeys(short_count(value) for value in (known[0], known[-1])) if known else {}
    return " to ".join(ends)


def counted(count: int, noun: str) -> str:
    """``1 run``, ``3 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[object], most: int = 8) -> str:
    """``a, b, c``; of more than so many the first and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
