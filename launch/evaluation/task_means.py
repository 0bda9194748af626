"""One number for results on several tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from r2ac.envs import mean_normalised_return
from r2ac.launch.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class TaskMeans:
    """The normalised returns of several tasks, averaged."""

    tasks: int
    """Those that have reference scores."""
    normalised_return: float
    """Mean over the tasks."""
    capped_normalised_return: float
    """The same, each task counting 1 at most: with all tasks of dmlab-30 it is the score of DMLab-30."""

    def __str__(self) -> str:
        """``mean of 30 tasks: 45.1 % (43.0 % with each capped at 100 %)``."""
        mean, capped = 100 * self.normalised_return, 100 * self.capped_normalised_return
        return f"mean of {self.tasks} tasks: {mean:,.1f} % ({capped:,.1f} % with each capped at 100 %)"


def task_means(evaluations: Iterable[Evaluation]) -> TaskMeans | None:
    """The means over results on different tasks; None for fewer than two that are complete and have scores."""
    done = [(scores, each) for each in evaluations if each.complete and (scores := each.reference_scores) is not None]
    if len(done) < 2:
        return None
    references, returns = [scores for scores, _ in done], [each.mean_return for _, each in done]
    plain, capped = mean_normalised_return(references, returns), mean_normalised_return(references, returns, cap=1.0)
    return TaskMeans(len(done), plain, capped)


def means_by_set(evaluations: Iterable[Evaluation]) -> dict[tuple[str, str, str], TaskMeans]:
    """(digest of the checkpoint, protocol, split) -> means, for those that have several tasks."""
    sets: dict[tuple[str, str, str], list[Evaluation]] = {}
    for each in evaluations:
        sets.setdefault((each.sha256, each.protocol, each.config.split), []).append(each)
    return {key: means for key, group in sets.items() if (means := task_means(group)) is not None}
