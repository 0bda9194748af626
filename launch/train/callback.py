"""Who follows a training from outside, such as the sweep that it is a trial of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainCallback:
    """By default nobody: adds nothing to the metrics, hears of their lines in vain, never asks to stop."""

    constants: Mapping[str, float] = field(default_factory=dict)
    """What each line of the metrics holds too."""
    take_line: Callable[[Mapping[str, float]], None] = lambda line: None
    """Is given each line of metrics that was written."""
    stop_requested: Callable[[], bool] = lambda: False
    """Asked after each update: whether the training shall save and end."""
