"""The eLSTM core, trained by exact RTRL or by truncated BPTT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from r2ac.agents.config import Gradient
from r2ac.kernels import GATES, Sensitivities, elstm_cells, elstm_jump, elstm_step


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
    fresh: Tensor | None = None
    """[B] bool, beside ``streams``: the sensitivities of these streams count as zero, whatever is kept."""
    noted: Tensor | None = None
    """[BN] or [2BN + KND + 2KN], beside ``streams``: what the backward pass notes, as ``elstm_cells`` says."""


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
    def state_size(self) -> int:
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
        h, _, carry = self.unroll(x, carry, is_first)
        return h, carry

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        """:meth:`forward` with the cell states after each step, [T, B, N], detached, between h and the carry."""
        cells, carry = self.cells(x, carry, is_first)
        h = torch.sigmoid(self.output_gate(torch.cat((x, cells), dim=-1))) * cells
        return h, cells.detach(), carry

    def cells(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """The recurrence alone, without the output gate: c, [T, B, N], which carries gradients, and the carry after
        step T; all else as in :meth:`forward`."""
        self._check(x, carry, is_first)
        # The bias is added by the scan, which reads the pre-activations anyway.
        projection = nn.functional.linear(x, self.input_weight.flatten(0, 1)).unflatten(-1, (GATES, -1))
        own = projection, self.recurrent_weight, self.bias
        if self.gradient == "tbptt" or carry.sensitivities is None:
            cells = elstm_cells(*own, carry.cell, is_first)
            return cells, Carry(cells[-1].detach())
        rtrl = self.input_weight, x.detach(), *carry.sensitivities.tensors()
        if carry.streams is None:
            cells = elstm_cells(*own, carry.cell, is_first, *rtrl)
            after = elstm_jump(carry.sensitivities, *own, cells, carry.cell, is_first, x)
            return cells, Carry(cells[-1].detach(), after)
        fresh = carry.fresh if carry.fresh is not None else torch.zeros_like(carry.streams, dtype=torch.bool)
        cells = elstm_cells(*own, carry.cell, is_first, *rtrl, carry.streams, fresh, carry.noted)
        return cells, Carry(cells[-1].detach(), carry.sensitivities, carry.streams)

    @torch.no_grad()
    def step(self, x: Tensor, cell: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """One step without gradients or sensitivities: x [B, D], cell [B, N], is_first [B] bool -> h and c, [B, N]."""
        previous = cell.masked_fill(is_first.unsqueeze(-1), 0)
        preactivation = nn.functional.linear(x, self.input_weight.flatten(0, 1), self.bias.flatten())
        cell, _, _ = elstm_step(preactivation.unflatten(-1, (GATES, -1)), self.recurrent_weight, previous)
        return torch.sigmoid(self.output_gate(torch.cat((x, cell), dim=-1))) * cell, cell

    def _check(self, x: Tensor, carry: Carry, is_first: Tensor) -> None:
        if x.dim() != 3 or x.shape[0] < 1 or x.shape[2] != self.input_size:
            raise ValueError(f"x must be [T >= 1, B, {self.input_size}], not {list(x.shape)}")
        steps, batch = x.shape[:2]
        if is_first.shape != (steps, batch) or is_first.dtype != torch.bool:
            raise ValueError(f"is_first must be bool [{steps}, {batch}], not {is_first.dtype} {list(is_first.shape)}")
        if carry.cell.shape != (batch, self.hidden_size):
            raise ValueError(f"carry.cell must be [{batch}, {self.hidden_size}], not {list(carry.cell.shape)}")
        weight = self.input_weight
        if (carry.cell.dtype, carry.cell.device) != (weight.dtype, weight.device):
            raise ValueError(
                f"carry.cell must be {weight.dtype} on {weight.device}, not {carry.cell.dtype} on {carry.cell.device}"
            )
        if carry.fresh is not None and carry.streams is None:
            raise ValueError("carry.fresh goes with carry.streams: without these, begin with initial_carry()")
        if carry.noted is not None:
            sizes = [carry.cell.numel(), 2 * carry.cell.numel() + weight.numel() + 2 * self.bias.numel()]
            if carry.streams is None or carry.noted.dim() != 1 or len(carry.noted) not in sizes:
                raise ValueError(
                    f"carry.noted goes with carry.streams and must be one of {sizes}, not {list(carry.noted.shape)}"
                )
        if self.gradient == "tbptt":
            return
        if carry.sensitivities is None:
            raise ValueError("gradient 'rtrl' needs a carry with sensitivities: begin with initial_carry()")
        rows = batch
        if carry.streams is not None:
            if not torch.is_grad_enabled():
                raise ValueError("a carry with streams is advanced by the backward pass, but gradients are disabled")
            if carry.streams.shape != (batch,):
                raise ValueError(f"carry.streams must be [{batch}], not {list(carry.streams.shape)}")
            if carry.fresh is not None and (carry.fresh.shape != (batch,) or carry.fresh.dtype != torch.bool):
                raise ValueError(
                    f"carry.fresh must be bool [{batch}], not {carry.fresh.dtype} {list(carry.fresh.shape)}"
                )
            rows = len(carry.sensitivities.input_weight)
        expected = (rows, GATES, self.hidden_size, self.input_size)
        if carry.sensitivities.input_weight.shape != expected:
            raise ValueError(
                f"the carry's sensitivities must be {list(expected)}, not "
                f"{list(carry.sensitivities.input_weight.shape)}"
            )

    def extra_repr(self) -> str:
        """What ``print`` shows beside the class name."""
        return f"{self.input_size}, {self.hidden_size}, gradient={self.gradient!r}"
