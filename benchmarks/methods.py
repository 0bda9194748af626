"""The methods that the benchmarks compare: RTRL step by step in plain PyTorch, this repository's cores, an LSTM."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r2ac.agents import ELSTM, Carry, Core
from r2ac.kernels import CELLS, Linearisation, backward_scan
from r2ac.kernels.scan import forward_scan, linearise_rollout

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
        cell = CELLS["elstm"]
        projection = (x.flatten(0, 1) @ input_weight.flatten(0, 1).t()).view(*x.shape[:2], *bias.shape)
        states = forward_scan(cell, projection, recurrent_weight, bias, carry.state, is_first)
        ctx.save_for_backward(x, input_weight)
        ctx.linear = linearise_rollout(cell, projection + bias, recurrent_weight, states, carry.state, is_first)
        ctx.traces, ctx.advance = carry.traces, advance
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (direct,) = gradients
        x, input_weight = ctx.saved_tensors
        linear: Linearisation = ctx.linear
        total = backward_scan(direct, linear.jacobian)
        by_x = ((linear.by_gates * total.unsqueeze(-2)).flatten(-2) @ input_weight.flatten(0, 1)).view_as(x)
        matrix, vectors = ctx.traces[0].weight, ctx.traces[0].vectors
        by_weight, by_vectors = torch.zeros_like(input_weight), torch.zeros_like(vectors[0])
        gained = torch.cat((linear.by_own, linear.by_gates), -2)
        for t in range(len(x)):
            ctx.advance(matrix, by_weight, linear.jacobian[t], linear.by_gates[t], x[t], direct[t])
            vectors.mul_(linear.jacobian[t].unsqueeze(1)).add_(gained[t])
            by_vectors.add_(torch.einsum("bn,bln->ln", direct[t], vectors))
        return by_x, by_weight, *by_vectors.chunk(2), None, None, None


class StepByStepELSTM(ELSTM):
    """The eLSTM trained by step-by-step RTRL in plain PyTorch.

    Its carry must hold the sensitivities of just the batch's streams, in order; they are advanced in place.
    """

    def __init__(self, input_size: int, hidden_size: int, advance: Advance) -> None:
        super().__init__(input_size, hidden_size)
        self._advance = advance

    def states(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """As :meth:`ELSTM.states`."""
        states = _StepByStepTrajectory.apply(x, *self.recurrent_parameters, carry, is_first, self._advance)
        return states, Carry(states[-1].detach(), carry.traces)


class LSTMCore(Core):
    """torch's LSTM (cuDNN's on a GPU) with TBPTT, in the place of the eLSTM: another, fully recurrent cell.

    `r2ac.agents.LSTM` also keeps the states of single steps, which would make this baseline slower than it need be. The
    carry's state is [h; c], [B, 2N]. It has no resets inside a rollout; one at the first step is honoured.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        self.state_size = 2 * hidden_size

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        """Zeros."""
        return Carry(self.lstm.weight_ih_l0.new_zeros(batch_size, self.state_size))

    def forward(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """x [T, B, D] -> h [T, B, N], and the carry after step T, detached."""
        start = carry.state.masked_fill(is_first[0].unsqueeze(-1), 0).unsqueeze(0)
        h, last = self.lstm(x, tuple(part.contiguous() for part in start.chunk(2, -1)))
        return h, Carry(torch.cat(last, -1).squeeze(0).detach())

    states = forward

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        """:meth:`forward` as an agent calls it, which here needs no states of single steps: they are left empty."""
        h, carry = self(x, carry, is_first)
        return h, x.new_empty(0), carry

    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [B, D], state [B, 2N] -> h [B, N] and the state after it, detached."""
        h, carry = self(x.unsqueeze(0), Carry(state), is_first.unsqueeze(0))
        return h.squeeze(0), carry.state

    def truncated_states(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """Raises NotImplementedError: no benchmark inspects this core."""
        raise NotImplementedError

    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """Raises NotImplementedError: no benchmark watches this core."""
        raise NotImplementedError


def make_core(method: str, inputs: int, hidden: int, device: torch.device) -> nn.Module | None:
    """The core of a method, with the same weights for every eLSTM; None where it cannot run on the device."""
    torch.manual_seed(0)
    if method == LSTM:
        return LSTMCore(inputs, hidden).to(device)
    if method in (RTRL, TBPTT):
        return ELSTM(inputs, hidden, "rtrl" if method == RTRL else "tbptt").to(device)
    advance = lean_advance if method == LEAN else tuned_advance(device)
    return StepByStepELSTM(inputs, hidden, advance).to(device) if advance else None
