"""What the updates measured, summed up on the device and read once in a while."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Skips:
    """Updates that were skipped because loss or gradient was not finite."""

    total: int
    """Since the start."""
    in_a_row: int
    """Up to now, without a good update between."""
    loss: float
    """Of the last one skipped, per step; 0 before the first."""
    gradient_norm: float
    """Of the last one skipped."""


class Tally:
    """Sums of metrics and counts of skipped updates, in tensors that an update changes without the host.

    Args:
        device: where the updates run.
    """

    def __init__(self, device: torch.device) -> None:
        self._names: list[str] = []
        self._device = device
        self._skips = torch.zeros(2, dtype=torch.int64, device=device)  # total, in a row
        self._last_skipped = torch.zeros(2, dtype=torch.float64, device=device)  # loss, gradient norm
        self._sums = torch.zeros(0)
        self._count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, metrics: dict[str, Tensor], finite: Tensor) -> None:
        """Note the metrics (scalars, the same names every time) of an update, good where ``finite`` (bool scalar)."""
        if not self._names:
            self._names = list(metrics)
            self._sums = torch.zeros(len(metrics), dtype=torch.float64, device=self._device)
        values = torch.stack(list(metrics.values())).double()
        self._sums += values.where(finite, torch.zeros_like(values))
        self._count += finite
        skipped = (~finite).to(torch.int64)
        self._skips += skipped
        self._skips[1] *= skipped
        named = torch.stack([values[self._names.index(name)] for name in ("loss/total", "loss/gradient_norm")])
        self._last_skipped.copy_(torch.where(finite, self._last_skipped, named))

    def skips(self) -> Skips:
        """The counts; waits for the device."""
        total, in_a_row = self._skips.tolist()
        loss, gradient_norm = self._last_skipped.tolist()
        return Skips(total, in_a_row, loss, gradient_norm)

    def set_skips(self, total: int) -> None:
        """Go on from the count of an earlier run."""
        self._skips[0] = total

    def read_means(self) -> dict[str, float]:
        """Means over the good updates since the last call, empty where there was none; waits for the device."""
        count, sums = float(self._count), self._sums.tolist()
        self._sums.zero_()
        self._count.zero_()
        return {name: value / count for name, value in zip(self._names, sums, strict=True)} if count else {}
