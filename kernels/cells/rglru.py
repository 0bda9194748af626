"""RG-LRU: De et al. 2024, "Griffin: mixing gated linear recurrences with local attention", 2.4."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.linear import LinearCell

SHARPNESS = 8.0
"""The paper's constant c."""


class RGLRUCell(LinearCell):
    """r = sigmoid(p_0)      i = sigmoid(p_1)      a = exp(-8 softplus(d) r)      c = a c' + sqrt(1 - a^2) i p_2"""

    gates = 3
    own: Mapping[str, int] = {"decay": 1}

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        rate, gain = torch.sigmoid(gates[..., 0, :]), torch.sigmoid(gates[..., 1, :])
        log_decay = -SHARPNESS * torch.nn.functional.softplus(own[..., 0, :]) * rate
        # 1 - a^2 without the loss of digits where a is near 1.
        scale = torch.sqrt(-torch.expm1(2 * log_decay))
        return torch.exp(log_decay), scale * gain * gates[..., 2, :]

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        """Where r is 1/2: softplus(d) = 2 / (8 steps)."""
        own["decay"][0] = torch.expm1(2 / (SHARPNESS * steps)).log()
