"""The drawings of a report: curves, bars, intervals and profiles of configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from r2ac.launch.evaluation.statistics import Estimate, Profile
from r2ac.launch.plots.plot import spaced
from r2ac.launch.plots.reference_lines import Line
from r2ac.launch.report.svg import INK, LINE, MUTED, bar_style, colour, drawn, inline_svg, line_style, new_figure
from r2ac.launch.runtime.progress import short_count

_Floats = NDArray[np.float64]
# Inches.
_ROW, _THIN_ROW, _AXIS = 0.4, 0.18, 0.46
_REFERENCE: dict[str, Any] = {"color": MUTED, "lw": 0.9, "ls": (0, (4, 3)), "zorder": 1}
"""How a line that others are compared with is drawn."""


@dataclass(frozen=True)
class StyledCurve:
    """A curve of the configuration with that number."""

    number: int
    x: _Floats
    """[P], as y and the lower and the upper edge of the band."""
    y: _Floats
    band: tuple[_Floats, _Floats] | None = None


@dataclass(frozen=True)
class Bar:
    """A value of the configuration with that number."""

    number: int
    name: str
    value: float
    text: str
    """The value, as it is shown."""
    error: float | None = None
    """Half the length of the error bar."""
    points: tuple[float, ...] = ()
    """Drawn as dots beside the bar."""


@drawn()
def draw_curves(
    curves: Sequence[StyledCurve],
    x_label: str,
    y_label: str,
    label: str,
    lines: Sequence[Line] = (),
    height: float = 2.9,
    from_zero: bool = False,
) -> Markup:
    """Curves with their bands over x, and horizontal lines with their names at the right; ``from_zero`` is for what is
    never below 0."""
    figure, (axes,) = new_figure(height)
    width = 1.6 if len(curves) <= 8 else 1.0
    for curve in curves:
        marker = "o" if len(curve.x) == 1 else ""
        axes.plot(curve.x, curve.y, marker=marker, lw=width, **line_style(curve.number))
        if curve.band is not None:
            axes.fill_between(curve.x, *curve.band, color=colour(curve.number), alpha=0.2, lw=0)
    axes.margins(x=0.01)
    axes.set_xlim(left=min(0.0, *(float(curve.x[0]) for curve in curves)))
    if from_zero:
        highest = max(float(curve.y.max()) for curve in curves)
        axes.set_ylim(0, 1.05 * highest if highest > 0 else 1.0)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
    axes.yaxis.set_major_formatter(lambda value, _: short_count(value))
    axes.grid()
    _draw_lines(axes, lines, height)
    return inline_svg(figure, label)


@drawn()
def draw_bars(bars: Sequence[Bar], x_label: str, label: str, lines: Sequence[Line] = ()) -> Markup:
    """A bar in each row below its name, and vertical lines with their names on top."""
    figure, (axes,) = new_figure(_AXIS + _ROW * len(bars) + (0.15 if lines else 0.0))
    for row, bar in enumerate(bars):
        _draw_bar(axes, bar, row + 0.2, 0.3)
        _name_row(axes, f"{_short(bar.name, 50 - len(bar.text))}: {bar.text}", row - 0.13)
    for line in lines:
        axes.annotate(
            line.name, (line.value, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", fontsize=9, color=MUTED,
        )  # fmt: skip
    _finish_rows(axes, x_label, len(bars) - 0.5, -0.5, [line.value for line in lines])
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
    return inline_svg(figure, label)


@drawn()
def draw_grouped_bars(groups: Mapping[str, Sequence[Bar]], x_label: str, label: str) -> Markup:
    """Thin bars below the name of their group, in percent, with lines at 0 and 100 %."""
    rows = sum(len(bars) + 2 for bars in groups.values())
    figure, (axes,) = new_figure(_AXIS + _THIN_ROW * rows)
    row = 0.0
    for name, bars in groups.items():
        _name_row(axes, _short(name), row + 0.25)
        for i, bar in enumerate(bars, start=1):
            _draw_bar(axes, bar, row + i + 0.2, 0.75)
        row += len(bars) + 2
    _finish_rows(axes, x_label, row - 1.2, -0.4, (0.0, 1.0))
    _in_percent(axes)
    return inline_svg(figure, label)


@drawn()
def draw_intervals(
    rows: Sequence[tuple[int, str, Estimate]], x_label: str, label: str, middle: float | None = None
) -> Markup:
    """An estimate with its interval in each row below its name, in percent; ``middle`` is where a line stands."""
    figure, (axes,) = new_figure(_AXIS + _ROW * len(rows))
    for row, (number, name, estimate) in enumerate(rows):
        if estimate.low is not None and estimate.high is not None:
            length = estimate.high - estimate.low
            axes.barh(row + 0.2, length, 0.3, estimate.low, alpha=0.45, lw=0, **bar_style(number))
        axes.plot([estimate.value] * 2, [row + 0.02, row + 0.38], color=colour(number), lw=2.6, solid_capstyle="butt")
        _name_row(axes, _short(name), row - 0.13)
    axes.margins(x=0.08)
    if middle is not None:
        axes.set_xlim(0, 1)
    _finish_rows(axes, x_label, len(rows) - 0.5, -0.5, () if middle is None else (middle,))
    _in_percent(axes)
    return inline_svg(figure, label)


@drawn()
def draw_profiles(profiles: Sequence[tuple[int, Profile]], label: str) -> Markup:
    """The share of runs above each threshold, with its band."""
    figure, (axes,) = new_figure(2.9)
    for number, profile in profiles:
        axes.plot(profile.thresholds, profile.share, lw=1.6, drawstyle="steps-post", **line_style(number))
        if profile.low is not None and profile.high is not None:
            style: dict[str, Any] = {"color": colour(number), "alpha": 0.2, "lw": 0}
            axes.fill_between(profile.thresholds, profile.low, profile.high, step="post", **style)
    axes.set(xlabel="normalised score τ", ylabel="share of runs with score > τ", ylim=(-0.02, 1.02))
    axes.margins(x=0.01)
    axes.grid()
    _in_percent(axes)
    axes.yaxis.set_major_formatter(_percent)
    return inline_svg(figure, label)


def thinned(x: _Floats, y: _Floats, points: int) -> tuple[_Floats, _Floats]:
    """A curve of at most so many points: means over stretches of as many neighbours."""
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points + 1).round().astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def _percent(value: float, _: float) -> str:
    return f"{100 * value:g} %"


def _draw_bar(axes: Axes, bar: Bar, y: float, height: float) -> None:
    axes.barh(y, bar.value, height, alpha=0.75, lw=0, **bar_style(bar.number))
    if bar.error is not None:
        axes.errorbar(bar.value, y, xerr=bar.error, color=INK, lw=1.1, capsize=2.5)
    if len(bar.points) > 1:
        axes.plot(bar.points, [y] * len(bar.points), "o", color=INK, ms=2.6, mew=0, alpha=0.6)


def _name_row(axes: Axes, name: str, y: float) -> None:
    """The name stands within the axes, where it takes no room from the bars however long it is."""
    text = axes.text(0.0, y, name, transform=axes.get_yaxis_transform(), ha="left", va="center", clip_on=False)
    text.set_in_layout(False)


def _short(name: str, length: int = 52) -> str:
    """What there is room for; the whole names stand beside the figures."""
    return name if len(name) <= length else f"{name[: length // 2]}…{name[(length + 1) // 2 - length :]}"


def _finish_rows(axes: Axes, x_label: str, bottom: float, top: float, lines: Sequence[float]) -> None:
    axes.set_ylim(bottom, top)
    for value in lines:
        axes.axvline(value, **_REFERENCE)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(0.0, color=LINE, lw=0.8, zorder=1)
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")


def _in_percent(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(_percent)


def _draw_lines(axes: Axes, lines: Sequence[Line], height: float) -> None:
    ordered = sorted(lines, key=lambda line: line.value)
    for line in ordered:
        axes.axhline(line.value, **_REFERENCE)
    low, high = axes.get_ylim()
    heights = [(line.value - low) / (high - low) for line in ordered]
    # Names are 12 points high, the axes about the height of the figure without its lower margin.
    for line, at, value in zip(ordered, spaced(heights, 12 / (72 * (height - 0.5))), heights, strict=True):
        axes.annotate(
            line.name, (1.0, value), xycoords="axes fraction", xytext=(1.02, at), textcoords="axes fraction",
            va="center", fontsize=9, color=MUTED, annotation_clip=False,
        )  # fmt: skip
