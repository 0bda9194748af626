"""An evaluation from its plan to the last result: what is on file, what is played, what is written and shown."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from r2ac.launch.evaluation.evaluate import Evaluation
from r2ac.launch.evaluation.evaluation_progress import Amount, EvaluationProgress, expected_time
from r2ac.launch.evaluation.plan import EvaluationPlan, Planned, is_refused
from r2ac.launch.evaluation.results_file import EvaluationFile
from r2ac.launch.evaluation.tables import TaskMeans, evaluation_markdown, print_evaluations, task_means
from r2ac.launch.evaluation.workers import Unit, Workers, check_can_be_ended, play_units
from r2ac.launch.runs.loading import folder_of
from r2ac.launch.runs.run_directory import write_atomically
from r2ac.launch.runtime.errors import RunError, os_errors_as
from r2ac.launch.runtime.stop_signals import StopSignals


def play_plan(
    plan: EvaluationPlan,
    console: Console,
    workers: Workers,
    signals: StopSignals,
    stall_seconds: float = 60.0,
    fresh: bool = False,
) -> None:
    """Play what is missing of a plan, or until a signal comes; every seed is on file once it has ended, and no other
    evaluation may write there meanwhile. What fails is noted in the plan.

    After ``stall_seconds`` without a step of a seed the progress names it; with ``fresh`` what is on file is not
    used. Raises ConnectionFailed if there is no Ray cluster at the address given, ConfigError if a GPU is asked for and
    Ray has none and for a time-out of steps in this process, RunError where a file can no longer be written.
    """
    with ExitStack() as stack:
        files, begun_anew = _open_files(plan, fresh, stack)
        rows = plan.rows
        missing = [
            Unit(i, seed, replace(row.evaluation, episodes=()))
            for i, row in enumerate(rows)
            for seed in row.evaluation.seeds_missing
        ]
        if not missing:
            return
        check_can_be_ended(missing, workers)
        for sentence in begun_anew:
            _print(console, sentence)
        seeds = sum(row.evaluation.config.seeds for row in rows)
        _print(console, _outlook(missing, seeds))
        amounts = [
            Amount(
                f"{row.path.name} {row.evaluation.task} {row.evaluation.config.split}",
                row.evaluation.config.seeds * row.evaluation.config.episodes,
                len(row.evaluation.episodes),
            )
            for row in rows
        ]
        progress = stack.enter_context(EvaluationProgress(console, amounts, stall_seconds=stall_seconds))
        for unit, report in stack.enter_context(closing(play_units(missing, plan.agents, workers, signals))):
            progress.update(unit, report)
            row = rows[unit.row]
            if report.episodes is not None:
                row.evaluation = row.evaluation.with_seed(report.episodes, report.engines_lost)
                files[row.target].put(row.evaluation)
            if report.failure is not None:
                plan.fail(report.failure)
    if signals.received is not None:
        left = seeds - sum(len(row.evaluation.seeds_missing) for row in rows)
        rest = f"{left} of {seeds} seeds are on file; the same command plays the others"
        _print(console, f"Stopped by {signals.received.name}: {rest}")


def print_results(plan: EvaluationPlan, console: Console) -> None:
    """The table, what was written, and the page of each training on a suite, which is written here."""
    results = plan.results
    if not results:
        return
    print_evaluations(console, [(_name(row.path, results), row.evaluation) for row in results], _means(results))
    written = dict.fromkeys(row.target for row in results if not row.of_suite)
    for argument in dict.fromkeys(row.argument for row in results if row.of_suite):
        written[_write_page(argument, [row.evaluation for row in results if row.argument == argument])] = None
    for path in written:
        _print(console, f"  written  {path}")


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)


def _open_files(plan: EvaluationPlan, fresh: bool, stack: ExitStack) -> tuple[dict[Path, EvaluationFile], list[str]]:
    """The files that results are written into, locked, and a sentence for each row that begins anew. What they hold is
    put into the plan; rows whose file cannot be opened are taken out."""
    files: dict[Path, EvaluationFile] = {}
    begun_anew = []
    rows, plan.rows = plan.rows, []
    for row in rows:
        with plan.noting():
            if row.target not in files:
                files[row.target] = stack.enter_context(EvaluationFile(row.target, fresh))
            row.evaluation, sentence = files[row.target].go_on(row.evaluation)
            plan.rows.append(row)
            if sentence is not None:
                begun_anew.append(f"{row.path}: {sentence}")
    return files, begun_anew


def _outlook(missing: Sequence[Unit], seeds: int) -> str:
    """What is to be played, out of so many seeds, and how long it may take."""
    evaluations = [unit.evaluation for unit in missing]
    parts = "1 part" if len(missing) == 1 else f"{len(missing)} parts"
    line = f"{sum(each.config.episodes for each in evaluations):,} episodes to play, in {parts}"
    if seeds > len(missing):
        line += f"; {seeds - len(missing)} of {seeds} seeds are on file"
    if limits := sorted({each.environment.max_episode_steps for each in evaluations} - {0}):
        line += f"; cut off after {' or '.join(f'{limit:,}' for limit in limits)} steps"
    pace = expected_time(
        [(folder_of(each.checkpoint), each.config.episodes) for each in evaluations if not is_refused(each)]
    )
    return line if pace is None else f"{line}; {pace} at the pace of the training"


def _name(path: Path, rows: Sequence[Planned]) -> str:
    """The last part of a path, or all of it where several end so."""
    others = {row.path for row in rows} | {row.argument for row in rows}
    return path.name if sum(other.name == path.name for other in others) == 1 else str(path)


def _means(rows: Sequence[Planned]) -> list[tuple[str, TaskMeans]]:
    """Over the tasks of each directory of runs; of each run where it has several tasks of its own."""

    def together(row: Planned) -> tuple[Path, str]:
        split = row.evaluation.config.split
        alike = [other for other in rows if (other.argument, other.evaluation.config.split) == (row.argument, split)]
        whole = len(alike) == len({other.evaluation.task for other in alike})
        return row.argument if whole else row.path, split

    means = task_means((together(row), row.evaluation) for row in rows)
    return [(f"{_name(path, rows)}, split {split}", mean) for (path, split), mean in means.items()]


def _write_page(folder: Path, evaluations: Sequence[Evaluation]) -> Path:
    page = folder / "evaluation.md"
    means = task_means((f"split {each.config.split}", each) for each in evaluations)
    with os_errors_as(RunError, f"{page} cannot be written"):
        write_atomically(page, evaluation_markdown(evaluations, list(means.items())))
    return page
