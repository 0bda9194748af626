"""What evaluations of many runs come to: whose results can be compared, and what the comparison says.

The unit is a training run (a seed): its score on a task is the mean over its evaluation episodes, normalised with the
task's reference scores (`Evaluation.normalised_return`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from r2ac.launch.evaluation.evaluate import Evaluation
from r2ac.launch.evaluation.statistics import Aggregates, Estimate, aggregate, probability_of_improvement
from r2ac.launch.report.study import Configuration, StudiedRun, Study

_MOST_PAIRED = 4
"""Without a baseline so many configurations are compared pair by pair."""


@dataclass(frozen=True, order=True)
class EvalSetting:
    """How episodes are played; only results of one setting are compared."""

    protocol: str
    split: str
    greedy: bool

    def __str__(self) -> str:
        actions = "most probable actions" if self.greedy else "sampled actions"
        return f"protocol {self.protocol}, split {self.split}, {actions}"


@dataclass(frozen=True, eq=False)
class RunScore:
    """What a run has reached on a task."""

    configuration: Configuration
    run: StudiedRun
    evaluation: Evaluation

    @property
    def task(self) -> str:
        return self.evaluation.task


@dataclass(frozen=True)
class Comparison:
    """The scores of several configurations on the tasks that all of them have scores on."""

    tasks: tuple[str, ...]
    scores: Mapping[Configuration, Mapping[str, tuple[float, ...]]]
    """Configuration -> task -> score of each run."""
    left_out: tuple[str, ...]
    """Tasks that some of the configurations have no score on."""

    @property
    def most_runs(self) -> int:
        return max(len(runs) for by_task in self.scores.values() for runs in by_task.values())

    def aggregates(self) -> dict[Configuration, Aggregates]:
        return {configuration: aggregate(by_task) for configuration, by_task in self.scores.items()}


class Improvement(NamedTuple):
    ours: Configuration
    theirs: Configuration
    estimate: Estimate


def newest_results(study: Study) -> dict[EvalSetting, list[RunScore]]:
    """For each setting the result of each run on each task that it was trained on: that of its newest checkpoint.

    The setting with the most results comes first, of equal ones that on the split test.
    """

    def age(result: RunScore) -> tuple[int, str]:
        return result.evaluation.env_steps, result.evaluation.date or ""

    found: dict[EvalSetting, dict[tuple[StudiedRun, str], RunScore]] = {}
    for result in _results(study):
        if result.task in result.run.tasks:
            slots = found.setdefault(eval_setting(result.evaluation), {})
            known = slots.get((result.run, result.task))
            if known is None or age(result) >= age(known):
                slots[result.run, result.task] = result
    order = sorted(found, key=lambda setting: (-len(found[setting]), setting.split != "test", setting))
    return {setting: list(found[setting].values()) for setting in order}


def transferred_results(study: Study) -> list[RunScore]:
    """Results on tasks that the run was not trained on."""
    return [result for result in _results(study) if result.task not in result.run.tasks]


def eval_setting(evaluation: Evaluation) -> EvalSetting:
    return EvalSetting(evaluation.protocol, evaluation.config.split, evaluation.config.greedy)


def compare(results: Sequence[RunScore]) -> Comparison | None:
    """The scores of the configurations that have any; None where no task has reference scores, or none is shared."""
    scores: dict[Configuration, dict[str, list[float]]] = {}
    for result in results:
        score = result.evaluation.normalised_return
        if score is not None:
            scores.setdefault(result.configuration, {}).setdefault(result.task, []).append(score)
    if not scores:
        return None
    every = dict.fromkeys(task for by_task in scores.values() for task in by_task)
    tasks = tuple(task for task in every if all(task in by_task for by_task in scores.values()))
    if not tasks:
        return None
    shared = {c: {task: tuple(by_task[task]) for task in tasks} for c, by_task in scores.items()}
    return Comparison(tasks, shared, tuple(task for task in every if task not in tasks))


def improvements(comparison: Comparison) -> list[Improvement]:
    """Each configuration against each of the baseline; without one, all pairs of 2 to 4 configurations."""
    configurations = list(comparison.scores)
    baseline = [c for c in configurations if c.baseline]
    if baseline:
        pairs = [(ours, theirs) for ours in configurations if not ours.baseline for theirs in baseline]
    else:
        pairs = list(combinations(configurations, 2)) if len(configurations) <= _MOST_PAIRED else []
    scores = comparison.scores
    return [Improvement(a, b, probability_of_improvement(scores[a], scores[b])) for a, b in pairs]


def _results(study: Study) -> list[RunScore]:
    return [
        RunScore(configuration, run, evaluation)
        for configuration in study.configurations
        for run in configuration.runs
        for evaluation in run.evaluations
    ]
