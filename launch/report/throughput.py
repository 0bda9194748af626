"""How fast the runs of a study went, how old the weights were that acted, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from r2ac.launch.report.blocks import Block, Cell, Details, Figure, Figures, Legend, Section, Table, Text
from r2ac.launch.report.figures import Drawn, draw_curves, thinned
from r2ac.launch.report.format import counted, listed
from r2ac.launch.report.study import Configuration, StudiedRun, Study
from r2ac.launch.report.svg import swatch
from r2ac.launch.runtime.progress import short_count

_FIGURES = (
    ("throughput/steps_per_second", "Speed", "environment steps a second"),
    ("policy_lag/mean", "Policy lag", "updates between the weights that acted and those that learn, mean"),
    ("throughput/learner_wait", "Learner's wait", "share of the time in which the learner waits for rollouts"),
)
_COUNTS = (
    ("learner/skipped_updates", "skipped update"),
    ("learner/stream_resets", "stream reset"),
    ("throughput/actor_restarts", "actor restart"),
    ("throughput/engine_restarts", "engine restart"),
)
"""What should stay 0."""
_POINTS, _MOST_POINTS = 80, 9_000
"""Of a curve, and of all curves of a drawing."""
_UNITS = (("hours", 3600.0, 2 * 3600.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))
"""(name, seconds, the shortest run that is told in it)."""


def throughput_section(study: Study) -> Section:
    """Drawings over wall-clock time, a line for each run, and a table of the runs."""
    blocks: list[Block] = [
        Text(f"Nothing is known of the course of {run.name}: {run.metrics_problem}.", "missing")
        for run in study.runs
        if run.metrics_problem is not None
    ]
    pairs = [(configuration, run) for configuration in study.configurations for run in configuration.runs if run.rows]
    if not pairs:
        blocks.append(Text("No run has lines in metrics.jsonl, which would tell how fast it went.", "missing"))
        return Section("throughput", "Throughput and policy lag", tuple(blocks))
    blocks += _trouble([run for _, run in pairs])
    known = {configuration.number: configuration.name for configuration, _ in pairs}
    blocks.append(Legend(tuple(swatch(name, n) for n, name in known.items())))
    figures = [figure for key, title, y in _FIGURES if (figure := _figure(pairs, key, title, y)) is not None]
    blocks += [Figures(tuple(figures)), Details(f"Every run ({len(pairs)})", (_table(pairs),))]
    return Section("throughput", "Throughput and policy lag", tuple(blocks))


def total(counts: Iterable[float]) -> int:
    """What a counter has come to, which begins at 0 anew where a process took over: the sum of its rises."""
    result, before = 0.0, 0.0
    for count in counts:
        result += count - before if count >= before else count
        before = count
    return int(result)


def values_of(run: StudiedRun, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds and values, [P] each, of the lines that have a finite one."""
    points = [(row.get("wall_time"), row.get(key)) for row in run.rows]
    known = [(at, value) for at, value in points if _finite(at) and _finite(value)]
    at, values = np.asarray(known, dtype=np.float64).reshape(-1, 2).T
    return at, values


def _trouble(runs: Sequence[StudiedRun]) -> list[Block]:
    """One paragraph for each run with something that should not have happened."""
    blocks: list[Block] = []
    for run in runs:
        found = [counted(n, noun) for key, noun in _COUNTS if (n := total(values_of(run, key)[1]))]
        if found:
            blocks.append(Text(f"{run.name}: {listed(found)}.", "alert"))
    if not blocks:
        words = [f"{noun}s" for _, noun in _COUNTS]
        blocks.append(Text(f"No {', '.join(words[:-1])} or {words[-1]} in any of {counted(len(runs), 'run')}."))
    return blocks


def _figure(pairs: Sequence[tuple[Configuration, StudiedRun]], key: str, title: str, y: str) -> Figure | None:
    """None where nobody has measured it."""
    curves = [(configuration.number, *values_of(run, key)) for configuration, run in pairs]
    curves = [(number, at, values) for number, at, values in curves if len(at)]
    if not curves:
        return None
    longest = max(float(at[-1]) for _, at, _ in curves)
    unit, seconds = next((name, seconds) for name, seconds, least in _UNITS if longest >= least)
    points = max(20, min(_POINTS, _MOST_POINTS // len(curves)))
    drawn = [Drawn(number, *thinned(at / seconds, values, points)) for number, at, values in curves]
    means = [f"{float(values.mean()):.4g}" for _, _, values in curves]
    label = f"{title}, {y}, over {unit}; mean of each run: {listed(means)}"
    return Figure(draw_curves(drawn, unit, "", label, height=2.2, from_zero=True), title, f"{y[0].upper()}{y[1:]}.")


def _table(pairs: Sequence[tuple[Configuration, StudiedRun]]) -> Table:
    rows: list[tuple[Cell | str, ...]] = []
    for configuration, run in pairs:
        end = run.rows[-1].get("wall_time")
        seconds = float(end) if _finite(end) else 0.0
        counts = [total(values_of(run, key)[1]) for key, _ in _COUNTS]
        row: tuple[Cell | str, ...] = (
            run.name,
            Cell(configuration.name, swatch(configuration.name, configuration.number)),
            short_count(run.steps or 0),
            _duration(seconds) if seconds > 0 else "",
            short_count((run.steps or 0) / seconds) if seconds > 0 else "",
            *(_mean(run, key) for key, _, _ in _FIGURES[1:]),
            *(Cell(f"{count:,}", alert=count > 0) for count in counts),
        )
        rows.append(row)
    columns = (
        *("run", "configuration", "steps", "time", "steps a second", "policy lag", "learner's wait"),
        *(f"{noun}s" for _, noun in _COUNTS),
    )
    caption = "Steps and time of the last line that was measured; the others are means over the lines, and counts"
    return Table(caption, columns, rows, frozenset(columns[2:]))


def _mean(run: StudiedRun, key: str) -> str:
    _, values = values_of(run, key)
    return f"{float(values.mean()):.3g}" if len(values) else ""


def _duration(seconds: float) -> str:
    """``1 h 05 min``, ``2 min 10 s``, ``22 s``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:,} h {minute:02d} min" if hours else f"{minute} min {second:02d} s" if minute else f"{second} s"


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
