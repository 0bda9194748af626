"""The figure of an inspection: norms of the gradient's parts over training, and how far back the gradient reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from r2ac.launch.inspection.inspect_run import Inspection
from r2ac.launch.plots.curves import smooth
from r2ac.launch.runtime.progress import short_count
from r2ac.launch.watching.pictures import save_figure

EXTENSIONS = (".png", ".svg", ".pdf")
_PARTS = {"boundary_norm": ("boundary term", "#D55E00"), "inside_norm": ("inside the rollout (TBPTT)", "#0072B2")}
_MOST_LABELS = 8
_LEAST_ERROR = 1e-4  # smaller ones are rounding of float32


def draw_inspections(
    runs: Mapping[Path, Sequence[Inspection]], metrics: Mapping[Path, Sequence[Mapping[str, Any]]], output: Path
) -> None:
    """A row of three panels for each run, or checkpoint that was named by itself, by the files that results go to.

    Left: the norms of the boundary term and of the gradient inside the rollout: lines from the run's metrics, where it
    has measured them (a trailing mean over 2 % of the run), and points from its checkpoints. Middle: the error of a
    gradient that stops some steps before the rollout, one line a checkpoint. Right: the units' half-lives, by rank.
    Raises RunError if it cannot be written.
    """
    figure = Figure(figsize=(14.5, 4.6 * len(runs)), layout="constrained", facecolor="white")
    rows = figure.subfigures(len(runs), 1, squeeze=False).ravel()
    for row, (results, inspections) in zip(rows, runs.items(), strict=True):
        first = inspections[0]
        about = f"{first.training.task}: {first.about}, {first.streams} streams"
        row.suptitle(f"{results.parent.name}\n{about}", x=0.01, ha="left", fontsize=11)
        norms, errors, lives = row.subplots(1, 3)
        _draw_norms(norms, inspections, metrics.get(results, ()))
        _draw_errors(errors, inspections)
        _draw_half_lives(lives, inspections)
    save_figure(figure, output, dpi=160)


def _draw_norms(axes: Axes, inspections: Sequence[Inspection], metrics: Sequence[Mapping[str, Any]]) -> None:
    # PPO's training takes the mean of the losses over a batch, V-trace's and all points here their sum.
    means = inspections[0].training.learner.algorithm == "ppo"
    trained = "in training: mean over a batch" if means else "in training"
    at_rest = "weights at rest: sum" if means else "weights at rest"
    for (part, (label, colour)), size in zip(_PARTS.items(), (9, 4), strict=True):
        key = f"rtrl/{part}"
        rows = [(row["env_steps"], row[key]) for row in metrics if isinstance(row.get(key), int | float)]
        if rows:
            steps, values = np.array(rows, dtype=float).T
            axes.plot(*smooth((steps, values), steps[-1] / 50), color=colour, lw=1.4, label=f"{label}, {trained}")
        points = [(each.env_steps, getattr(each.reach, part)) for each in inspections]
        axes.plot(*np.array(points, dtype=float).T, "o", color=colour, ms=size, label=f"{label}, {at_rest}")
    _finish(axes, "Norms of the gradient's two parts", "environment steps", "norm")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    _logarithmic(axes, [value for line in axes.get_lines() for value in np.asarray(line.get_ydata())])
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(-0.02, -0.13))


def _draw_errors(axes: Axes, inspections: Sequence[Inspection]) -> None:
    for inspection, colour, label in _by_age(inspections):
        points = [(each.steps, each.error) for each in inspection.reach.truncations]
        axes.plot(*np.array(points, dtype=float).T, "o-", color=colour, label=label)
    length = inspections[0].training.rollout_length
    axes.set_xscale("symlog", linthresh=length, linscale=0.6)
    ticks = [each.steps for each in inspections[0].reach.truncations]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    _finish(axes, "Error of a gradient that stops so early", "steps before the rollout (0: TBPTT)", "|g - g_k| / |g|")
    _logarithmic(axes, [each.error for inspection in inspections for each in inspection.reach.truncations])
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=min(max(low, _LEAST_ERROR), high / 10))
    axes.legend(frameon=False, fontsize=8.5, title="after steps", title_fontsize=8.5)


def _draw_half_lives(axes: Axes, inspections: Sequence[Inspection]) -> None:
    drawn = [0.0]
    for inspection, colour, label in _by_age(inspections):
        lives = np.sort(inspection.half_lives)[::-1]
        lives = lives[np.isfinite(lives)]
        drawn += lives.tolist()
        more = len(inspection.half_lives) - len(lives)
        ranks = np.arange(1, len(lives) + 1) + more
        axes.plot(ranks, lives, color=colour, label=label + (f" ({more} infinite)" if more else ""))
    _finish(axes, "Half-lives of the units", "unit, by rank", "steps")
    _logarithmic(axes, drawn)
    axes.legend(frameon=False, fontsize=8.5, title="after steps", title_fontsize=8.5)


def _by_age(inspections: Sequence[Inspection]) -> list[tuple[Inspection, Any, str]]:
    """Each with its colour, light for the oldest, and its label, of which there are not too many."""
    colours = colormaps["viridis_r"](np.linspace(0.15, 1.0, len(inspections)))
    every = math.ceil(len(inspections) / _MOST_LABELS)
    # Counted from the newest, which is always named.
    labels = [
        short_count(each.env_steps) if (len(inspections) - 1 - i) % every == 0 else "_nolegend_"
        for i, each in enumerate(inspections)
    ]
    return list(zip(inspections, colours, labels, strict=True))


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic y axis where there is anything to show on it."""
    if any(value > 0 and math.isfinite(value) for value in values):
        axes.set_yscale("log")


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
