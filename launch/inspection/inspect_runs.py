"""What RTRL adds to the gradients of trained agents, and how far back they reach: measured, printed and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from r2ac.launch.evaluation.plan import BAD_INPUT
from r2ac.launch.inspection.inspect_plot import EXTENSIONS, draw_inspections
from r2ac.launch.inspection.inspect_run import (
    PERCENTILES,
    Inspection,
    InspectSettings,
    checkpoints_at,
    inspect_checkpoint,
    results_path,
    write_inspection,
)
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.progress import print_table, short_count
from r2ac.launch.watching.pictures import check_output
from r2ac.learner.checkpoint import CheckpointError


def inspect_runs(runs: Sequence[Path], settings: InspectSettings, output: Path | None, console: Console) -> int:
    """Inspect all checkpoints of runs, or checkpoints; the figure is ``output``, or lies in the first run.

    Returns:
        0 where everything has been inspected, 1 where a part could not be, 2 where nothing could.
    """
    failures: list[str] = []
    found = _find(runs, failures)
    if found:
        check_output(output or next(iter(found)).with_suffix(".png"), EXTENSIONS)

    inspected: dict[Path, list[Inspection]] = {}
    for results, checkpoints in found.items():
        try:
            inspections = _inspect_all(checkpoints, settings, console, failures)
            if inspections:
                _print(console, results.parent, inspections)
                write_inspection(inspections, results)
                inspected[results] = inspections
        except BAD_INPUT as error:
            failures.append(str(error))
    print_failures(failures)
    if not inspected:
        return 2
    figure = output or next(iter(inspected)).with_suffix(".png")
    _draw(inspected, figure)
    names = ["results" if len(inspected) == 1 else f"results {n}" for n in range(1, len(inspected) + 1)]
    print_table(console, "inspected", [], {**dict(zip(names, inspected, strict=True)), "figure": figure})
    return 1 if failures else 0


def _find(paths: Sequence[Path], failures: list[str]) -> dict[Path, list[Path]]:
    """Where the results go -> the checkpoints to inspect."""
    found: dict[Path, list[Path]] = {}
    for path in paths:
        try:
            for checkpoint in checkpoints_at(path):
                known = found.setdefault(results_path(path), [])
                if checkpoint not in known:
                    known.append(checkpoint)
        except BAD_INPUT as error:
            failures.append(str(error))
    return found


def _inspect_all(
    checkpoints: Sequence[Path], settings: InspectSettings, console: Console, failures: list[str]
) -> list[Inspection]:
    """Of one run; a wrong checkpoint does not stop the others; a fault of all is reported once."""
    inspections = []
    for checkpoint in checkpoints:
        try:
            inspections.append(_inspect(checkpoint, settings, console))
        except CheckpointError as error:
            failures.append(str(error))
    return inspections


def _draw(inspected: Mapping[Path, Sequence[Inspection]], output: Path) -> None:
    metrics = {}
    for results in inspected:
        # A checkpoint may lie anywhere, and a run may have measured nothing yet.
        with suppress(RunDirectoryError):
            metrics[results] = read_metrics(results.parent)
    draw_inspections(inspected, metrics, output)


def _inspect(checkpoint: Path, settings: InspectSettings, console: Console) -> Inspection:
    with console.status(checkpoint.name) as status:
        return inspect_checkpoint(
            checkpoint, settings, lambda done, total: status.update(f"{checkpoint.name}: {done} of {total} rollouts")
        )


def _print(console: Console, folder: Path, inspections: Sequence[Inspection]) -> None:
    first = inspections[0]
    trained = f"{first.agent}, rollouts of {first.rollout_length} steps"
    rows: list[tuple[str, object]] = [
        ("task", first.task),
        ("trained by", trained),
        ("measured", f"{first.reach.measured} rollouts of {first.streams} streams, after {first.settings.warm_up}"),
    ]
    print_table(console, str(folder), rows)
    console.print(_parts(inspections))
    console.print("Error of a gradient that stops so many steps before the rollout (0: TBPTT):", style="dim")
    console.print(_errors(inspections))


def _parts(inspections: Sequence[Inspection]) -> Table:
    """Norms of the two parts, and half-lives."""
    lives = "half-life " + "/".join(str(at) for at in PERCENTILES) + " %"
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


def _errors(inspections: Sequence[Inspection]) -> Table:
    table = _table("steps", *(f"{each.steps:,}" for each in inspections[0].reach.truncations))
    for inspection in inspections:
        table.add_row(
            short_count(inspection.env_steps), *(f"{each.error:.2g}" for each in inspection.reach.truncations)
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
