"""Fully recurrent cores, trained by truncated BPTT: PyTorch's LSTM and GRU, the baselines of the element-wise cells."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear

from r2ac.agents.config import TimeScales
from r2ac.agents.core import Carry, Core, draw_time_scales

_STEPS_OF_A_PIECE = 5
"""Steps between two resets, in the mean over a rollout, from which on PyTorch's kernels are called for such a piece: a
call for fewer takes longer than to go step by step."""


class FullyRecurrent(Core):
    """One layer whose units all read the h of all others, so that RTRL would need N times the memory of a cell's.

    Weights are those of PyTorch's module, ``rnn``, and begin as PyTorch draws them: uniform in [-1, 1] / sqrt(N). The
    state is zeroed before each step that begins an episode, and the gradient ends there and at the rollout's start.

    Args:
        rnn: PyTorch's module, of one layer.
        chrono_steps: if not 0, the units begin with time scales in [1, chrono_steps], in steps.
        input_scale: standard deviation of the input weights at the start; None: PyTorch's start.
        recurrent_scale: that of the recurrent weights.
        time_scales: whether time scales are uniform, or their logarithms are ("log-uniform").

    Raises:
        ValueError: for sizes below 1, chrono_steps other than 0 and below 2, or log-uniform time scales without
            chrono_steps.
    """

    parts: int
    """Numbers of a unit's state."""

    def __init__(
        self,
        rnn: nn.RNNBase,
        chrono_steps: float = 0,
        *,
        input_scale: float | None = None,
        recurrent_scale: float | None = None,
        time_scales: TimeScales = "uniform",
    ) -> None:
        super().__init__()
        self.rnn = rnn
        self.input_size, self.hidden_size, self.output_size = rnn.input_size, rnn.hidden_size, rnn.hidden_size
        self.state_size = self.parts * self.hidden_size
        by_x, by_h, bias, bias_of_h = rnn.all_weights[0]
        for weight, scale in ((by_x, input_scale), (by_h, recurrent_scale)):
            if scale is not None:
                nn.init.normal_(weight, std=scale)
        steps = draw_time_scales(bias[: self.hidden_size], chrono_steps, time_scales)
        if steps is not None:
            with torch.no_grad():
                self._set_time_scales(bias.unflatten(0, (-1, self.hidden_size)), steps.log())
                self._set_time_scales(bias_of_h.unflatten(0, (-1, self.hidden_size)), torch.zeros_like(steps))

    @abstractmethod
    def _set_time_scales(self, bias: Tensor, start: Tensor) -> None:
        """Let the gates that remember begin with the biases ``start``, [N], among those of all gates, [gates, N]."""

    @abstractmethod
    def _cell(self, given: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
        """The state after a step, [B, S], from what x and h give to the gates, with biases, and the state before."""

    @abstractmethod
    def _states(self, x: Tensor, h: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """The states after each step of a rollout, [T, B, S], whose h are known, [T, B, N]; without gradients."""

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        bias = self.rnn.all_weights[0][-1]
        shape = batch_size, self.state_size
        return Carry(torch.zeros(shape, device=device or bias.device, dtype=dtype or bias.dtype))

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        pieces = _pieces_between_resets(is_first)
        if len(pieces) * _STEPS_OF_A_PIECE > len(x) or not pieces:
            states = self.truncated_states(x, carry.state, is_first)
            return states[..., : self.hidden_size], states.detach(), Carry(states[-1].detach())
        h = self._by_pieces(x, carry.state, is_first, pieces)
        with torch.no_grad():
            states = self._states(x, h, carry.state, is_first)
        return h, states, Carry(states[-1])

    def _by_pieces(self, x: Tensor, state: Tensor, is_first: Tensor, pieces: Sequence[tuple[int, int]]) -> Tensor:
        """h, [T, B, N], by PyTorch's own kernels (cuDNN's on a GPU), called once for each piece."""
        outputs = []
        for begin, end in pieces:
            before = state.masked_fill(is_first[begin].unsqueeze(-1), 0).unsqueeze(0).chunk(self.parts, dim=-1)
            parts = tuple(part.contiguous() for part in before)
            h, after = self.rnn(x[begin:end], parts if self.parts > 1 else parts[0])
            outputs.append(h)
            state = torch.cat(after if isinstance(after, tuple) else (after,), dim=-1).squeeze(0)
        return torch.cat(outputs)

    def truncated_states(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        states = []
        for given, first in zip(self._given(x), is_first, strict=True):
            state = self._after(given, state, first)
            states.append(state)
        return torch.stack(states)

    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        state = self._after(self._given(x), state, is_first)
        return state[..., : self.hidden_size], state

    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """The diagonal of the step's Jacobian, [B, S]: what each number keeps of itself, without what comes back by way
        of other units; 0 where an episode begins."""
        first, by_h = is_first.unsqueeze(-1), self.rnn.all_weights[0][1]
        with torch.enable_grad():
            before = [part.detach().requires_grad_() for part in state.masked_fill(first, 0).chunk(self.parts, dim=-1)]
            h = before[0]
            # Units meet in the recurrent product alone. With a gradient through its diagonal only, that of a sum over
            # the units is the one of each.
            own = by_h.unflatten(0, (-1, self.hidden_size)).diagonal(dim1=1, dim2=2)
            recurrent = self._recurrent(h.detach()) + (own * (h - h.detach()).unsqueeze(1)).flatten(1)
            after = self._cell(self._given(x), recurrent, torch.cat(before, dim=-1)).chunk(self.parts, dim=-1)
            pairs = zip(after, before, strict=True)
            kept = [torch.autograd.grad(new.sum(), old, retain_graph=True)[0] for new, old in pairs]
        return torch.cat(kept, dim=-1).masked_fill(first, 0)

    def _given(self, x: Tensor) -> Tensor:
        """What x, [..., D], gives to the gates."""
        by_x, _, bias, _ = self.rnn.all_weights[0]
        return linear(x, by_x, bias)

    def _recurrent(self, h: Tensor) -> Tensor:
        """What h, [..., N], gives to them."""
        _, by_h, _, bias = self.rnn.all_weights[0]
        return linear(h, by_h, bias)

    def _after(self, given: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        state = state.masked_fill(is_first.unsqueeze(-1), 0)
        return self._cell(given, self._recurrent(state[..., : self.hidden_size]), state)


def _pieces_between_resets(is_first: Tensor) -> list[tuple[int, int]]:
    """Where the pieces of a rollout begin and end within which no stream is reset; none where the host cannot know: in
    a CUDA graph, which is the same for all data, and of fake tensors. The host waits for a GPU."""
    if isinstance(is_first, FakeTensor) or (is_first.is_cuda and torch.cuda.is_current_stream_capturing()):
        return []
    resets = 1 + is_first[1:].any(dim=1).nonzero().flatten()
    return list(pairwise((0, *resets.tolist(), len(is_first))))


class LSTM(FullyRecurrent):
    """PyTorch's LSTM (``nn.LSTM``), whose state is [h; c].

        i, f, o = sigmoid(W x + U h' + b)     g = tanh(W_g x + U_g h' + b_g)     c = f c' + i g     h = o tanh(c)

    With ``chrono_steps`` the biases of the forget gates start at log(u) and those of the input gates at -log(u), u in
    [1, chrono_steps] (chrono initialisation, Tallec and Ollivier 2018). ``settings`` are those of
    :class:`FullyRecurrent`.
    """

    parts = 2

    def __init__(self, input_size: int, hidden_size: int, chrono_steps: float = 0, **settings: Any) -> None:
        super().__init__(nn.LSTM(input_size, hidden_size), chrono_steps, **settings)

    def _set_time_scales(self, bias: Tensor, start: Tensor) -> None:
        bias[0], bias[1] = -start, start

    def _cell(self, given: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
        i, f, g, o = (given + recurrent).chunk(4, dim=-1)
        c = torch.sigmoid(f) * state[..., self.hidden_size :] + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat((torch.sigmoid(o) * torch.tanh(c), c), dim=-1)

    def _states(self, x: Tensor, h: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        # PyTorch returns the last c alone. With h known the gates of all steps are, and c follows by itself.
        h_before, c = state.chunk(2, dim=-1)
        before = torch.cat((h_before.unsqueeze(0), h[:-1])).masked_fill(is_first.unsqueeze(-1), 0)
        i, f, g, _ = (self._given(x) + self._recurrent(before)).chunk(4, dim=-1)
        kept, gained = torch.sigmoid(f).masked_fill(is_first.unsqueeze(-1), 0), torch.sigmoid(i) * torch.tanh(g)
        cells = []
        for kept_t, gained_t in zip(kept, gained, strict=True):
            c = torch.addcmul(gained_t, kept_t, c)
            cells.append(c)
        return torch.cat((h, torch.stack(cells)), dim=-1)


class GRU(FullyRecurrent):
    """PyTorch's GRU (``nn.GRU``), whose state is h.

        r, z = sigmoid(W x + U h' + b)     n = tanh(W_n x + b_n + r (U_n h' + b'_n))     h = z h' + (1 - z) n

    With ``chrono_steps`` the biases of the update gates z start at log(u), u in [1, chrono_steps]. ``settings`` are
    those of :class:`FullyRecurrent`.
    """

    parts = 1

    def __init__(self, input_size: int, hidden_size: int, chrono_steps: float = 0, **settings: Any) -> None:
        super().__init__(nn.GRU(input_size, hidden_size), chrono_steps, **settings)

    def _set_time_scales(self, bias: Tensor, start: Tensor) -> None:
        bias[1] = start

    def _cell(self, given: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
        (r, z, n), (of_r, of_z, of_n) = given.chunk(3, dim=-1), recurrent.chunk(3, dim=-1)
        n = torch.tanh(n + torch.sigmoid(r + of_r) * of_n)
        return n + torch.sigmoid(z + of_z) * (state - n)

    def _states(self, x: Tensor, h: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        return h.detach()
