"""The results of a sweep's trials, read from their run directories, and their table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from r2ac.launch.runs.run_directory import RunDirectory, json_text, write_atomically
from r2ac.launch.runtime.errors import RunDirectoryError, RunError, os_errors_as
from r2ac.launch.runtime.progress import number_text
from r2ac.launch.settings.config import config_from_json
from r2ac.launch.sweeps.space import Settings
from r2ac.launch.sweeps.sweep_plan import SweepPlan, TrialPlan
from r2ac.launch.sweeps.trial import Record, lines_since, mean_of
from r2ac.learner.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint

TRAINED, FAILED, BEGUN, WAITING = "trained", "failed", "interrupted", "not begun"


@dataclass(frozen=True)
class TrialResult:
    name: str
    state: str
    score: float | None
    """Mean of the metric over the last ten lines; None where it was not measured."""
    env_steps: int
    last_settings: Settings
    """Those of ``settings`` that a population changes, as they are now; else as they were drawn."""
    copies: int
    """How often it took over the weights of another."""
    failure: str | None


def result_of(plan: SweepPlan, trial: TrialPlan, crash: str | None = None) -> TrialResult:
    """What its run directory holds; ``crash`` is what ended its process, where that is known."""
    run = RunDirectory(plan.sweep_dir / trial.name)
    settings, steps, score = dict(trial.settings), 0, math.nan
    try:
        record = Record.read(run.path)
        if run.config_path.exists():
            config = config_from_json(run.read_config(), run.config_path)
            numbers = vars(config.learner)
            settings |= {name: numbers[name.replace("-", "_")] for name in plan.perturbed}
            # The file holds them once the member trains again.
            settings |= record.copies[-1].settings if record.copies else {}
            steps = int(load_checkpoint(latest_checkpoint(run.checkpoints)).counters["env_steps"])
            score = mean_of(lines_since(run.path, record.last_copied, steps), plan.settings.metric)
    except (RunError, CheckpointError) as error:
        return TrialResult(trial.name, FAILED if crash else BEGUN, None, steps, settings, 0, crash or str(error))
    failure = record.failure or crash
    state = FAILED if failure else TRAINED if steps >= trial.config.total_steps else BEGUN if steps else WAITING
    finite = None if math.isnan(score) else score
    return TrialResult(trial.name, state, finite, steps, settings, len(record.copies), failure)


def ranked(results: Sequence[TrialResult], minimise: bool) -> list[TrialResult]:
    """Best first; those that failed or were not measured come last."""

    def key(result: TrialResult) -> tuple[bool, float]:
        if result.score is None:
            return True, math.inf
        return result.state == FAILED, result.score if minimise else -result.score

    return sorted(results, key=key)


def write_description(plan: SweepPlan, results: Iterable[TrialResult] = ()) -> None:
    """Write ``sweep.json``: all settings and the results. Raises RunDirectoryError where it cannot be written."""
    known = {result.name: asdict(result) for result in results}
    trials = [{"name": t.name, "settings": t.settings, **known.get(t.name, {})} for t in plan.trials]
    contents = {"task": plan.task, "flags": plan.flags, "sweep": plan.settings.to_json(), "trials": trials}
    with os_errors_as(RunDirectoryError, f"{plan.sweep_dir} cannot hold a sweep"):
        plan.sweep_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(plan.description, json_text(contents, indent=2))


def print_results(console: Console, plan: SweepPlan, results: Sequence[TrialResult]) -> None:
    """The table, best first, what failed, and where everything lies."""
    settings, population = plan.settings, plan.settings.is_population
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("trial", settings.metric, "steps", *plan.space, *(["copies"] if population else []), ""):
        table.add_column(name, justify="left" if name in ("trial", "") else "right", no_wrap=True)
    for result in ranked(results, settings.minimise):
        score = "–" if result.score is None else number_text(result.score)  # noqa: RUF001
        cells = [result.name, score, f"{result.env_steps:,}", *(_text(result.last_settings, n) for n in plan.space)]
        cells += [str(result.copies)] if population else []
        table.add_row(*map(Text, (*cells, "" if result.state == TRAINED else result.state)))
    console.print(f"[bold]{plan.task}[/bold]: sweep of {len(results)} trials", highlight=False)
    console.print(table)
    for result in results:
        if result.failure:
            console.print(f"{result.name} failed: {result.failure}", markup=False, soft_wrap=True)
    for label, path in (("runs", plan.sweep_dir / "trial-*"), ("summary", plan.description)):
        console.print(f"  {label:<8} {path}", soft_wrap=True, markup=False)


def _text(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, "")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
