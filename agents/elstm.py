"""The eLSTM core, trained by exact RTRL or by truncated BPTT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r2ac.kernels import (
    GATES,
    Linearisation,
    Sensitivities,
    backward_scan,
    boundary_contraction,
    elstm_linearisation,
    elstm_scan,
    elstm_step,
    jump,
    rollout_gradient,
    sensitivity_pass_,
)

Gradient = Literal["rtrl", "tbptt"]


@dataclass(frozen=True)
class Carry:
    """What a recurrent core hands from one rollout to the next."""

    cell: Tensor
    """Cell states, [B, N]."""
    sensitivities: Sensitivities | None = None
    """Derivatives of the cell states by the recurrent parameters; None unless the gradient is RTRL's."""
    streams: Tensor | None = None
    """If given, ``sensitivities`` are those of all streams, and these [B] int64 are the rows of this batch. The
    backward pass then advances them in place, where it reads them anyway; without one they stay behind the cell."""


class _CellTrajectory(torch.autograd.Function):
    """Cell states of a rollout, c_1 … c_T, with the gradient of RTRL, or of TBPTT where no sensitivities come in.

    The two share everything; RTRL adds the boundary contraction and the jump of the sensitivities: the jump in the
    forward pass, into new tensors, or, where ``streams`` are given, together with the contraction in the backward
    pass, in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
        cell: Tensor,
        is_first: Tensor,
        streams: Tensor | None,
        *sensitivities: Tensor,
    ) -> tuple[Tensor, ...]:
        gates, hidden, _ = input_weight.shape
        preactivation = torch.addmm(bias.flatten(), x.flatten(0, 1), input_weight.flatten(0, 1).t())
        scan = elstm_scan(preactivation.view(*x.shape[:2], gates, hidden), recurrent_weight, cell, is_first)
        linear = elstm_linearisation(scan, recurrent_weight, is_first)
        after: tuple[Tensor, ...] = ()
        if sensitivities and streams is None:
            after = jump(Sensitivities(*sensitivities), linear, x, scan.previous).tensors()
        ctx.streams = streams
        ctx.save_for_backward(x, input_weight, scan.previous, linear.jacobian, linear.immediate, *sensitivities)
        ctx.mark_non_differentiable(*after)
        ctx.set_materialize_grads(False)
        return scan.cell, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        direct = gradients[0]
        x, input_weight, previous, jacobian, immediate, *before = ctx.saved_tensors
        if direct is None:
            return (None,) * (7 + len(before))
        linear = Linearisation(jacobian, immediate)
        total = backward_scan(direct, jacobian)
        by_input_weight, by_recurrent_weight, by_preactivation = rollout_gradient(total, linear, x, previous)
        by_bias = by_preactivation.sum((0, 1))
        if before:
            boundary, kept = jacobian[0] * total[0], Sensitivities(*before)
            if ctx.streams is None:
                terms = boundary_contraction(boundary, kept)
            else:
                terms = sensitivity_pass_(kept, ctx.streams, boundary, linear, x, previous)
            for gradient, term in zip((by_input_weight, by_recurrent_weight, by_bias), terms, strict=True):
                gradient.add_(term)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = (by_preactivation.flatten(-2) @ input_weight.flatten(0, 1)).view_as(x)
        return by_x, by_input_weight, by_recurrent_weight, by_bias, None, None, None, *(None for _ in before)


class ELSTM(nn.Module):
    """The element-wise LSTM of Irie et al. 2024 (section 3.2), one layer.

        f = sigmoid(F x + w_f c' + b_f)     z = tanh(Z x + w_z c' + b_z)     c = f c' + (1 - f) z
        o = sigmoid(O [x; c] + b_o)         h = o c

    c' is the previous cell state, zero where an episode begins. F and Z are ``input_weight[0]`` and
    ``input_weight[1]``, and so on. The output gate lies outside the recurrence and gets ordinary gradients.

    Args:
        input_size: D.
        hidden_size: N.
        gradient: "rtrl", exact and untruncated (for parameters that stand still), or "tbptt", truncated at the
            rollout's start.
        chrono_steps: if not 0, the forget gate's biases start at log(u) with u uniform in [1, chrono_steps]
            (chrono initialisation, Tallec and Ollivier 2018), so that the units' time scales spread over the
            memory span of the task, in steps. At 0 they start at zero.

    Raises:
        ValueError: for sizes below 1, an unknown gradient, or chrono_steps other than 0 and below 2.
    """

    def __init__(self, input_size: int, hidden_size: int, gradient: Gradient = "rtrl", chrono_steps: float = 0) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size must be at least 1, not {input_size} and {hidden_size}")
        if gradient not in get_args(Gradient):
            raise ValueError(f"gradient must be one of {', '.join(get_args(Gradient))}, not {gradient!r}")
        if chrono_steps != 0 and chrono_steps < 2:
            raise ValueError(f"chrono_steps must be 0 or at least 2, not {chrono_steps}")
        self.input_size, self.hidden_size, self.gradient = input_size, hidden_size, gradient
        self.input_weight = nn.Parameter(torch.empty(GATES, hidden_size, input_size))
        self.recurrent_weight = nn.Parameter(torch.empty(GATES, hidden_size))
        self.bias = nn.Parameter(torch.zeros(GATES, hidden_size))
        self.output_gate = nn.Linear(input_size + hidden_size, hidden_size)
        for weight in (self.input_weight, self.recurrent_weight, self.output_gate.weight):
            nn.init.normal_(weight, std=0.1)
        nn.init.zeros_(self.output_gate.bias)
        if chrono_steps:
            with torch.no_grad():
                self.bias[0].uniform_(1, chrono_steps).log_()

    @property
    def cell_size(self) -> int:
        """N, the number of values that the core remembers for each stream."""
        return self.hidden_size

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        """The carry of ``batch_size`` streams before their first step: zeros, on the parameters' device and dtype
        unless others are named."""
        device = torch.device(device) if device is not None else self.bias.device
        dtype = dtype or self.bias.dtype
        cell = torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)
        if self.gradient == "tbptt":
            return Carry(cell)
        return Carry(cell, Sensitivities.zeros(batch_size, GATES, self.hidden_size, self.input_size, device, dtype))

    def forward(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """Run over a rollout.

        Args:
            x: inputs, [T, B, D].
            carry: the carry before the rollout; not changed, but for sensitivities that it holds by ``streams``.
            is_first: [T, B] bool, true where a step begins an episode: the carry is zeroed *before* that step.

        Returns:
            h, [T, B, N], which carries gradients, and the carry after step T, detached.

        Raises:
            ValueError: for shapes that do not fit together, a carry without sensitivities under RTRL, or one with
                ``streams`` where no backward pass can follow.
        """
        cells, carry = self.cells(x, carry, is_first)
        h = torch.sigmoid(self.output_gate(torch.cat((x, cells), dim=-1))) * cells
        return h, carry

    def cells(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """The recurrence alone, without the output gate: c, [T, B, N], which carries gradients, and the carry after
        step T; all else as in :meth:`forward`."""
        sensitivities = self._checked_sensitivities(x, carry, is_first)
        cells, *after = _CellTrajectory.apply(
            x, self.input_weight, self.recurrent_weight, self.bias, carry.cell, is_first, carry.streams, *sensitivities
        )
        if after:
            return cells, Carry(cells[-1].detach(), Sensitivities(*after))
        return cells, Carry(cells[-1].detach(), carry.sensitivities, carry.streams)

    @torch.no_grad()
    def step(self, x: Tensor, cell: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """One step without gradients or sensitivities: x [B, D], cell [B, N], is_first [B] bool -> h and c, [B, N]."""
        previous = cell.masked_fill(is_first.unsqueeze(-1), 0)
        preactivation = nn.functional.linear(x, self.input_weight.flatten(0, 1), self.bias.flatten())
        cell, _, _ = elstm_step(preactivation.unflatten(-1, (GATES, -1)), self.recurrent_weight, previous)
        return torch.sigmoid(self.output_gate(torch.cat((x, cell), dim=-1))) * cell, cell

    def _checked_sensitivities(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, ...]:
        if x.dim() != 3 or x.shape[0] < 1 or x.shape[2] != self.input_size:
            raise ValueError(f"x must be [T >= 1, B, {self.input_size}], not {list(x.shape)}")
        steps, batch = x.shape[:2]
        if is_first.shape != (steps, batch) or is_first.dtype != torch.bool:
            raise ValueError(f"is_first must be bool [{steps}, {batch}], not {is_first.dtype} {list(is_first.shape)}")
        if carry.cell.shape != (batch, self.hidden_size):
            raise ValueError(f"carry.cell must be [{batch}, {self.hidden_size}], not {list(carry.cell.shape)}")
        if self.gradient == "tbptt":
            return ()
        if carry.sensitivities is None:
            raise ValueError("gradient 'rtrl' needs a carry with sensitivities: begin with initial_carry()")
        rows = batch
        if carry.streams is not None:
            if not torch.is_grad_enabled():
                raise ValueError("a carry with streams is advanced by the backward pass, but gradients are disabled")
            if carry.streams.shape != (batch,):
                raise ValueError(f"carry.streams must be [{batch}], not {list(carry.streams.shape)}")
            rows = len(carry.sensitivities.input_weight)
        expected = (rows, GATES, self.hidden_size, self.input_size)
        if carry.sensitivities.input_weight.shape != expected:
            raise ValueError(
                f"the carry's sensitivities must be {list(expected)}, not "
                f"{list(carry.sensitivities.input_weight.shape)}"
            )
        return carry.sensitivities.tensors()

    def extra_repr(self) -> str:
        """What ``print`` shows beside the class name."""
        return f"{self.input_size}, {self.hidden_size}, gradient={self.gradient!r}"
