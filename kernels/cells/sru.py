"""SRU: Lei, Zhang, Wang, Dai and Artzi 2018, "Simple recurrent units for highly parallelizable recurrence", 3.

Its highway connection and the reset gate of that lie outside the recurrence and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Cell, Linearisation


class SRUCell(Cell):
    """f = sigmoid(p_0 + w c')      c = f c' + (1 - f) p_1"""

    gates = 2
    own: Mapping[str, int] = {"recurrent_weight": 1}

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        forget = torch.sigmoid(gates[..., 0, :] + own[..., 0, :] * previous)
        return torch.lerp(gates[..., 1, :], previous, forget)

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        weight, candidate = own[..., 0, :], gates[..., 1, :]
        forget = torch.sigmoid(torch.addcmul(gates[..., 0, :], weight, previous))
        keep = 1 - forget
        by_forget = (previous - candidate) * forget * keep
        by_gates = torch.stack((by_forget, keep), -2)
        return Linearisation(torch.addcmul(forget, weight, by_forget), by_gates, (by_forget * previous).unsqueeze(-2))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        bias[0] = steps.log()
