"""The horizontal lines that a learning curve is read against: a task's reference scores, and results of the paper.

The paper is Irie, Gopalakrishnan and Schmidhuber 2024, "Exploring the promise and limits of real-time recurrent
learning" (ICLR; arXiv 2305.19044), section 4: mean and standard deviation of test returns after the whole training (30
M steps of rooms_select_nonmatching_object, 100 M of the other levels, 200 M of Atari).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from r2ac.envs import ReferenceScores, Task, UnknownTask, find_task
from r2ac.launch.runs.run_groups import RunGroup


@dataclass(frozen=True)
class Line:
    """A return with its name."""

    name: str
    value: float
    kind: Literal["reference", "paper"] = "reference"


def reference_lines(task: str, groups: Iterable[RunGroup]) -> list[Line]:
    """The reference scores of a task, for the options that the groups were trained with; none where none are published.
    Raises InvalidOption where a run has options that its suite does not allow."""
    try:
        found = find_task(task)
    except UnknownTask:
        return []
    return score_lines(found.training_scores(_options(found, group.settings)) for group in groups)


def score_lines(references: Iterable[ReferenceScores | None]) -> list[Line]:
    """A line for each low and each high score, equal ones once."""
    known = [scores for scores in references if scores is not None]
    return list(dict.fromkeys(Line(*end) for s in known for end in ((s.low_name, s.low), (s.high_name, s.high))))


def _options(task: Task, settings: dict[str, Any]) -> Any:
    """The options of the environment among the flat settings of a group; defaults for those that are not there."""
    known = {f"env.{field.name}": field.name for field in fields(task.suite.options)}
    return task.suite.options(**{known[name]: value for name, value in settings.items() if name in known})


class PaperResult(NamedTuple):
    """One number of the paper's tables; returns as the environment pays them, not normalised."""

    method: str
    """feed-forward, TBPTT or RTRL."""
    rollout_length: int | None
    """T; None where a result is not of one T."""
    mean: float
    std: float | None = None

    @property
    def label(self) -> str:
        """``RTRL, T=10: 61.8 ± 0.5``."""
        length = "" if self.rollout_length is None else f", T={self.rollout_length}"
        spread = "" if self.std is None else f" ± {self.std:,g}"
        return f"{self.method}{length}: {self.mean:,g}{spread}"


# Mean and standard deviation of the returns, on DMLab for each T.
_ATARI = {
    "Breakout": {"feed-forward": (234, 12), "TBPTT": (305, 29), "RTRL": (275, 53)},
    "Gravitar": {"feed-forward": (1084, 54), "TBPTT": (1269, 11), "RTRL": (1670, 358)},
    "MsPacman": {"feed-forward": (3020, 305), "TBPTT": (3953, 497), "RTRL": (3346, 442)},
    "Qbert": {"feed-forward": (7746, 1356), "TBPTT": (11298, 615), "RTRL": (12484, 1524)},
    "Seaquest": {"feed-forward": (4640, 3998), "TBPTT": (12401, 1694), "RTRL": (12862, 961)},
}
_DMLAB = {
    "rooms_select_nonmatching_object": {
        "TBPTT": {10: (54.5, 1.1), 50: (61.4, 0.5), 100: (61.7, 0.1)},
        "RTRL": {10: (61.8, 0.5), 50: (62.0, 0.4), 100: (62.2, 0.3)},
    },
    "rooms_watermaze": {
        "TBPTT": {10: (15.8, 0.9), 50: (44.5, 1.5), 100: (45.6, 4.7)},
        "RTRL": {10: (40.2, 5.6), 50: (52.3, 1.9), 100: (54.8, 4.3)},
    },
}
_KEYS_DOORS = {"feed-forward": 26.6, "TBPTT": 26.1, "RTRL": 26.1}
PAPER_RESULTS: dict[str, list[PaperResult]] = {
    **{
        f"atari/{game}": [PaperResult(method, None, *score) for method, score in methods.items()]
        for game, methods in _ATARI.items()
    },
    **{
        f"dmlab/{level}": [
            PaperResult(name, t, *score) for name, scores in methods.items() for t, score in scores.items()
        ]
        for level, methods in _DMLAB.items()
    },
    "dmlab/rooms_keys_doors_puzzle": [PaperResult(method, None, mean) for method, mean in _KEYS_DOORS.items()],
}
"""By the full names of their tasks."""


def paper_results(task: str, rollout_lengths: Collection[object] = ()) -> list[PaperResult]:
    """The results on a task; where the paper has some for several rollout lengths, and some of them are among
    ``rollout_lengths``, only those."""
    here = PAPER_RESULTS.get(task, [])
    return [result for result in here if result.rollout_length in rollout_lengths] or here


def paper_lines(task: str, groups: Iterable[RunGroup]) -> list[Line]:
    """The paper's results on a task; where it has them by rollout length, those of the groups' lengths, if any."""
    lengths = {group.settings.get("rollout_length") for group in groups}
    return [Line(result.label, result.mean, "paper") for result in paper_results(task, lengths - {None})]
