"""LRU: Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences", 3. A unit is complex."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Cell


class LRUCell(Cell):
    """c = exp(-exp(nu) + i theta) c' + p_0 + i p_1"""

    gates = 2
    own: Mapping[str, int] = {"decay": 1, "angle": 1}
    parts = 2

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        radius, angle = torch.exp(-torch.exp(own[..., 0, :])), own[..., 1, :]
        return rotated(previous, radius, angle) + gates

    def initialise(self, own: Mapping[str, Tensor]) -> None:
        """Radii uniform in [0.9, 0.999], as for long sequences in the paper; small angles."""
        own["decay"].uniform_(0.9, 0.999).log_().neg_().log_()
        own["angle"].uniform_(0, math.pi / 10)

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        own["decay"][0] = -steps.log()


def rotated(state: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
    """The pairs [..., 2, N], as complex numbers, times radius exp(i angle)."""
    cos, sin = radius * torch.cos(angle), radius * torch.sin(angle)
    first, second = state.unbind(-2)
    return torch.stack((cos * first - sin * second, sin * first + cos * second), -2)
