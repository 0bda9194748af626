"""minGRU: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi 2024, "Were RNNs all we needed?", 3.1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Cell


class MinGRUCell(Cell):
    """z = sigmoid(p_0)      c = (1 - z) c' + z p_1"""

    gates = 2
    own: Mapping[str, int] = {}

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        update, candidate = gates.unbind(-2)
        return torch.lerp(previous, candidate, torch.sigmoid(update))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        bias[0] = -steps.log()
