"""IndRNN: Li, Li, Cook, Zhu and Gao 2018, "Independently recurrent neural network"."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Cell, Linearisation


class IndRNNCell(Cell):
    """c = tanh(p_0 + w c')"""

    gates = 1
    own: Mapping[str, int] = {"recurrent_weight": 1}
    recurrent_weight_is_decay = True

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        return torch.tanh(gates[..., 0, :] + own[..., 0, :] * previous)

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        slope = 1 - self.step(gates, own, previous).square()
        return Linearisation(own[..., 0, :] * slope, slope.unsqueeze(-2), (slope * previous).unsqueeze(-2))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        own["recurrent_weight"][0] = torch.exp(-1 / steps)
