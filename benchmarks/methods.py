"""The methods that the benchmarks compare: RTRL step by step in plain PyTorch, this repository's cores, an LSTM."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r2ac.agents import ELSTM, Carry
from r2ac.kernels import backward_scan, elstm_linearisation, elstm_scan, rollout_gradient

LEAN, TUNED, RTRL, TBPTT, LSTM = "step by step", "step by step, tuned", "rollout at a time", "TBPTT", "LSTM, TBPTT"
METHODS = (LEAN, TUNED, RTRL, TBPTT, LSTM)

Advance = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""One step of RTRL for the input weights, in place: S [B, K, N, D] <- a S + u (x) x, then gradient [K, N, D] += sum_b
e_b S_b. Called with S, gradient, a [B, N], u [B, K, N], x [B, D] and e [B, N]."""


def lean_advance(matrix: Tensor, gradient: Tensor, decay: Tensor, immediate: Tensor, x: Tensor, direct: Tensor) -> None:
    """As one would write it: two operations in place and one einsum."""
    matrix.mul_(decay[:, None, :, None]).addcmul_(immediate.unsqueeze(-1), x[:, None, None, :])
    gradient.add_(torch.einsum("bn,bknd->knd", direct, matrix))


def advance_by_stream(
    matrix: Tensor, gradient: Tensor, decay: Tensor, immediate: Tensor, x: Tensor, direct: Tensor
) -> None:
    """Stream by stream, which keeps a stream's S and the sum in a CPU's cache."""
    for sensitivity, a, u, v, e in zip(matrix, decay, immediate, x, direct, strict=True):
        sensitivity.mul_(a.unsqueeze(-1)).addcmul_(u.unsqueeze(-1), v)
        gradient.addcmul_(sensitivity, e.unsqueeze(-1))


def fusible_advance(
    matrix: Tensor, gradient: Tensor, decay: Tensor, immediate: Tensor, x: Tensor, direct: Tensor
) -> None:
    """Without a matrix product, so that a compiler can make one kernel of it."""
    matrix.mul_(decay[:, None, :, None]).addcmul_(immediate.unsqueeze(-1), x[:, None, None, :])
    gradient.add_((direct[:, None, :, None] * matrix).sum(0))


def tuned_advance(device: torch.device) -> Advance | None:
    """The fastest step without a kernel of one's own: compiled on a GPU, stream by stream on a CPU.

    None, with a warning, where torch.compile does not work.
    """
    return _compiled_advance(device) if device.type == "cuda" else advance_by_stream


@functools.cache
def _compiled_advance(device: torch.device) -> Advance | None:
    import torch._dynamo.config

    # Every size is compiled for itself; by default the compiler gives up after eight.
    torch._dynamo.config.recompile_limit = 64
    advance = torch.compile(fusible_advance, fullgraph=True, dynamic=False)
    sizes = (2, 2, 4, 8), (2, 4, 8), (2, 4), (2, 2, 4), (2, 8), (2, 4)
    try:
        advance(*(torch.ones(*size, device=device) for size in sizes))
    except Exception as error:  # whatever a compiler, or its absence, may raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"without the tuned step: torch.compile fails: {reason}", stacklevel=3)
        return None
    return advance


class _StepByStepTrajectory(torch.autograd.Function):
    """Cell states of a rollout; the backward pass takes the sensitivities forward step by step.

    Everything that does not need the sensitivities is computed for all steps at once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
        carry: Carry,
        is_first: Tensor,
        advance: Advance,
    ) -> Tensor:
        preactivation = torch.addmm(bias.flatten(), x.flatten(0, 1), input_weight.flatten(0, 1).t())
        scan = elstm_scan(preactivation.view(*x.shape[:2], *bias.shape), recurrent_weight, carry.cell, is_first)
        linear = elstm_linearisation(scan, recurrent_weight, is_first)
        ctx.save_for_backward(x, input_weight, scan.previous)
        ctx.linear, ctx.sensitivities, ctx.advance = linear, carry.sensitivities, advance
        return scan.cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (direct,) = gradients
        x, input_weight, previous = ctx.saved_tensors
        total = backward_scan(direct, ctx.linear.jacobian)
        _, _, by_preactivation = rollout_gradient(total, ctx.linear, x[..., :1], previous)
        by_x = (by_preactivation.flatten(-2) @ input_weight.flatten(0, 1)).view_as(x)
        matrix, recurrent, bias = ctx.sensitivities.tensors()
        by_weight = torch.zeros_like(input_weight)
        by_recurrent, by_bias = torch.zeros_like(recurrent[0]), torch.zeros_like(bias[0])
        for t in range(len(x)):
            jacobian, immediate = ctx.linear.jacobian[t], ctx.linear.immediate[t]
            ctx.advance(matrix, by_weight, jacobian, immediate, x[t], direct[t])
            decay = jacobian.unsqueeze(1)
            recurrent.mul_(decay).addcmul_(immediate, previous[t].unsqueeze(1))
            bias.mul_(decay).add_(immediate)
            by_recurrent.add_(torch.einsum("bn,bkn->kn", direct[t], recurrent))
            by_bias.add_(torch.einsum("bn,bkn->kn", direct[t], bias))
        return by_x, by_weight, by_recurrent, by_bias, None, None, None


class StepByStepELSTM(ELSTM):
    """The eLSTM trained by step-by-step RTRL in plain PyTorch.

    Its carry must hold the sensitivities of just the batch's streams, in order; they are advanced in place.
    """

    def __init__(self, input_size: int, hidden_size: int, advance: Advance) -> None:
        super().__init__(input_size, hidden_size)
        self._advance = advance

    def cells(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """As :meth:`ELSTM.cells`."""
        own = self.input_weight, self.recurrent_weight, self.bias
        cells = _StepByStepTrajectory.apply(x, *own, carry, is_first, self._advance)
        return cells, Carry(cells[-1].detach(), carry.sensitivities, carry.streams)


class LSTMCore(nn.Module):
    """torch's LSTM (cuDNN's on a GPU) with TBPTT, in the place of the eLSTM: another, fully recurrent cell.

    The carry's cell is [h; c], [B, 2N]. It has no resets inside a rollout; one at the first step is honoured.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size)
        self.state_size = 2 * hidden_size

    def initial_carry(self, batch_size: int) -> Carry:
        """Zeros."""
        return Carry(self.lstm.weight_ih_l0.new_zeros(batch_size, self.state_size))

    def forward(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """x [T, B, D] -> h [T, B, N], and the carry after step T, detached."""
        start = carry.cell.masked_fill(is_first[0].unsqueeze(-1), 0).unsqueeze(0)
        h, last = self.lstm(x, tuple(part.contiguous() for part in start.chunk(2, -1)))
        return h, Carry(torch.cat(last, -1).squeeze(0).detach())

    cells = forward

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        """:meth:`forward` as an agent calls it, which here needs no cells of single steps: they are left empty."""
        h, carry = self(x, carry, is_first)
        return h, x.new_empty(0), carry

    @torch.no_grad()
    def step(self, x: Tensor, cell: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [B, D], cell [B, 2N] -> h [B, N] and the cell after it."""
        h, carry = self(x.unsqueeze(0), Carry(cell), is_first.unsqueeze(0))
        return h.squeeze(0), carry.cell


def make_core(method: str, inputs: int, hidden: int, device: torch.device) -> nn.Module | None:
    """The core of a method, with the same weights for every eLSTM; None where it cannot run on the device."""
    torch.manual_seed(0)
    if method == LSTM:
        return LSTMCore(inputs, hidden).to(device)
    if method in (RTRL, TBPTT):
        return ELSTM(inputs, hidden, "rtrl" if method == RTRL else "tbptt").to(device)
    advance = lean_advance if method == LEAN else tuned_advance(device)
    return StepByStepELSTM(inputs, hidden, advance).to(device) if advance else None
