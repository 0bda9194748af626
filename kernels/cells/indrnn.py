"""IndRNN: Li, Li, Cook, Zhu and Gao 2018, "Independently recurrent neural network"."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell


class IndRNNCell(LinearCell):
    """c = tanh(p_0 + w c')"""

    gates = 1
    own: Mapping[str, int] = {"recurrent_weight": 1}
    recurrent_weight_is_decay = True
    squashed = True

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return own[..., 0, :], gates[..., 0, :]

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        slope = 1 - self.step(gates, own, previous).square()
        return Linearisation(own[..., 0, :] * slope, slope.unsqueeze(-2), (slope * previous).unsqueeze(-2))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        own["recurrent_weight"][0] = torch.exp(-1 / steps)
