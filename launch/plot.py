"""Learning curves: runs that differ only in their seed become one curve with a band."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from r2ac.launch.errors import RunDirectoryError, RunError, os_reason
from r2ac.launch.metrics import read_metrics
from r2ac.launch.progress import short_count
from r2ac.launch.run_directory import RunDirectory

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x (rising) and y of one run, [P] each."""

EXTENSIONS = (".png", ".svg", ".pdf")
_X_KEYS = {"steps": "env_steps", "frames": "env_frames"}
# Settings that change where and how fast a run goes, or what is kept of it, but not what is learned.
_NOT_COMPARED = frozenset(
    {"seed", "run_dir", "device", "learner_threads", "threads", "ray_address", "log_steps", "checkpoint_minutes"}
    | {"keep_checkpoints"}
)
_GRID_POINTS = 400
# Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow, too pale for a line on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_LEGEND_WIDTH = 60  # characters: what fits below a panel
_INCHES_A_LINE = 0.19
_GREY = "#6b6b6b"
_UNSET = "unset"


@dataclass(frozen=True)
class RunGroup:
    """Runs whose settings are equal in everything that what is learned depends on, but for the seed."""

    settings: dict[str, Any]
    """The settings that are compared, flat: ``{"task": "memory/tmaze", "agent.gradient": "rtrl", ...}``."""
    runs: tuple[Path, ...]
    seeds: tuple[Any, ...]
    """The seed of each run."""

    @property
    def task(self) -> str:
        return str(self.settings["task"])


def group_runs(runs: Iterable[Path | str]) -> list[RunGroup]:
    """The runs by their settings, in the order in which they are first met; a run named twice counts once.

    Raises RunDirectoryError where one is not a run or its ``config.json`` is damaged or names no task.
    """
    members: dict[str, dict[Path, tuple[Path, dict[str, Any]]]] = {}
    settings_of: dict[str, dict[str, Any]] = {}
    for run in map(Path, runs):
        config = RunDirectory.open(run, for_writing=False).read_config()
        if not isinstance(config.get("task"), str):
            raise RunDirectoryError(f"config.json of {run} names no task")
        settings = {name: value for name, value in _flat(config) if name.split(".")[-1] not in _NOT_COMPARED}
        key = json.dumps(settings, sort_keys=True)
        settings_of[key] = settings
        members.setdefault(key, {}).setdefault(run.resolve(), (run, config))
    return [
        RunGroup(
            settings_of[key],
            runs=tuple(run for run, _ in group.values()),
            seeds=tuple(config.get("seed") for _, config in group.values()),
        )
        for key, group in members.items()
    ]


def differing_fields(groups: Sequence[RunGroup]) -> list[str]:
    """The settings, by their flat names, in which groups of the same task differ; the task is never one of them."""
    names = list(dict.fromkeys(name for group in groups for name in group.settings))
    return [name for name in names if any(_value(a, name) != _value(b, name) for a, b in _neighbours(groups))]


def group_label(group: RunGroup, names: Sequence[str]) -> str:
    """``gradient=rtrl, rollout_length=10`` for the flat names given; the part before the dot stays where it must."""
    last_parts = [name.split(".")[-1] for name in names]
    short = [last if last_parts.count(last) == 1 else name for name, last in zip(names, last_parts, strict=True)]
    return ", ".join(f"{label}={_value(group, name)}" for label, name in zip(short, names, strict=True))


def mean_curve(curves: Sequence[Curve], grid: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over the curves, each interpolated linearly at ``grid`` [G] -> ([G], [G]).

    The deviation is that of a sample, sqrt(sum((y - mean)^2) / (n - 1)), and 0 for a single curve. The grid must lie
    within the range that all the curves share (see `shared_grid`).
    """
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros_like(grid)
    return values.mean(axis=0), deviation


def shared_grid(curves: Sequence[Curve], points: int = _GRID_POINTS) -> NDArray[np.float64]:
    """Evenly spaced x over the range that all the curves share; empty where they share none."""
    start = max(x[0] for x, _ in curves)
    stop = min(x[-1] for x, _ in curves)
    if start > stop:
        return np.empty(0)
    return np.unique(np.linspace(start, stop, points))


def smooth(curve: Curve, window: float) -> Curve:
    """The trailing mean: y[i] <- mean of the y[j] with x[i] - window < x[j] <= x[i]."""
    x, y = curve
    first = np.minimum(np.searchsorted(x, x - window, side="right"), np.arange(len(x)))
    # Equal x see each other.
    past = np.searchsorted(x, x, side="right")
    total = np.concatenate([[0.0], np.cumsum(y)])
    return x, (total[past] - total[first]) / (past - first)


def plot_runs(
    runs: Sequence[Path | str],
    output: Path | str,
    x: Literal["steps", "frames"] = "steps",
    metric: str = "episode_return",
    smoothing: float | None = None,
    reference_lines: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Draws the learning curves of ``runs`` into ``output`` (.png, .svg or .pdf) and returns its path.

    One panel a task, one colour a group of runs (`group_runs`); a group of several seeds is drawn as its mean with a
    band of one standard deviation on either side, over the range that all its seeds share. ``smoothing`` is the window
    of the trailing mean that each run is smoothed by, in units of x (None: about 2 % of the longest run of the task; 0:
    none); the picture says which. ``reference_lines``: task -> name -> value, such as the return of chance.

    Raises RunDirectoryError where a run is missing, damaged or has not measured ``metric``, and RunError where the
    extension or x is unknown, no run is given or ``output`` cannot be written.
    """
    output = Path(output)
    if output.suffix.lower() not in EXTENSIONS:
        raise RunError(f"a picture cannot be written to {output}: its name must end in {', '.join(EXTENSIONS)}")
    if x not in _X_KEYS:
        raise RunError(f"the x axis cannot be {x!r}: choose {' or '.join(_X_KEYS)}")
    if smoothing is not None and not (math.isfinite(smoothing) and smoothing >= 0):
        raise RunError(f"the smoothing window cannot be {smoothing}: it is a number of {x}, 0 or more")
    groups = group_runs(runs)
    if not groups:
        raise RunError("there is nothing to plot: name at least one run directory")

    curves = {run: _read_curve(run, _X_KEYS[x], metric) for group in groups for run in group.runs}
    names = differing_fields(groups)
    labels = list(dict.fromkeys(group_label(group, names) for group in groups))
    tasks = list(dict.fromkeys(group.task for group in groups))
    figure, panels = _figure(len(tasks))
    for task, axes in zip(tasks, panels, strict=True):
        here = [group for group in groups if group.task == task]
        longest = max(curves[run][0][-1] for group in here for run in group.runs)
        window = float(f"{longest / 50:.1g}") if smoothing is None else smoothing
        for group in here:
            label = group_label(group, names)
            smoothed = [smooth(curves[run], window) for run in group.runs]
            _draw_group(axes, group, smoothed, label, labels.index(label), x)
        for name, value in (reference_lines or {}).get(task, {}).items():
            _draw_reference(axes, name, value)
        statement = f"trailing mean of {short_count(window)} {x}" if window else "not smoothed"
        _finish(axes, task, f"environment {x}", metric.replace("_", " "), statement)
    _make_room_for_legends(figure, panels)
    _save(figure, output)
    return output


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _value(group: RunGroup, name: str) -> Any:
    return group.settings.get(name, _UNSET)


def _neighbours(groups: Sequence[RunGroup]) -> Iterable[tuple[RunGroup, RunGroup]]:
    """Pairs of groups of one task, so many that a field that differs anywhere within a task differs in a pair."""
    for task in dict.fromkeys(group.task for group in groups):
        yield from pairwise(group for group in groups if group.task == task)


def _read_curve(run: Path, x_key: str, metric: str) -> Curve:
    """The points of a run where the metric was measured and finite, by rising x."""
    rows = read_metrics(run)
    points = [(row[x_key], row[metric]) for row in rows if _is_number(row.get(x_key)) and _is_number(row.get(metric))]
    if not points:
        measured = ", ".join(sorted({name for row in rows for name in row}))
        raise RunDirectoryError(f"{run} has not measured {metric} (it has measured {measured})")
    x, y = np.asarray(points, dtype=np.float64).T
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    columns = 2 if panels == 4 else min(panels, 3)
    rows = math.ceil(panels / columns)
    size = (7.2, 4.8) if panels == 1 else (4.8 * columns, 4.0 * rows)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    every = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in every[panels:]:
        unused.remove()
    return figure, every[:panels]


def _draw_group(axes: Axes, group: RunGroup, curves: Sequence[Curve], label: str, index: int, x: str) -> None:
    grid = shared_grid(curves)
    if not grid.size:
        names = ", ".join(map(str, group.runs))
        raise RunDirectoryError(f"the runs {names} share no range of {x} and cannot be averaged")
    mean, deviation = mean_curve(curves, grid)
    colour = _COLOURS[index % len(_COLOURS)]
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    # A line through a single point would not be seen.
    marker = "o" if grid.size == 1 else ""
    text = _count_text(group)
    legend = textwrap.fill(f"{label} ({text})" if label else text, _LEGEND_WIDTH)
    axes.plot(grid, mean, dash, color=colour, marker=marker, lw=1.9, label=legend)
    if len(curves) > 1:
        axes.fill_between(grid, mean - deviation, mean + deviation, color=colour, alpha=0.18, lw=0)


def _count_text(group: RunGroup) -> str:
    count = len(group.runs)
    if count == 1:
        return "1 seed"
    # The same seed twice is no second seed.
    return f"mean ± std of {count} {'seeds' if len(set(group.seeds)) == count else 'runs'}"


def _draw_reference(axes: Axes, name: str, value: float) -> None:
    axes.axhline(value, color=_GREY, lw=1.0, ls=(0, (4, 3)), zorder=1)
    axes.annotate(
        name, (1.0, value), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
        va="center", fontsize=9, color=_GREY, annotation_clip=False,
    )  # fmt: skip


def _finish(axes: Axes, task: str, x_label: str, y_label: str, statement: str) -> None:
    axes.set_title(task, loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.set_title(statement, loc="right", fontsize=8.5, color=_GREY, pad=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    # The margin first: the limit on the left freezes the one on the right.
    axes.margins(x=0.01)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    if max(map(abs, axes.get_ylim())) >= 10_000:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")
    axes.tick_params(color="#b0b0b0", labelcolor="#404040")
    # Below the axes it hides no curve, whatever the curves do.
    axes.legend(loc="upper left", bbox_to_anchor=(-0.01, -0.16), frameon=False, fontsize=9.5, borderaxespad=0.2)


def _make_room_for_legends(figure: Figure, panels: Sequence[Axes]) -> None:
    """Make the figure higher for legends of more than two lines, so that they do not squeeze the axes."""
    legends = [axes.get_legend() for axes in panels]
    lines = max(sum(text.get_text().count("\n") + 1 for text in legend.get_texts()) for legend in legends if legend)
    width, height = figure.get_size_inches()
    rows = len({axes.get_subplotspec().rowspan.start for axes in panels})  # type: ignore[union-attr]
    figure.set_size_inches(width, height + _INCHES_A_LINE * max(0, lines - 2) * rows)


def _save(figure: Figure, output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=200)
    except OSError as error:
        raise RunError(f"{output} cannot be written: {os_reason(error)}") from error
