"""Pictures of learning curves: runs that differ only in their seed become one curve with a band."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from r2ac.launch.plots.curves import AXES, Axis, Band, GroupCurve, Panel, make_panels, write_csv
from r2ac.launch.plots.reference_lines import PAPER_RESULTS, Line, paper_lines, reference_lines
from r2ac.launch.runs.run_groups import NO_TASK, group_runs
from r2ac.launch.runtime.errors import RunDirectoryError, RunError, os_errors_as
from r2ac.launch.runtime.progress import short_count

if TYPE_CHECKING:
    # A table, and what is refused, need no matplotlib, whose import takes as long as all else.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXTENSIONS = (".png", ".svg", ".pdf", ".csv")
_X_LABELS = {"steps": "environment steps", "frames": "environment frames"}
_TIMES = (("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))
"""Units of time, and how many of them make an hour."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which the colour-blind can distinguish, without its yellow, too pale for a line on white."""
_COLOURS = (*PALETTE, "#000000")
_DASHES = ("-", "--", ":", "-.")
_MANY = 9  # more panels than these are drawn smaller
_LEGEND_WIDTH = 60  # characters: what fits below a panel
_INCHES_A_LINE = 0.19
_GREY = "#6b6b6b"
_LINE_STYLES = {"reference": (_GREY, (0, (4, 3))), "paper": ("#8a5a00", (0, (1, 2)))}
_PAPER = "Irie et al. 2024: test return after training, mean ± std"


def plot_runs(
    runs: Sequence[Path | str],
    output: Path | str,
    x: Axis = "steps",
    metric: str = "episode_return",
    smoothing: float | None = None,
    lines: Mapping[str, Mapping[str, float]] | None = None,
    band: Band = "std",
    paper: bool = False,
    left_out: list[str] | None = None,
    notes: dict[str, str] | None = None,
) -> Path:
    """Draws the learning curves of ``runs`` into ``output`` (.png, .svg, .pdf, or .csv for a table of their points) and
    returns its path.

    One panel a task, one colour a group of runs (`group_runs`); a group of several seeds is drawn as its mean with a
    band (`mean_curve`), over the range that all its seeds share. ``lines`` (task -> name -> return) replace the
    reference scores of each task, and ``smoothing`` is as `make_panels` takes it. ``notes`` (task -> sentence)
    takes what the labels do not say of the settings that differ.

    Raises RunDirectoryError where a run is missing, damaged or has not measured ``metric``; ``left_out`` takes the
    sentences of these errors instead, as long as a run is left. Raises RunError for what else cannot be drawn or
    written.
    """
    output = Path(output)
    _check(output, x, metric, smoothing, band, paper)
    if not runs:
        raise RunError("there is nothing to plot: name at least one run directory")
    panels = make_panels(group_runs(runs, left_out), x, metric, smoothing, band, left_out)
    if not panels and left_out:
        raise RunDirectoryError(left_out.pop())
    is_table = output.suffix.lower() == ".csv"
    if notes is not None:
        notes |= {panel.task or NO_TASK: panel.note for panel in panels if panel.note}
    of_task = {} if is_table else {panel.task: _lines(panel, metric, lines, paper) for panel in panels}
    if paper and not any(line.kind == "paper" for here in of_task.values() for line in here):
        tasks = ", ".join(panel.task for panel in panels)
        raise RunError(f"the paper has no results of {tasks}; it has some of {', '.join(PAPER_RESULTS)}")
    with os_errors_as(RunError, f"{output} cannot be written"):
        output.parent.mkdir(parents=True, exist_ok=True)
        if is_table:
            write_csv(panels, output, x, metric, band)
        else:
            draw(panels, x, metric, band, of_task).savefig(output, dpi=200)
    return output


def draw(
    panels: Sequence[Panel], x: Axis, metric: str, band: Band, lines: Mapping[str, Sequence[Line]] | None = None
) -> Figure:
    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    figure, every_axes = _figure(len(panels))
    for panel, axes in zip(panels, every_axes, strict=True):
        unit, size = _unit(panel, x)
        for curve in panel.curves:
            _draw_curve(axes, curve, size, labels.index(curve.label), band)
        window = f"{short_count(panel.window * size)} {unit}"
        statement = f"trailing mean of {window}" if panel.window else "not smoothed"
        _finish(axes, panel.task or NO_TASK, statement, _X_LABELS.get(unit, unit), metric, small=len(panels) > _MANY)
        _draw_lines(axes, (lines or {}).get(panel.task, ()))
        if panel.note:
            axes.plot([], [], " ", color="none", label=textwrap.fill(panel.note, _LEGEND_WIDTH))
    _draw_legends(figure, every_axes)
    return figure


def _check(output: Path, x: str, metric: str, smoothing: float | None, band: str, paper: bool) -> None:
    if output.suffix.lower() not in EXTENSIONS:
        raise RunError(f"curves cannot be written to {output}: its name must end in {', '.join(EXTENSIONS)}")
    if x not in AXES:
        raise RunError(f"the x axis cannot be {x!r}: choose {', '.join(AXES)}")
    if band not in get_args(Band):
        raise RunError(f"the band cannot be {band!r}: choose {', '.join(get_args(Band))}")
    if smoothing is not None and not (math.isfinite(smoothing) and smoothing >= 0):
        raise RunError(f"the smoothing window cannot be {smoothing}: it is a number of {x}, 0 or more")
    if paper and metric != "episode_return":
        raise RunError(f"the paper's results are returns and cannot be drawn over {metric}")
    if paper and output.suffix.lower() == ".csv":
        raise RunError(f"the paper's results are drawn in a picture, not in a table of curves such as {output}")


def _lines(panel: Panel, metric: str, given: Mapping[str, Mapping[str, float]] | None, paper: bool) -> list[Line]:
    groups = [curve.group for curve in panel.curves]
    if given is not None:
        lines = [Line(name, value) for name, value in given.get(panel.task, {}).items()]
    else:
        lines = reference_lines(panel.task, groups) if metric == "episode_return" else []
    return lines + (paper_lines(panel.task, groups) if paper else [])


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = 2 if panels == 4 else min(panels, 3 if panels <= _MANY else 5)
    rows = math.ceil(panels / columns)
    width, height = (7.2, 4.8) if panels == 1 else (4.8, 4.0) if panels <= _MANY else (3.8, 3.0)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    every = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in every[panels:]:
        unused.remove()
    return figure, every[:panels]


def _unit(panel: Panel, x: Axis) -> tuple[str, float]:
    """The unit that x is drawn in, and how many of it are one of x: of time the largest that there are two of."""
    if x != "hours":
        return x, 1.0
    longest = max(curve.grid[-1] for curve in panel.curves)
    return next((time for time in _TIMES if longest * time[1] >= 2), _TIMES[-1])


def _draw_curve(axes: Axes, curve: GroupCurve, size: float, index: int, band: Band) -> None:
    colour = _COLOURS[index % len(_COLOURS)]
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    # A line through a single point would not be seen.
    marker = "o" if curve.grid.size == 1 else ""
    text = _count_text(curve, band)
    legend = textwrap.fill(f"{curve.label} ({text})" if curve.label else text, _LEGEND_WIDTH)
    axes.plot(curve.grid * size, curve.mean, dash, color=colour, marker=marker, lw=1.9, label=legend)
    if curve.band is not None:
        axes.fill_between(curve.grid * size, *curve.band, color=colour, alpha=0.18, lw=0)


def _count_text(curve: GroupCurve, band: Band) -> str:
    count = len(curve.runs)
    # The same seed twice is no second seed, and a run without one may have any.
    seeds = len(set(curve.seeds) - {None}) == count
    if count == 1:
        return "1 seed" if seeds else "1 run"
    of = f"of {count} {'seeds' if seeds else 'runs'}"
    return f"mean {of}, 95 % bootstrap interval" if band == "bootstrap" else f"mean ± {band} {of}"


def _finish(axes: Axes, title: str, statement: str, x_label: str, metric: str, small: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=8 if small else 12, fontweight="bold", pad=20)
    axes.annotate(
        statement, (0, 1), xycoords="axes fraction", xytext=(0, 7), textcoords="offset points", fontsize=8.5,
        color=_GREY,
    )  # fmt: skip
    axes.set_xlabel(x_label)
    axes.set_ylabel(metric.replace("_", " "))
    # The margin first: the limit on the left freezes the one on the right.
    axes.margins(x=0.01)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")
    axes.tick_params(color="#b0b0b0", labelcolor="#404040")


def _draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """The lines, each with its name at the right end, where names that would overlap are moved apart."""
    for line in lines:
        colour, dash = _LINE_STYLES[line.kind]
        axes.axhline(
            line.value, color=colour, lw=1.0, ls=dash, zorder=1, label=_PAPER if line.kind == "paper" else None
        )
    low, high = axes.get_ylim()
    if max(abs(low), abs(high)) >= 10_000:
        axes.yaxis.set_major_formatter(lambda value, _: short_count(value))
    ordered = sorted(lines, key=lambda line: line.value)
    heights = [(line.value - low) / (high - low) for line in ordered]
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    for line, height, at in zip(ordered, heights, spaced(heights, 12 / 72 / inches), strict=True):
        colour, _ = _LINE_STYLES[line.kind]
        axes.annotate(
            line.name, (1.0, height), xycoords="axes fraction", xytext=(1.035, at), textcoords="axes fraction",
            va="center", fontsize=9, color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip


def spaced(heights: ArrayLike, gap: float) -> list[float]:
    """Rising heights moved as little as possible (least squares) to be at least ``gap`` apart: isotonic regression of
    heights[i] - i gap by pooling adjacent violators."""
    pools: list[tuple[float, int]] = []
    for i, height in enumerate(np.asarray(heights, dtype=np.float64).tolist()):
        mean, size = height - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    level = [mean for mean, size in pools for _ in range(size)]
    return [mean + i * gap for i, mean in enumerate(level)]


def _draw_legends(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for the figure where a colour means the same in every panel, else one below each panel: there it hides
    no curve. The figure grows with them, so that they do not squeeze the axes."""
    own = [dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) for axes in panels]
    entries = {label: handle for legend in own for label, handle in legend.items()}
    colours = {(handle.get_color(), handle.get_linestyle()) for handle in entries.values()}
    style: dict[str, Any] = {"frameon": False, "fontsize": 9.5}
    width, height = figure.get_size_inches()
    if len(panels) > 1 and len(colours) == len(entries):
        columns = min(len(entries), max(1, int(width / 4.8)))
        figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=columns, **style)
        extra = math.ceil(len(entries) / columns) * max(label.count("\n") + 1 for label in entries)
    else:
        for axes, legend in zip(panels, own, strict=True):
            place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.01, -0.16), "borderaxespad": 0.2}
            axes.legend(legend.values(), legend.keys(), **place, **style)
        rows = len({axes.get_subplotspec().rowspan.start for axes in panels})  # type: ignore[union-attr]
        extra = rows * max(0, max(sum(label.count("\n") + 1 for label in legend) for legend in own) - 2)
    figure.set_size_inches(width, height + _INCHES_A_LINE * extra)
