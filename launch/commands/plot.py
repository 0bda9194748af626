"""``r2ac plot``: learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from r2ac.launch.plots.curves import Axis, Band
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.run_groups import first_place
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.flags import require_runs
from r2ac.launch.settings.parser import parse


@dataclass(frozen=True)
class PlotArguments:
    """Draw the learning curves of runs: mean and band over the seeds of one configuration, a panel a task."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN …")]
    """Run directories, directories that hold some at any depth, or directories with event files of other programs."""
    output: Path | None = None
    """The picture (.png, .svg or .pdf) or the table of the curves (.csv); curves.png in the first run if not given."""
    x: Axis = "steps"
    """What the x axis counts; hours of short runs are drawn as minutes or seconds."""
    metric: str = "episode_return"
    """What the y axis shows, a key of metrics.jsonl or a TensorBoard tag; a wrong name lists those there are."""
    smoothing: float | None = None
    """Window of the trailing mean, in units of the x axis; 0: none; about 2 % of the run if not given."""
    band: Band = "std"
    """Around the mean over seeds: standard deviation, standard error, or 95 % bootstrap interval of the mean."""
    paper: bool = False
    """Also draw the results of Irie et al. 2024 on the task."""


def plot_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac plot RUN … [--flags]``: 1 where some of the runs could not be drawn."""
    left_out: list[str] = []
    notes: dict[str, str] = {}
    try:
        written = plot_curves(parse(PlotArguments, "r2ac plot", arguments), left_out, notes)
    finally:
        print_failures(left_out)
    kind = "table" if written.suffix.lower() == ".csv" else "figure"
    print_table(console, "learning curves", list(notes.items()), {kind: written})
    return 1 if left_out else 0


def plot_curves(arguments: PlotArguments, left_out: list[str], notes: dict[str, str] | None = None) -> Path:
    """Draw; returns the path of what was written. ``left_out`` takes a sentence about each run that cannot be drawn,
    ``notes`` one for each task where settings differ that the labels do not name."""
    require_runs(arguments.runs, "plot")
    from r2ac.launch.plots.plot import plot_runs

    output = arguments.output or RunDirectory(first_place(arguments.runs)).curves_path
    asked = {name: getattr(arguments, name) for name in ("x", "metric", "smoothing", "band", "paper")}
    return plot_runs(arguments.runs, output, **asked, left_out=left_out, notes=notes)
