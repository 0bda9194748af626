"""QRNN: Bradbury, Merity, Xiong and Socher 2016, "Quasi-recurrent neural networks", with f-pooling."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell


class QRNNCell(LinearCell):
    """f = sigmoid(p_0)      z = tanh(p_1)      c = f c' + (1 - f) z

    The eLSTM whose gates see the input only."""

    gates = 2
    own: Mapping[str, int] = {}

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        forget = torch.sigmoid(gates[..., 0, :])
        return forget, (1 - forget) * torch.tanh(gates[..., 1, :])

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        forget, candidate = torch.sigmoid(gates[..., 0, :]), torch.tanh(gates[..., 1, :])
        keep = 1 - forget
        by_gates = torch.stack(((previous - candidate) * forget * keep, keep * (1 - candidate.square())), -2)
        return Linearisation(forget, by_gates, gates[..., :0, :])

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        bias[0] = steps.log()
