"""What the updates measured, summed up on the device and read once in a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Skips:
    """Updates that were skipped because loss or gradient was not finite."""

    total: int
    """Since the start."""
    loss: float
    """Of the last one skipped, per step; 0 before the first."""
    gradient_norm: float
    """Of the last one skipped."""


class Means:
    """Means of metrics, by their names, in tensors that an update changes on its device without the host."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names = tuple(names)
        self._sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, values: Tensor, good: Tensor) -> None:
        """Count the metrics (float64, in the order of the names) of an update, where it was ``good`` (bool scalar)."""
        self._sums += torch.where(good, values, 0.0)
        self._count += good

    def take(self) -> dict[str, float]:
        """Means over the good updates since the last call, empty where there was none; waits for the device."""
        count, sums = float(self._count), self._sums.tolist()
        self._sums.zero_()
        self._count.zero_()
        return {name: value / count for name, value in zip(self._names, sums, strict=True)} if count else {}


class UpdateMetrics(Means):
    """Means of metrics and counts of skipped updates; the first metric is the loss, the last the gradient norm."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        super().__init__(names, device)
        self._total = torch.zeros((), dtype=torch.int64, device=device)
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._most_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._last_skipped = torch.zeros(2, dtype=torch.float64, device=device)  # loss, gradient norm

    def add_update(self, metrics: dict[str, Tensor], finite: Tensor, may_branch: bool = False) -> None:
        """Note the metrics (scalars) of an update, which was good where ``finite`` (bool scalar), which the host reads
        only with ``may_branch``."""
        values = torch.stack([metrics[name] for name in self._names]).double()
        if may_branch and finite:
            # What follows, in fewer operations.
            self._sums += values
            self._count += 1
            self._in_a_row.zero_()
            return
        self.add(values, finite)
        self._total += ~finite
        self._in_a_row += 1
        self._in_a_row *= ~finite
        torch.maximum(self._most_in_a_row, self._in_a_row, out=self._most_in_a_row)
        self._last_skipped.copy_(torch.where(finite, self._last_skipped, torch.stack((values[0], values[-1]))))

    def skips(self) -> Skips:
        """The counts; waits for the device."""
        loss, gradient_norm = self._last_skipped.tolist()
        return Skips(int(self._total), loss, gradient_norm)

    def take_most_in_a_row(self) -> int:
        """The most skipped without a good update between since this was last called; waits for the device."""
        most = int(self._most_in_a_row)
        if most:
            self._most_in_a_row.copy_(self._in_a_row)
        return most

    def set_skips(self, total: int) -> None:
        """Go on from the count of an earlier run."""
        self._total.fill_(total)
