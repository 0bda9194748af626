"""Any cell with a diagonal Jacobian gets exact RTRL from a_t and u_t^k alone: real cells against autograd, in float64.

Autograd goes back through the whole history; the kernels see one rollout at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import backward_scan, decay_products, sensitivity_pass_

DOUBLE = torch.float64
Cell = Callable[[Tensor, Tensor, Tensor], Tensor]
"""c [B, N] from the pre-activations W x [B, K, N], the cell's own parameters [B, L, N] and c' [B, N]."""


def eqrnn(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """QRNN (Bradbury et al. 2016): the gates see the input only, so that a = f."""
    forget, candidate = gates.unbind(1)
    return torch.lerp(torch.tanh(candidate), previous, torch.sigmoid(forget))


def min_gru(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """minGRU (Feng et al. 2024): the candidate is linear; its bias is the cell's own."""
    update, candidate = gates.unbind(1)
    return torch.lerp(previous, candidate + own[:, 0], torch.sigmoid(update))


def ind_rnn(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """IndRNN (Li et al. 2018), of one gate: tanh(W x + w c')."""
    return torch.tanh(gates[:, 0] + own[:, 0] * previous)


def min_lstm(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """minLSTM (Feng et al. 2024), of three gates: forget and input gate are normalised to one."""
    forget, gain, candidate = torch.sigmoid(gates[:, 0]), torch.sigmoid(gates[:, 1]), gates[:, 2]
    return (forget * previous + gain * candidate) / (forget + gain)


def rg_lru(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """RG-LRU (De et al. 2024): a = exp(-8 softplus(own) r), c = a c' + sqrt(1 - a^2) i z."""
    decay = torch.exp(-8 * torch.nn.functional.softplus(own[:, 0]) * torch.sigmoid(gates[:, 0]))
    return decay * previous + torch.sqrt(1 - decay.square()) * torch.sigmoid(gates[:, 1]) * gates[:, 2]


def peephole(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """The eLSTM's cell: both gates see c'; two recurrent weights and two biases of its own."""
    forget, candidate = (gates + own[:, :2] * previous.unsqueeze(1) + own[:, 2:]).unbind(1)
    return torch.lerp(torch.tanh(candidate), previous, torch.sigmoid(forget))


CELLS: list[tuple[Cell, int, int]] = [
    (eqrnn, 2, 1),
    (min_gru, 2, 1),
    (ind_rnn, 1, 1),
    (min_lstm, 3, 1),
    (rg_lru, 3, 1),
    (peephole, 2, 4),
]
"""A cell, its gates K and its own parameters L (one that is not used where it has none)."""


def linearise(cell: Cell, gates: Tensor, own: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c, a, u of the gates and u of the cell's own parameters: units do not meet, so that a sum tells them apart."""
    arguments = [tensor.detach().requires_grad_() for tensor in (gates, own, previous)]
    after = cell(*arguments)
    grads = torch.autograd.grad(after.sum(), arguments, allow_unused=True, materialize_grads=True)
    return after.detach(), grads[2], grads[0], grads[1]


@pytest.mark.parametrize(("cell", "gates", "own"), CELLS, ids=[cell.__name__ for cell, _, _ in CELLS])
@given(
    lengths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    chance=st.randoms(use_true_random=False),
)
def test_every_rollout_has_the_gradient_of_the_whole_history(
    cell: Cell, gates: int, own: int, lengths: list[int], sizes: tuple[int, int, int], chance: Random
) -> None:
    batch, hidden, width = sizes
    generator = torch.Generator().manual_seed(chance.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DOUBLE, generator=generator)

    x, direct = normal(sum(lengths), batch, width), normal(sum(lengths), batch, hidden)
    is_first = torch.rand(sum(lengths), batch, 1, generator=generator) < 0.2
    W, w = normal(gates, hidden, width).requires_grad_(), normal(own, hidden).requires_grad_()

    cells, history = torch.zeros(batch, hidden, dtype=DOUBLE), []
    for inputs, first in zip(x, is_first, strict=True):
        cells = cell(torch.einsum("bd,knd->bkn", inputs, W), w.expand(batch, -1, -1), cells.masked_fill(first, 0))
        history.append(cells)

    # The cell's own parameters are weights of an input that is always one.
    kept = [
        torch.full((batch + 1, *shape), torch.nan, dtype=DOUBLE) for shape in ((gates, hidden, width), (own, hidden, 1))
    ]
    streams = torch.tensor(chance.sample(range(batch + 1), batch))
    fresh = torch.ones(batch, dtype=torch.bool)
    state, start = torch.zeros(batch, hidden, dtype=DOUBLE), 0
    for length in lengths:
        part = slice(start, start + length)
        steps = []
        for inputs, first in zip(x[part], is_first[part], strict=True):
            pre = torch.einsum("bd,knd->bkn", inputs, W)
            state, a, *us = linearise(cell, pre, w.expand(batch, -1, -1), state.masked_fill(first, 0))
            steps.append((a.masked_fill(first, 0), *us))
        jacobian, *immediates = (torch.stack(values) for values in zip(*steps, strict=True))
        total = backward_scan(direct[part], jacobian)
        decay, after = decay_products(jacobian)
        loss = (torch.stack(history[part]) * direct[part]).sum()
        expected = torch.autograd.grad(loss, (W, w), retain_graph=True, allow_unused=True, materialize_grads=True)
        ones = torch.ones(length, batch, 1, dtype=DOUBLE)
        for matrix, u, v, whole in zip(kept, immediates, (x[part], ones), expected, strict=True):
            weighted = after.unsqueeze(-2) * u
            inside = torch.einsum("tbn,tbkn,tbd->knd", total, u, v)
            term = sensitivity_pass_(matrix, streams, fresh, jacobian[0] * total[0], decay, weighted, v)
            torch.testing.assert_close((inside + term).view_as(whole), whole, rtol=1e-10, atol=1e-10)
        fresh.zero_()
        start += length
