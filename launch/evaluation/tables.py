"""The tables of r2ac evaluate, and one number for results on several tasks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from r2ac.envs import mean_normalised_return
from r2ac.launch.evaluation.evaluate import Evaluation
from r2ac.launch.runtime.progress import short_count, spread_text

_COLUMNS = ("run", "task", "split", "agent", "steps", "episodes", "return", "normalised")
_NUMBERS = ("steps", "episodes", "return", "normalised")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class TaskMeans:
    """The normalised returns of several tasks (those that have reference scores), averaged."""

    tasks: int
    normalised_return: float
    capped_normalised_return: float
    """The same, each task counting 1 at most: with all tasks of dmlab-30 it is the score of DMLab-30."""

    def __str__(self) -> str:
        """``mean of 30 tasks: 45.1 % (43.0 % with each capped at 100 %)``."""
        mean, capped = 100 * self.normalised_return, 100 * self.capped_normalised_return
        return f"mean of {self.tasks} tasks: {mean:,.1f} % ({capped:,.1f} % with each capped at 100 %)"


def task_means(evaluations: Iterable[tuple[Key, Evaluation]]) -> dict[Key, TaskMeans]:
    """The means over results on different tasks that have one key, for keys with two or more that are complete and have
    reference scores."""
    groups: dict[Key, list[Evaluation]] = {}
    for key, each in evaluations:
        groups.setdefault(key, []).append(each)
    means = {}
    for key, group in groups.items():
        done = [(scores, each.mean_return) for each in group if each.complete and (scores := each.reference_scores)]
        if len(done) > 1:
            references, returns = zip(*done, strict=True)
            plain, capped = (mean_normalised_return(references, returns, cap) for cap in (math.inf, 1.0))
            means[key] = TaskMeans(len(done), plain, capped)
    return means


def print_evaluations(
    console: Console, rows: Sequence[tuple[str, Evaluation]], means: Sequence[tuple[str, TaskMeans]]
) -> None:
    """The protocol, one line for each result under the name of its run, and the means over tasks by their names."""
    for statement in dict.fromkeys(_statement(evaluation) for _, evaluation in rows):
        console.print(statement, style="bold", markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in _COLUMNS:
        justify: JustifyMethod = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify, no_wrap=column != "run", overflow="fold")
    for name, evaluation in rows:
        table.add_row(*map(Text, (name, *_cells(evaluation))))
    console.print(table)
    for name, mean in means:
        console.print(f"{name}: {mean}", markup=False, soft_wrap=True)


def evaluation_markdown(evaluations: Sequence[Evaluation], means: Sequence[tuple[str, TaskMeans]]) -> str:
    """The same table as a page of Markdown, with the protocol, the checkpoint and the date of each result."""
    lines = ["# Evaluation", ""]
    lines += [f"- {statement}" for statement in dict.fromkeys(_statement(evaluation) for evaluation in evaluations)]
    lines += [
        "",
        "Returns are means over the evaluation seeds, ± the standard deviation of the seeds' means. Normalised: 0 % at "
        "the task's low reference score, 100 % at its high one.",
        "",
        f"| {' | '.join((*_COLUMNS[1:], 'protocol', 'checkpoint', 'date (UTC)'))} |",
        f"|{'|'.join([*(' ---: ' if c in _NUMBERS else ' --- ' for c in _COLUMNS[1:]), *(3 * [' --- '])])}|",
    ]
    for evaluation in evaluations:
        checkpoint = f"{evaluation.checkpoint.name} ({evaluation.sha256[:12]})"
        date = (evaluation.date or "")[:16].replace("T", " ")
        cells = (*_cells(evaluation), protocol_of(evaluation), checkpoint, date)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += ["", *(f"- {name}: {mean}" for name, mean in means)] if means else []
    return "\n".join(lines) + "\n"


def protocol_of(evaluation: Evaluation) -> str:
    """Its name, and the settings that differ from it."""
    return evaluation.protocol + (f" with other {', '.join(evaluation.changed)}" if evaluation.changed else "")


def _statement(evaluation: Evaluation) -> str:
    config = evaluation.config
    actions = "the most probable actions" if config.greedy else "sampled actions"
    played = f"{config.seeds} x {config.episodes} episodes, split {config.split}"
    return f"Protocol {protocol_of(evaluation)}: {played}, {actions}"


def _cells(evaluation: Evaluation) -> tuple[str, ...]:
    """What stands in all columns but the first."""
    config, normalised = evaluation.config, evaluation.normalised_return
    played = "" if evaluation.complete else f"{len(evaluation.seeds_played)} of "
    return (
        evaluation.task,
        config.split,
        evaluation.training.label,
        short_count(evaluation.env_steps),
        f"{played}{config.seeds} x {config.episodes}",
        spread_text(evaluation.mean_return, evaluation.std_return),
        "" if normalised is None else f"{100 * normalised:,.1f} %",
    )
