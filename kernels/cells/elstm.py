"""The eLSTM's cell: Irie, Gopalakrishnan and Schmidhuber 2024, "Exploring the promise and limits of RTRL", 3.2."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Cell, Linearisation

GATES = 2
"""K: gate 0 is the forget gate f, gate 1 the candidate z."""


class ELSTMCell(Cell):
    """f = sigmoid(p_0 + w_0 c')      z = tanh(p_1 + w_1 c')      c = f c' + (1 - f) z"""

    gates = GATES
    own: Mapping[str, int] = {"recurrent_weight": GATES}
    output_gate = True

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        forget, candidate = _gates(gates, own, previous)
        return torch.lerp(candidate, previous, forget)

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        """Written out, with u_0 = fh and u_1 = zh.

            fh = (c' - z) f (1 - f)      zh = (1 - f) (1 - z^2)      a = f + w_z zh + w_f fh

        (The rule printed in the first version of the paper lacks the ``w_z zh`` of a.)
        """
        forget, candidate = _gates(gates, own, previous)
        keep = 1 - forget
        by_gates = torch.stack(((previous - candidate) * forget * keep, keep * (1 - candidate.square())), dim=-2)
        jacobian = torch.addcmul(forget, by_gates[..., 0, :], own[..., 0, :])
        jacobian.addcmul_(by_gates[..., 1, :], own[..., 1, :])
        return Linearisation(jacobian, by_gates, by_gates * previous.unsqueeze(-2))

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        """Chrono initialisation (Tallec and Ollivier 2018): the forget gate's bias is log(steps)."""
        bias[0] = steps.log()


def _gates(gates: Tensor, own: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """f and z."""
    forget, candidate = torch.addcmul(gates, own, previous.unsqueeze(-2)).unbind(-2)
    return torch.sigmoid(forget), torch.tanh(candidate)
