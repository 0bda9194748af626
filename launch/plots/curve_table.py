"""Learning curves as a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from r2ac.launch.plots.curves import Axis, Band, Panel
from r2ac.launch.runtime.errors import RunError, os_reason

COLUMNS = ("task", "label", "seed", "x", "y", "low", "high", "run", "x_unit", "metric", "band", "window")


def write_csv(panels: Sequence[Panel], output: Path, x: Axis, metric: str, band: Band) -> None:
    """One line for each point of each curve (tidy data), with the columns `COLUMNS`.

    The points of a run carry its seed and path, and no low and high; those of a group's mean have ``mean`` as their
    seed, no run, and the band in low and high where the group has several runs. ``window`` is that of the trailing mean
    in units of x, 0 for none.

    Raises:
        RunError: where ``output`` cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for panel in panels:
                common = (x, metric, band, panel.window)
                writer.writerows((*row, *common) for row in _rows(panel))
    except OSError as error:
        raise RunError(f"{output} cannot be written: {os_reason(error)}") from error


def _rows(panel: Panel) -> Iterator[tuple[object, ...]]:
    for curve in panel.curves:
        low, high = curve.band or (None, None)
        for i, (at, mean) in enumerate(zip(curve.grid.tolist(), curve.mean.tolist(), strict=True)):
            edges = ("", "") if low is None or high is None else (float(low[i]), float(high[i]))
            yield panel.task, curve.label, "mean", at, mean, *edges, ""
        for run, seed, points in zip(curve.runs, curve.seeds, curve.curves, strict=True):
            named = "" if seed is None else seed
            for at, value in zip(*(axis.tolist() for axis in points), strict=True):
                yield panel.task, curve.label, named, at, value, "", "", run
