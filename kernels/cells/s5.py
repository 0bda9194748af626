"""Diagonal S5: Smith, Warrington and Linderman 2023, "Simplified state space layers for sequence modeling", 3. A unit
is complex."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell, as_block, polar, rows, times

SHORTEST, LONGEST = 1e-3, 1e-1
"""Step sizes at the start, log-uniform between these, as in the paper."""
FREQUENCIES = 8
"""The frequencies 0, pi, 2 pi, … at the start, over and over: those of S4D-Lin, in the paper's blocks."""


class S5Cell(LinearCell):
    """c = exp(lambda D) c' + (exp(lambda D) - 1) / lambda (p_0 + i p_1)      lambda = -exp(decay) + i frequency

    A unit of continuous time whose input is held for a step of the unit's own size, D = exp(log_step).
    """

    gates = 2
    own: Mapping[str, int] = {"decay": 1, "frequency": 1, "log_step": 1}
    parts = 2

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        held, scale = _discretised(own)
        return held, times(scale, gates)

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        decay, frequency, log_step = own.unbind(-2)
        rate, size = -torch.exp(decay), torch.exp(log_step)
        held, scale = _discretised(own)
        moved = size.unsqueeze(-2) * held
        by_rate = times(moved, previous) + times(times(_inverse(rate, frequency), moved - scale), gates)
        by_step = times(moved, times(torch.stack((rate, frequency), -2), previous) + gates)
        (real, imaginary), outer = by_rate.unbind(-2), previous.shape[:-2]
        first, second = by_step.unbind(-2)
        return Linearisation(
            as_block(held).expand(*outer, 2, 2, -1),
            as_block(scale).expand(*outer, 2, 2, -1),
            rows((rate * real, -imaginary, first), (rate * imaginary, real, second)),
        )

    def initialise(self, own: Mapping[str, Tensor]) -> None:
        own["decay"].fill_(math.log(0.5))
        units = torch.arange(own["frequency"].shape[-1], device=own["frequency"].device)
        own["frequency"][0] = math.pi * (units % FREQUENCIES)
        own["log_step"].uniform_(math.log(SHORTEST), math.log(LONGEST))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        own["log_step"][0] = -steps.log() - own["decay"][0]


def _discretised(own: Tensor) -> tuple[Tensor, Tensor]:
    """exp(lambda D) and (exp(lambda D) - 1) / lambda."""
    decay, frequency, log_step = own.unbind(-2)
    rate, size = -torch.exp(decay), torch.exp(log_step)
    held = polar(torch.exp(rate * size), frequency * size)
    # The real part less 1, without the loss of digits where D is small.
    real = torch.expm1(rate * size) * torch.cos(frequency * size) - 2 * torch.sin(frequency * size / 2).square()
    return held, times(_inverse(rate, frequency), torch.stack((real, held[..., 1, :]), -2))


def _inverse(real: Tensor, imaginary: Tensor) -> Tensor:
    """1 / (real + i imaginary), [..., 2, N]."""
    return torch.stack((real, -imaginary), -2) / (real.square() + imaginary.square()).unsqueeze(-2)
