"""What RTRL adds to the gradients of trained agents, and how far back they reach: measured, printed and written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from r2ac.launch.evaluation.evaluation_progress import EpisodeProgress
from r2ac.launch.evaluation.plan import BAD_INPUT
from r2ac.launch.inspection.inspect_config import InspectConfig
from r2ac.launch.inspection.inspect_plot import EXTENSIONS, draw_inspections
from r2ac.launch.inspection.inspect_run import (
    PERCENTILES,
    Inspection,
    checkpoints_at,
    inspect_checkpoint,
    results_path,
    write_inspection,
)
from r2ac.launch.inspection.staleness import Staleness
from r2ac.launch.runs.loading import folder_of
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.progress import print_table, short_count
from r2ac.launch.watching.pictures import check_output
from r2ac.learner.checkpoint import CheckpointError


def inspect_runs(config: InspectConfig, console: Console) -> int:
    """Inspect all checkpoints of runs, or checkpoints; the figure is ``output``, or lies in the first run. Returns 0
    where everything has been inspected, 1 where a part could not be, 2 where nothing could."""
    failures: list[str] = []
    found: dict[Path, list[Path]] = {}
    for path in config.runs:
        try:
            checkpoints = checkpoints_at(path)
            known = found.get(results_path(path), [])
            found[results_path(path)] = list(dict.fromkeys([*known, *checkpoints]))
        except BAD_INPUT as error:
            failures.append(str(error))
    if found:
        check_output(config.output or next(iter(found)).with_suffix(".png"), EXTENSIONS)

    inspected: dict[Path, list[Inspection]] = {}
    for results, checkpoints in found.items():
        try:
            if inspections := _inspect_all(checkpoints, config, console, failures):
                _print(console, results.parent, inspections)
                write_inspection(inspections, results)
                inspected[results] = inspections
        except BAD_INPUT as error:
            failures.append(str(error))
    print_failures(failures)
    if not inspected:
        return 2
    figure = config.output or next(iter(inspected)).with_suffix(".png")
    metrics = {}
    for results in inspected:
        # A checkpoint may lie anywhere, and a run may have measured nothing yet.
        with suppress(RunDirectoryError):
            metrics[results] = read_metrics(results.parent)
    draw_inspections(inspected, metrics, figure)
    names = ["results" if len(inspected) == 1 else f"results {n}" for n in range(1, len(inspected) + 1)]
    print_table(console, "inspected", [], {**dict(zip(names, inspected, strict=True)), "figure": figure})
    return 1 if failures else 0


def _inspect_all(
    checkpoints: Sequence[Path], config: InspectConfig, console: Console, failures: list[str]
) -> list[Inspection]:
    """Of one run; a wrong checkpoint does not stop the others; a fault of all is reported once."""
    inspections = []
    for path in checkpoints:
        try:
            inspections.append(_inspect(path, config, console))
        except CheckpointError as error:
            failures.append(str(error))
    return inspections


def _inspect(path: Path, config: InspectConfig, console: Console) -> Inspection:
    with EpisodeProgress(console, f"{folder_of(path)}: {path.name}", what="rollouts") as progress:
        return inspect_checkpoint(path, config, lambda played: progress.update(played, config.played))


def _print(console: Console, folder: Path, inspections: Sequence[Inspection]) -> None:
    first = inspections[0]
    streams = f"{first.reach.measured} rollouts of {first.streams} streams, after {first.config.warm_up}"
    rows = [("task", first.training.task), ("trained by", first.about), ("parameters", f"{first.parameters:,}")]
    rows.append(("measured", streams))
    print_table(console, str(folder), rows)
    console.print(_parts(inspections))
    console.print("Error of a gradient that stops so many steps before the rollout (0: TBPTT):", style="dim")
    errors = _table("steps", *(f"{each.steps:,}" for each in first.reach.truncations))
    for each in inspections:
        errors.add_row(short_count(each.env_steps), *(f"{at.error:.2g}" for at in each.reach.truncations))
    console.print(errors)
    for each in inspections:
        if each.staleness is not None:
            _print_staleness(console, each, each.staleness)


def _print_staleness(console: Console, inspection: Inspection, staleness: Staleness) -> None:
    console.print(
        f"After {short_count(inspection.env_steps)} steps, carried gradient against the exact one at the present "
        f"parameters (learning rate {staleness.learning_rate:g}, exact through {staleness.history} rollouts): angles "
        "in degrees and ratios of norms by the updates that lie behind; after: of the same rollout after its update",
        style="dim",
    )
    table = _table("updates", "angle", "ratio", "boundary alone", "ratio", "angle after", "boundary after", "TBPTT")
    for each in staleness.gradients:
        table.add_row(
            f"{each.first_age}" if each.first_age == each.last_age else f"{each.first_age} to {each.last_age}",
            f"{each.angle:.2f}",
            f"{each.ratio:.3f}",
            f"{each.boundary_angle:.2f}",
            f"{each.boundary_ratio:.3f}",
            f"{each.angle_after:.2f}",
            f"{each.boundary_angle_after:.2f}",
            f"{each.truncated_angle:.1f}",
        )
    console.print(table)


def _parts(inspections: Sequence[Inspection]) -> Table:
    lives = f"half-life {'/'.join(map(str, PERCENTILES))} %"
    table = _table("steps", "boundary", "inside", "ratio", "cosine", "horizon", lives)
    for each in inspections:
        reach = each.reach
        numbers = (reach.boundary_norm, reach.inside_norm, each.ratio)
        table.add_row(
            short_count(each.env_steps),
            *(f"{number:.3g}" for number in numbers),
            f"{reach.cosine:+.2f}",
            f"{reach.credit_horizon:.1f}",
            " / ".join(f"{life:.3g}" for life in each.half_life_percentiles()),
        )
    return table


def _table(*columns: str) -> Table:
    headers = (Column(column, justify="right", no_wrap=True) for column in columns)
    return Table(*headers, box=None, padding=(0, 2, 0, 0), pad_edge=False)
