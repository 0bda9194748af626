"""Step-by-step RTRL: the oracle that every fast path is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from r2ac.kernels.scan import elstm_step
from r2ac.kernels.sensitivity import Sensitivities


class StepByStepRTRL:
    """Real-time recurrent learning of an eLSTM as Williams and Zipser wrote it, one step at a time.

        a = f + w_z zh + w_f fh      S_W <- a S_W + u (x) x      S_w <- a S_w + u c'      S_b <- a S_b + u
        gradient <- gradient + sum over streams of e_t S_t

    with u as in :func:`r2ac.kernels.scan.elstm_linearisation` (Williams and Zipser 1989). It touches the
    whole of S at every step, which is what the rollout-at-a-time form avoids.

    Args:
        input_weight: F and Z, [K, N, D].
        recurrent_weight: w_f and w_z, [K, N].
        bias: b_f and b_z, [K, N].
        cell: c_0, [B, N].
        sensitivities: S_0; changed in place.
    """

    def __init__(
        self, input_weight: Tensor, recurrent_weight: Tensor, bias: Tensor, cell: Tensor, sensitivities: Sensitivities
    ) -> None:
        self.input_weight, self.recurrent_weight, self.bias = input_weight, recurrent_weight, bias
        self.cell = cell
        self.sensitivities = sensitivities
        self.gradient = tuple(torch.zeros_like(parameter) for parameter in (input_weight, recurrent_weight, bias))

    def step(self, x: Tensor, is_first: Tensor) -> Tensor:
        """Advance cell and sensitivities by the input ``x`` [B, D]; ``is_first`` [B] bool. Returns c, [B, N]."""
        keep = (~is_first).to(self.cell.dtype).unsqueeze(-1)
        previous = self.cell.masked_fill(is_first.unsqueeze(-1), 0)
        preactivation = torch.einsum("bd,knd->bkn", x, self.input_weight) + self.bias
        self.cell, forget, candidate = elstm_step(preactivation, self.recurrent_weight, previous)
        immediate = torch.stack(
            ((previous - candidate) * forget * (1 - forget), (1 - forget) * (1 - candidate.square())), dim=1
        )
        jacobian = (forget + (self.recurrent_weight * immediate).sum(1)) * keep
        decay = jacobian.unsqueeze(1)
        matrix, recurrent, bias = self.sensitivities.tensors()
        matrix.mul_(decay.unsqueeze(-1)).addcmul_(immediate.unsqueeze(-1), x[:, None, None, :])
        recurrent.mul_(decay).addcmul_(immediate, previous.unsqueeze(1))
        bias.mul_(decay).add_(immediate)
        return self.cell

    def accumulate(self, direct: Tensor) -> None:
        """Add e_t S_t of the step just made to the gradient; ``direct`` is e_t = dL_t/dc_t, direct part, [B, N]."""
        matrix, recurrent, bias = self.sensitivities.tensors()
        self.gradient[0].add_(torch.einsum("bn,bknd->knd", direct, matrix))
        self.gradient[1].add_(torch.einsum("bn,bkn->kn", direct, recurrent))
        self.gradient[2].add_(torch.einsum("bn,bkn->kn", direct, bias))
