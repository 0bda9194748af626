"""minGRU: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi 2024, "Were RNNs all we needed?", 3.1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell


class MinGRUCell(LinearCell):
    """z = sigmoid(p_0)      c = (1 - z) c' + z p_1"""

    gates = 2
    own: Mapping[str, int] = {}

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        update = torch.sigmoid(gates[..., 0, :])
        return 1 - update, update * gates[..., 1, :]

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        update, candidate = torch.sigmoid(gates[..., 0, :]), gates[..., 1, :]
        keep = 1 - update
        by_gates = torch.stack(((candidate - previous) * update * keep, update), -2)
        return Linearisation(keep, by_gates, gates[..., :0, :])

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        bias[0] = -steps.log()
