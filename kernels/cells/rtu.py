"""A gated, nonlinear rotation, after Elelimy, White, Bowling and White 2024, "Real-time recurrent learning using trace
units in reinforcement learning": a unit is a pair, and its Jacobian no complex number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell, polar, rows, times


class RTUCell(LinearCell):
    """r = sigmoid(d + p_2)      c = tanh(r rotation(theta) c' + (p_0, p_1 p_2))"""

    gates = 3
    own: Mapping[str, int] = {"decay": 1, "angle": 1}
    parts = 2
    squashed = True

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        first, second, gate = gates.unbind(-2)
        return polar(torch.sigmoid(own[..., 0, :] + gate), own[..., 1, :]), torch.stack((first, second * gate), -2)

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        factor, added = self.coefficients(gates, own)
        turned = times(factor, previous)
        slope = 1 - torch.tanh(turned + added).square()
        _, second, gate = gates.unbind(-2)
        (cos, sin), (left, right) = factor.unbind(-2), slope.unbind(-2)
        real, imaginary = (slope * turned).unbind(-2)
        loss, nothing = torch.sigmoid(-own[..., 0, :] - gate), torch.zeros_like(left)
        by_decay, by_other = loss * real, loss * imaginary
        return Linearisation(
            rows((left * cos, -left * sin), (right * sin, right * cos)),
            rows((left, nothing, by_decay), (nothing, right * gate, by_other + right * second)),
            rows((by_decay, -left * turned[..., 1, :]), (by_other, right * turned[..., 0, :])),
        )

    def initialise(self, own: Mapping[str, Tensor]) -> None:
        """Slow decay, angles uniform in [0, pi / 10]."""
        own["decay"].fill_(3)
        own["angle"].uniform_(0, math.pi / 10)

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        own["decay"][0] = steps.log()
