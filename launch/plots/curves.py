"""Learning curves: the points of runs, which runs belong together, and what they come to."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from r2ac.launch.evaluation.statistics import bootstrap_mean
from r2ac.launch.runs.event_files import find_tag, has_event_files, read_scalars
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.run_groups import RunGroup, group_labels, leave_out, tasks_of, unnamed_differences
from r2ac.launch.runtime.errors import RunDirectoryError

Axis = Literal["steps", "frames", "hours"]
Band = Literal["std", "stderr", "bootstrap"]

_Floats = NDArray[np.float64]
Curve = tuple[_Floats, _Floats]
"""x (rising) and y of one run, [P] each."""

AXES: Mapping[str, tuple[str, float]] = {
    "steps": ("env_steps", 1.0),
    "frames": ("env_frames", 1.0),
    "hours": ("wall_time", 1.0 / 3600.0),
}
"""What each x axis counts: a key of metrics.jsonl, and the size of its unit on the axis."""

_GRID_POINTS = 400
CSV_COLUMNS = ("task", "label", "seed", "x", "y", "low", "high", "run", "x_unit", "metric", "band", "window")


@dataclass(frozen=True)
class GroupCurve:
    """What the runs of a group come to on one task."""

    label: str
    """What sets the group apart from others; empty where there is only one."""
    group: RunGroup
    runs: tuple[Path, ...]
    """The runs of the group that have measured this task."""
    seeds: tuple[Any, ...]
    curves: tuple[Curve, ...]
    """Of each run, smoothed."""
    grid: _Floats
    """[G], evenly spaced over the range that all runs share; the mean and the two edges of the band are [G] too."""
    mean: _Floats
    band: tuple[_Floats, _Floats] | None
    """Lower and upper edge; None for a single run."""


@dataclass(frozen=True)
class Panel:
    task: str
    """Empty where no run says which task it is."""
    window: float
    """Of the trailing mean, in units of x; 0: not smoothed."""
    curves: tuple[GroupCurve, ...]
    note: str = ""
    """The settings that differ beside those in the labels, in a sentence; empty where there are none."""


def make_panels(
    groups: Sequence[RunGroup],
    x: Axis,
    metric: str,
    smoothing: float | None = None,
    band: Band = "std",
    left_out: list[str] | None = None,
) -> list[Panel]:
    """One panel for each task, with a curve for each group that has measured it; in the order of the groups.

    ``smoothing`` is the window of the trailing mean that each run is smoothed by, in units of x; None: about 2 % of the
    longest run of the task. Raises RunDirectoryError where a run is damaged or has not measured ``metric`` over x, or
    runs share no range of x; ``left_out`` takes the sentences of these errors instead.
    """
    points: dict[Path, dict[str, Curve]] = {}
    for group in groups:
        for run in group.runs:
            points[run] = {}
            try:
                points[run] = read_curves(run, group.task, x, metric)
            except RunDirectoryError as error:
                leave_out(error, left_out)
    groups = [group for group in groups if any(points[run] for run in group.runs)]
    tasks = dict.fromkeys(task for curves in points.values() for task in curves)
    members = {task: [g for g in groups if any(task in points[run] for run in g.runs)] for task in tasks}
    foreign = any(group.name is not None for group in groups)
    labels = dict(zip(map(id, groups), group_labels(groups, list(members.values())), strict=True))
    panels = []
    for task, here in members.items():
        curves = {run: points[run][task] for group in here for run in group.runs if task in points[run]}
        longest = max(at[-1] for at, _ in curves.values())
        window = float(f"{longest / 50:.1g}") if smoothing is None else smoothing
        smoothed = {run: smooth(curve, window) for run, curve in curves.items()}
        group_curves = []
        for group in here:
            try:
                label = labels[id(group)] or ("r2ac" if foreign else "")
                group_curves.append(_group_curve(label, group, smoothed, x, band))
            except RunDirectoryError as error:
                leave_out(error, left_out)
        if group_curves:
            note = unnamed_differences([curve.group for curve in group_curves], list(members.values()))
            panels.append(Panel(task, window, tuple(group_curves), note))
    return panels


def read_curves(run: Path, task: str, x: Axis, metric: str) -> dict[str, Curve]:
    """The points of a run where ``metric`` was measured and finite, by rising x: task -> curve.

    A run that is trained on several tasks (``task`` is then a list, see `find_tasks`) has measured the return of each:
    of ``episode_return`` there is a curve for each of them. Of all else there is one, under ``task`` as it stands. The
    points are those of ``metrics.jsonl``, or, where there is none, of the TensorBoard event files. Raises
    RunDirectoryError where the run is damaged or has not measured ``metric`` over x.
    """
    axis, unit = AXES[x]
    points: dict[str, Curve] = {}
    if not RunDirectory(run).metrics_path.exists() and has_event_files(run):
        if x == "frames":
            raise RunDirectoryError(
                f"{run} holds TensorBoard events only, which count no frames: choose --x steps or hours"
            )
        scalars = read_scalars(run)
        for panel, key in _keys(run, task, metric, scalars).items():
            points[panel] = scalars[key].steps if x == "steps" else scalars[key].seconds, scalars[key].values
        together = ""
    else:
        rows = read_metrics(run)
        for panel, key in _keys(run, task, metric, {name for row in rows for name in row}).items():
            points[panel] = measured_points(rows, axis, key)
        together = f" together with {axis}"
    curves = {}
    for panel, (at, values) in points.items():
        finite = np.flatnonzero(np.isfinite(values))
        if finite.size:
            rising = finite[np.argsort(at[finite], kind="stable")]
            curves[panel] = at[rising] * unit, values[rising]
    if not curves:
        raise RunDirectoryError(f"{run} has measured no finite value of {metric}{together}")
    return curves


def measured_points(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> Curve:
    """The points of the lines of ``metrics.jsonl`` that hold finite numbers under both keys."""
    pairs = [(row[x], row[y]) for row in rows if is_number(row.get(x)) and is_number(row.get(y))]
    at, values = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    return at, values


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def write_csv(panels: Sequence[Panel], output: Path, x: Axis, metric: str, band: Band) -> None:
    """One line for each point of each curve (tidy data), with the columns `CSV_COLUMNS`.

    The points of a run carry its seed and path, and no low and high; those of a group's mean have ``mean`` as their
    seed, no run, and the band in low and high where the group has several runs. ``window`` is that of the trailing mean
    in units of x, 0 for none. Raises OSError.
    """
    with open(output, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for panel in panels:
            writer.writerows((*row, x, metric, band, panel.window) for row in _csv_rows(panel))


def _csv_rows(panel: Panel) -> Iterator[tuple[object, ...]]:
    for curve in panel.curves:
        low, high = curve.band or (None, None)
        for i, (at, mean) in enumerate(zip(curve.grid.tolist(), curve.mean.tolist(), strict=True)):
            edges = ("", "") if low is None or high is None else (float(low[i]), float(high[i]))
            yield panel.task, curve.label, "mean", at, mean, *edges, ""
        for run, seed, points in zip(curve.runs, curve.seeds, curve.curves, strict=True):
            named = "" if seed is None else seed
            for at, value in zip(*(axis.tolist() for axis in points), strict=True):
                yield panel.task, curve.label, named, at, value, "", "", run


def mean_curve(curves: Sequence[Curve], grid: _Floats, band: Band) -> tuple[_Floats, tuple[_Floats, _Floats] | None]:
    """The mean [G] over the curves, each interpolated linearly at ``grid`` [G] (see `shared_grid`), and the lower and
    upper edge of a band, [G] each; None in place of these for a single curve.

    ``band``, over n curves: ``std``: mean ± the standard deviation of a sample, sqrt(sum((y - mean)^2) / (n - 1));
    ``stderr``: mean ± that over sqrt(n); ``bootstrap``: the 95 % interval of the mean (`bootstrap_mean`).
    """
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    mean = values.mean(axis=0)
    if len(curves) == 1:
        return mean, None
    if band == "bootstrap":
        return mean, bootstrap_mean(values)
    deviation = values.std(axis=0, ddof=1) / (math.sqrt(len(curves)) if band == "stderr" else 1.0)
    return mean, (mean - deviation, mean + deviation)


def shared_grid(curves: Sequence[Curve], points: int = _GRID_POINTS) -> _Floats:
    """Evenly spaced x over the range that all the curves share; empty where they share none."""
    start = max(x[0] for x, _ in curves)
    stop = min(x[-1] for x, _ in curves)
    if start > stop:
        return np.empty(0)
    return np.unique(np.linspace(start, stop, points))


def smooth(curve: Curve, window: float) -> Curve:
    """The trailing mean: y[i] <- mean of the y[j] with x[i] - window < x[j] <= x[i], and of those with x[j] = x[i]."""
    x, y = curve
    if window == 0:
        at, first, counts = np.unique(x, return_index=True, return_counts=True)
        return at, np.add.reduceat(y, first) / counts
    first = np.minimum(np.searchsorted(x, x - window, side="right"), np.searchsorted(x, x, side="left"))
    past = np.searchsorted(x, x, side="right")
    # Each window by itself: in the difference of two sums a value that is huge would swallow all after it.
    return x, np.array([y[start:stop].mean() for start, stop in zip(first, past, strict=True)])


def _group_curve(label: str, group: RunGroup, smoothed: Mapping[Path, Curve], x: Axis, band: Band) -> GroupCurve:
    runs, seeds = zip(*(pair for pair in zip(group.runs, group.seeds, strict=True) if pair[0] in smoothed), strict=True)
    curves = tuple(smoothed[run] for run in runs)
    grid = shared_grid(curves)
    if not grid.size:
        names = ", ".join(map(str, runs))
        raise RunDirectoryError(f"the runs {names} share no range of {x} and cannot be averaged")
    mean, edges = mean_curve(curves, grid, band)
    return GroupCurve(label, group, runs, seeds, curves, grid, mean, edges)


def _keys(run: Path, task: str, metric: str, names: Iterable[str]) -> dict[str, str]:
    """Task -> the name under which the run has measured ``metric`` there."""
    measured = set(names)
    several = tasks_of(task)
    if metric == "episode_return" and len(several) > 1:
        of_task = {full: f"returns/{full.partition('/')[2]}" for full in several}
        keys = {full: key for full, key in of_task.items() if key in measured}
        if keys:
            return keys
    key = find_tag(measured, metric)
    if key is None:
        if metric == "episode_return" and "env_steps" in measured:
            raise RunDirectoryError(f"{run} has not measured {metric}: no episode has ended in it yet")
        raise RunDirectoryError(f"{run} has not measured {metric} (it has measured {', '.join(sorted(measured))})")
    return {task: key}
