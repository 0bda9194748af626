"""Gated rotations, our own cells: a unit is complex, holds as a minGRU does, and turns by an angle at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Linearisation
from r2ac.kernels.cells.linear import LinearCell, as_block, polar, rows, times


class RotationCell(LinearCell):
    """z = sigmoid(p_0)      c = (1 - z) exp(i angle) c' + z (p_1 + i p_2)

    Units with the angle 0 hold a value; the others are delay lines and clocks.
    """

    gates = 3
    own: Mapping[str, int] = {"angle": 1}
    parts = 2

    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        update = torch.sigmoid(gates[..., 0, :])
        return polar(1 - update, self.angle(gates, own)), update.unsqueeze(-2) * gates[..., 1:3, :]

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        update = torch.sigmoid(gates[..., 0, :])
        keep, nothing = 1 - update, torch.zeros_like(update)
        angle = self.angle(gates, own)
        unit = polar(torch.ones_like(angle), angle)
        turned = times(unit, previous)
        by_update = (gates[..., 1:3, :] - turned) * (update * keep).unsqueeze(-2)
        real, imaginary = (keep.unsqueeze(-2) * turned).unbind(-2)
        (first, second), moved = by_update.unbind(-2), self.gates == 4
        by_gates = rows((first, update, nothing, *[-imaginary] * moved), (second, nothing, update, *[real] * moved))
        return Linearisation(as_block(keep.unsqueeze(-2) * unit), by_gates, rows((-imaginary,), (real,)))

    def angle(self, gates: Tensor, own: Tensor) -> Tensor:
        """By how much the step turns a unit, [..., N]."""
        return own[..., 0, :]

    def initialise(self, own: Mapping[str, Tensor]) -> None:
        """A quarter of the units hold; the angles of the others are spread over (0, pi]."""
        angle = own["angle"][0]
        holders = -(-len(angle) // 4)
        angle[:holders] = 0
        angle[holders:] = torch.linspace(0, math.pi, len(angle) - holders + 1)[1:]

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        bias[0] = -steps.log()


class InputRotationCell(RotationCell):
    """z = sigmoid(p_0)      c = (1 - z) exp(i (angle + p_3)) c' + z (p_1 + i p_2)

    The input moves the angle: a unit that an event turns by 2 pi / m counts events modulo m.
    """

    gates = 4

    def angle(self, gates: Tensor, own: Tensor) -> Tensor:
        return own[..., 0, :] + gates[..., 3, :]
