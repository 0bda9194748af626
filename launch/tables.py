"""What evaluate and plot show on the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from r2ac.envs import find_task
from r2ac.launch.config import config_from_json
from r2ac.launch.evaluate import Evaluation
from r2ac.launch.progress import short_count
from r2ac.launch.run_directory import RunDirectory


class EpisodeProgress:
    """Counts the episodes of an evaluation: a bar in a terminal, elsewhere a plain line every ``interval`` seconds."""

    def __init__(self, console: Console, label: str, interval: float = 10.0) -> None:
        self._console, self._label, self._interval = console, label, interval
        self._shown = time.monotonic()
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        self._bar = self._bars.add_task(label, total=None)

    def update(self, played: int, total: int) -> None:
        """``played`` of ``total`` episodes have ended."""
        self._bars.update(self._bar, completed=played, total=total)
        now = time.monotonic()
        if not self._console.is_interactive and now - self._shown >= self._interval:
            self._shown = now
            self._console.print(f"{self._label}: {played:,}/{total:,} episodes", markup=False, soft_wrap=True)

    def __enter__(self) -> EpisodeProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()


def print_evaluations(console: Console, rows: Sequence[tuple[Path, Evaluation, Path]]) -> None:
    """One line for each checkpoint (what was named and what was found), the protocol, and what was written."""
    first = rows[0][1].config
    actions = "the most probable actions" if first.greedy else "sampled actions"
    console.print(f"[bold]{first.seeds} x {first.episodes} episodes[/bold], split {first.split}, {actions}")
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("run", "task", "agent"):
        table.add_column(name, no_wrap=name != "run", overflow="fold")
    for name in ("steps", "return", "normalised"):
        table.add_column(name, justify="right", no_wrap=True)
    names = [path.name for path, _, _ in rows]
    for path, evaluation, _ in rows:
        spread = "" if evaluation.std_return is None else f" ± {evaluation.std_return:,.3f}"
        normalised = evaluation.normalised_return
        table.add_row(
            path.name if names.count(path.name) == 1 else str(path),
            evaluation.task,
            evaluation.training.agent.label,
            short_count(evaluation.env_steps),
            f"{evaluation.mean_return:,.3f}{spread}",
            "" if normalised is None else f"{100 * normalised:,.1f} %",
        )
    console.print(table)
    for _, _, written in rows:
        console.print(f"  written  {written}", soft_wrap=True, markup=False)


def reference_lines(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """For each task of the runs, the reference returns that a learning curve is read against."""
    lines = {}
    for path in runs:
        run = RunDirectory.open(path, for_writing=False)
        config = config_from_json(run.read_config(), run.config_path)
        scores = find_task(config.task).reference_scores(config.env)
        if scores is not None:
            lines[config.task] = {scores.low_name: scores.low, scores.high_name: scores.high}
    return lines
