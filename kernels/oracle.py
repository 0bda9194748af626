"""Step-by-step RTRL: the oracle that every fast path is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from r2ac.kernels.cells import Cell
from r2ac.kernels.sensitivity import Traces


class StepByStepRTRL:
    """Real-time recurrent learning of a cell as Williams and Zipser wrote it, one step at a time.

        S_W <- a S_W + u (x) x      S_own <- a S_own + v      S_b <- a S_b + u
        gradient <- gradient + sum over streams of e_t S_t

    with a, u and v as :class:`r2ac.kernels.cells.base.Linearisation` names them (Williams and Zipser 1989). It touches
    the whole of S at every step, which is what the rollout-at-a-time form avoids.

    Args:
        weight: W, [K, N, D].
        own: [L, N].
        bias: [K, N].
        state: c_0, [B, (2,) N].
        traces: S_0 of the B streams; changed in place.
    """

    def __init__(self, cell: Cell, weight: Tensor, own: Tensor, bias: Tensor, state: Tensor, traces: Traces) -> None:
        self.cell, self.weight, self.own, self.bias = cell, weight, own, bias
        self.state, self.traces = state, traces
        self.gradient = torch.zeros_like(weight), torch.zeros_like(torch.cat((own, bias)))
        """By W, [K, N, D], and by the vectors, own and biases, [L + K, N]."""

    def step(self, x: Tensor, is_first: Tensor) -> Tensor:
        """Advance state and traces by the input ``x`` [B, D]; ``is_first`` [B] bool. Returns c, [B, (2,) N]."""
        first = is_first.view(-1, *(1,) * (self.state.dim() - 1))
        previous = self.state.masked_fill(first, 0)
        gates = torch.einsum("bd,knd->bkn", x, self.weight) + self.bias
        self.state = self.cell.step(gates, self.own, previous)
        jacobian, by_gates, by_own = self.cell.linearise(gates, self.own, previous)
        by_vectors = torch.cat((by_own, by_gates), -2)
        for kept, gained in (
            (self.traces.weight, torch.einsum("b...kn,bd->b...knd", by_gates, x)),
            (self.traces.vectors.unsqueeze(-1), by_vectors.unsqueeze(-1)),
        ):
            before = kept.masked_fill(first.unsqueeze(-1).unsqueeze(-1), 0)
            equation = "bn,bknd->bknd" if self.cell.parts == 1 else "bijn,bjknd->biknd"
            kept.copy_(torch.einsum(equation, jacobian, before) + gained)
        return self.state

    def accumulate(self, direct: Tensor) -> None:
        """Add e_t S_t of the step just made to the gradient; e_t is the direct part of dL_t/dc_t, [B, (2,) N]."""
        direct = direct.view(len(direct), -1, direct.shape[-1])
        for gradient, kept in zip(self.gradient, (self.traces.weight, self.traces.vectors.unsqueeze(-1)), strict=True):
            term = torch.einsum("bin,biknd->knd", direct, kept.view(*direct.shape[:2], *kept.shape[-3:]))
            gradient.add_(term.view_as(gradient))
