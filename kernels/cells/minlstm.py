"""minLSTM: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi 2024, "Were RNNs all we needed?", 3.2."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell


class MinLSTMCell(LinearCell):
    """f = sigmoid(p_0)      i = sigmoid(p_1)      c = (f c' + i p_2) / (f + i)"""

    gates = 3
    own: Mapping[str, int] = {}

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        forget, gain = torch.sigmoid(gates[..., 0, :]), torch.sigmoid(gates[..., 1, :])
        return forget / (forget + gain), gain / (forget + gain) * gates[..., 2, :]

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        gain, forget = torch.sigmoid(gates[..., 1, :]), torch.sigmoid(gates[..., 0, :])
        keep, add = forget / (forget + gain), gain / (forget + gain)
        change = (previous - gates[..., 2, :]) * keep * add
        return Linearisation(
            keep, torch.stack((change * (1 - forget), change * (gain - 1), add), -2), gates[..., :0, :]
        )

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        bias[0], bias[1] = steps.log(), -steps.log()
