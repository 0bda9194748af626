"""LRU: Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences", 3. A unit is complex."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell, as_block, polar, rows, times


class LRUCell(LinearCell):
    """c = lambda c' + exp(gain) (p_0 + i p_1)      lambda = exp(-exp(decay) + i angle)"""

    gates = 2
    own: Mapping[str, int] = {"decay": 1, "angle": 1, "gain": 1}
    parts = 2

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        decay, angle, gain = own.unbind(-2)
        return polar(torch.exp(-torch.exp(decay)), angle), torch.exp(gain).unsqueeze(-2) * gates

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        decay, angle, gain = own.unbind(-2)
        rate, scale = torch.exp(decay), torch.exp(gain)
        factor, nothing = polar(torch.exp(-rate), angle), torch.zeros_like(scale)
        real, imaginary = times(factor, previous).unbind(-2)
        first, second = (scale.unsqueeze(-2) * gates).unbind(-2)
        outer = previous.shape[:-2]
        return Linearisation(
            as_block(factor).expand(*outer, 2, 2, -1),
            rows((scale, nothing), (nothing, scale)).expand(*outer, 2, 2, -1),
            rows((-rate * real, -imaginary, first), (-rate * imaginary, real, second)),
        )

    def initialise(self, own: Mapping[str, Tensor]) -> None:
        """Radii uniform in [0.9, 0.999], as for long sequences in the paper; angles uniform in [0, pi), as units of
        the other half of the circle differ from these by the sign of p_1 alone."""
        own["decay"].uniform_(0.9, 0.999).log_().neg_().log_()
        own["angle"].uniform_(0, math.pi)
        _normalise(own)

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        own["decay"][0] = -steps.log()
        _normalise(own)


def _normalise(own: Mapping[str, Tensor]) -> None:
    """exp(gain) = sqrt(1 - |lambda|^2): white input gives states of one size, whatever their decay (section 3.4)."""
    own["gain"].copy_(-torch.expm1(-2 * own["decay"].exp())).log_().div_(2)
