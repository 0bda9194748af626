"""A core that is no cell and that RTRL cannot train, written by the protocol alone: PyTorch's GRU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from r2ac.agents import CORES, Carry
from r2ac.agents.config import FIXED_GRADIENTS
from r2ac.agents.core import Core


class OwnCore(Core):
    """Goes from step to step in Python, so that the arrays saved for the backward pass grow in number with T."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = self.output_size = self.state_size = hidden_size
        self.cell = nn.GRUCell(input_size, hidden_size)

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        return Carry(torch.zeros(batch_size, self.state_size, device=device, dtype=dtype))

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        states = self.truncated_states(x, carry.state, is_first)
        return states, states.detach(), Carry(states[-1].detach())

    def truncated_states(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        states = []
        for x_t, first in zip(x, is_first, strict=True):
            state = self.cell(x_t, state.masked_fill(first.unsqueeze(-1), 0))
            states.append(state)
        return torch.stack(states)

    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(x, state.masked_fill(is_first.unsqueeze(-1), 0))
        return state, state

    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        return torch.ones_like(state).masked_fill(is_first.unsqueeze(-1), 0)


def add_own_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--core own``, until the test ends."""
    monkeypatch.setitem(CORES, "own", lambda size, config: OwnCore(size, config.hidden_size))
    monkeypatch.setitem(FIXED_GRADIENTS, "own", "tbptt")
