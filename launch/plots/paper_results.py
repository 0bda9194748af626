"""The paper's results, to compare with: Irie, Gopalakrishnan and Schmidhuber 2024, "Exploring the promise and limits of
real-time recurrent learning" (ICLR; arXiv 2305.19044), section 4: mean and standard deviation of test returns after the
whole training (30 M steps of rooms_select_nonmatching_object, 100 M of the other levels, 200 M of Atari)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class PaperResult:
    """One number of the paper's tables; returns as the environment pays them, not normalised."""

    task: str
    method: str
    """feed-forward, TBPTT or RTRL."""
    rollout_length: int | None
    """T; None where it is not told for each result."""
    mean: float
    std: float | None
    """None where none is given."""

    @property
    def label(self) -> str:
        """``RTRL, T=10: 61.8 ± 0.5``."""
        length = "" if self.rollout_length is None else f", T={self.rollout_length}"
        spread = "" if self.std is None else f" ± {self.std:,g}"
        return f"{self.method}{length}: {self.mean:,g}{spread}"


def paper_results(task: str, rollout_lengths: Collection[object] = ()) -> list[PaperResult]:
    """The results on a task, by its full name; empty where the paper has none.

    Where the paper has results for several rollout lengths, and some of them are among ``rollout_lengths``, only those.
    """
    here = [result for result in _RESULTS if result.task == task]
    asked = [result for result in here if result.rollout_length in rollout_lengths]
    return asked or here


def paper_tasks() -> list[str]:
    """The tasks that the paper has results of, by their full names."""
    return list(dict.fromkeys(result.task for result in _RESULTS))


# Mean and standard deviation of the returns.
_ATARI = {
    "Breakout": {"feed-forward": (234, 12), "TBPTT": (305, 29), "RTRL": (275, 53)},
    "Gravitar": {"feed-forward": (1084, 54), "TBPTT": (1269, 11), "RTRL": (1670, 358)},
    "MsPacman": {"feed-forward": (3020, 305), "TBPTT": (3953, 497), "RTRL": (3346, 442)},
    "Qbert": {"feed-forward": (7746, 1356), "TBPTT": (11298, 615), "RTRL": (12484, 1524)},
    "Seaquest": {"feed-forward": (4640, 3998), "TBPTT": (12401, 1694), "RTRL": (12862, 961)},
}
# The same by T.
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

_RESULTS = (
    *(
        PaperResult(f"atari/{game}", method, None, mean, std)
        for game, methods in _ATARI.items()
        for method, (mean, std) in methods.items()
    ),
    *(
        PaperResult(f"dmlab/{level}", method, length, mean, std)
        for level, methods in _DMLAB.items()
        for method, by_length in methods.items()
        for length, (mean, std) in by_length.items()
    ),
    *(PaperResult("dmlab/rooms_keys_doors_puzzle", method, None, mean, None) for method, mean in _KEYS_DOORS.items()),
)
