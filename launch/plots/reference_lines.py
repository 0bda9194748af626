"""The horizontal lines that a learning curve is read against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from r2ac.envs import Task, UnknownTask, find_task
from r2ac.launch.plots.paper_results import paper_results
from r2ac.launch.runs.run_groups import RunGroup


@dataclass(frozen=True)
class Line:
    """A return with its name."""

    name: str
    value: float
    kind: Literal["reference", "paper"] = "reference"


def reference_lines(task: str, groups: Iterable[RunGroup]) -> list[Line]:
    """The reference scores of a task, for the options that the groups were trained with; none where none are published.

    Raises:
        InvalidOption: where a run has options that its suite does not allow.
    """
    try:
        found = find_task(task)
    except UnknownTask:
        return []
    lines: dict[Line, None] = {}
    for group in groups:
        scores = found.reference_scores(_options(found, group.settings))
        if scores is not None:
            lines |= dict.fromkeys([Line(scores.low_name, scores.low), Line(scores.high_name, scores.high)])
    return list(lines)


def paper_lines(task: str, groups: Iterable[RunGroup]) -> list[Line]:
    """The paper's results on a task; where it has them by rollout length, those of the groups' lengths, if any."""
    lengths = {group.settings.get("rollout_length") for group in groups}
    return [Line(result.label, result.mean, "paper") for result in paper_results(task, lengths - {None})]


def _options(task: Task, settings: dict[str, Any]) -> Any:
    """The options of the environment among the flat settings of a group; defaults for those that are not there."""
    known = {f"env.{field.name}": field.name for field in fields(task.suite.options)}
    return task.suite.options(**{known[name]: value for name, value in settings.items() if name in known})
