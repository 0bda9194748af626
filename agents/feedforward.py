"""The feed-forward core: the baseline that cannot remember."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r2ac.agents.core import START_SCALE, Carry, Core


class FeedForward(Core):
    """The eLSTM without its memory, with the same interface and its capacity but for the 2 N recurrent weights.

        f = sigmoid(F x + b_f)     z = tanh(Z x + b_z)     c = (1 - f) z
        o = sigmoid(O [x; c] + b_o)     h = o c

    which is what the eLSTM computes in the first step of an episode. A baseline with fewer parameters than the
    recurrent agents would mix up the worth of memory with the worth of capacity. Without ``output_gate`` h = c;
    ``input_scale`` is the standard deviation of F and Z at the start, 0.1 if not given.
    """

    state_size = 0

    def __init__(
        self, input_size: int, hidden_size: int, output_gate: bool = True, input_scale: float | None = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        self.gates = nn.Linear(input_size, 2 * hidden_size)
        self.output_gate = nn.Linear(input_size + hidden_size, hidden_size) if output_gate else None
        input_scale = START_SCALE if input_scale is None else input_scale
        for linear, scale in ((self.gates, input_scale), (self.output_gate, START_SCALE)):
            if linear is not None:
                nn.init.normal_(linear.weight, std=scale)
                nn.init.zeros_(linear.bias)

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        bias = self.gates.bias
        return Carry(torch.zeros(batch_size, 0, device=device or bias.device, dtype=dtype or bias.dtype))

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        return self._output(x), self.truncated_states(x, carry.state, is_first), carry

    def truncated_states(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        return state.expand(len(x), -1, -1)

    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        return torch.zeros_like(state)

    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return self._output(x), state

    def _output(self, x: Tensor) -> Tensor:
        forget, candidate = self.gates(x).chunk(2, dim=-1)
        c = (1 - torch.sigmoid(forget)) * torch.tanh(candidate)
        gate = self.output_gate
        return c if gate is None else torch.sigmoid(gate(torch.cat((x, c), dim=-1))) * c
