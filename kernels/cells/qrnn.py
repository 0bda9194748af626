"""QRNN: Bradbury, Merity, Xiong and Socher 2016, "Quasi-recurrent neural networks", with f-pooling."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Cell


class QRNNCell(Cell):
    """f = sigmoid(p_0)      z = tanh(p_1)      c = f c' + (1 - f) z

    The eLSTM whose gates see the input only."""

    gates = 2
    own: Mapping[str, int] = {}

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        forget, candidate = gates.unbind(-2)
        return torch.lerp(torch.tanh(candidate), previous, torch.sigmoid(forget))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        bias[0] = steps.log()
