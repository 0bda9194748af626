"""Who follows a training: the terminal, the process that started it, the sweep that it is a trial of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r2ac.launch.runtime.progress import TrainingStatus
from r2ac.launch.train.memory_budget import MemoryBudget


def _ignore(_: Any) -> None:
    """By default nobody follows."""


@dataclass(frozen=True)
class TrainCallback:
    """What a training calls while it goes on."""

    constants: Mapping[str, float] = field(default_factory=dict)
    """What each line of the metrics holds too."""
    take_line: Callable[[Mapping[str, float]], None] = _ignore
    """Gets each line of metrics that was written."""
    stop_requested: Callable[[], bool] = lambda: False
    """Returns whether the training shall save and end; called after each update."""
    show_status: Callable[[TrainingStatus], None] = _ignore
    """Gets how far the training has come, several times a second."""
    show_budget: Callable[[MemoryBudget], None] = _ignore
    """Gets the memory that the training will hold, before it begins."""
