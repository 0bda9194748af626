"""RG-LRU: De et al. 2024, "Griffin: mixing gated linear recurrences with local attention", 2.4."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell

SHARPNESS = 8.0
"""The paper's constant c."""


class RGLRUCell(LinearCell):
    """r = sigmoid(p_0)      i = sigmoid(p_1)      a = exp(-8 softplus(d) r)      c = a c' + sqrt(1 - a^2) i p_2"""

    gates = 3
    own: Mapping[str, int] = {"decay": 1}

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        log_decay, scale, gain = _pieces(gates, own)
        return torch.exp(log_decay), scale * gain * gates[..., 2, :]

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        log_decay, scale, gain = _pieces(gates, own)
        decay, value = torch.exp(log_decay), gates[..., 2, :]
        added = scale * gain
        # By log a, of which sqrt(1 - a^2) has the derivative -a^2 / sqrt(1 - a^2).
        by_log = decay * (previous - decay * gain * value / scale) * log_decay
        by_gates = torch.stack((by_log * torch.sigmoid(-gates[..., 0, :]), added * (1 - gain) * value, added), -2)
        softplus, slope = torch.nn.functional.softplus(own), torch.sigmoid(own)
        return Linearisation(decay, by_gates, by_log.unsqueeze(-2) * (slope / softplus))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        """Where r is 1/2: softplus(d) = 2 / (8 steps)."""
        own["decay"][0] = torch.expm1(2 / (SHARPNESS * steps)).log()


def _pieces(gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log a, sqrt(1 - a^2) and i."""
    rate, gain = torch.sigmoid(gates[..., 0, :]), torch.sigmoid(gates[..., 1, :])
    log_decay = -SHARPNESS * torch.nn.functional.softplus(own[..., 0, :]) * rate
    # 1 - a^2 without the loss of digits where a is near 1.
    return log_decay, torch.sqrt(-torch.expm1(2 * log_decay)), gain
