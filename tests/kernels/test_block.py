"""Cells with a 2x2 Jacobian per unit against autograd through the whole history, and against loops, in float64."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels.block import block_backward_scan, block_decay_products, block_sensitivity_pass_, complex_blocks

DOUBLE = torch.float64
Cell = Callable[[Tensor, Tensor, Tensor], Tensor]
"""c [B, 2, N] from the pre-activations W x [B, K, N], the cell's own parameters [B, L, N] and c' [B, 2, N]."""


def lru(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """LRU (Orvieto et al. 2023): c = exp(-exp(nu) + i theta) c' + (W_0 + i W_1) x, all of it in complex numbers."""
    radius = torch.exp(-torch.exp(own[:, 0]))
    state = torch.polar(radius, own[:, 1]) * torch.complex(*previous.unbind(1)) + torch.complex(*gates.unbind(1))
    return torch.view_as_real(state).movedim(-1, 1)


def rtu(gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
    """A gated, nonlinear rotation (after Elelimy et al. 2024): blocks that are no complex numbers, in any order."""
    radius, (cos, sin) = torch.sigmoid(own[:, 0] + gates[:, 2]), (own[:, 1].cos(), own[:, 1].sin())
    first, second = previous.unbind(1)
    rotated = radius * (cos * first - sin * second), radius * (sin * first + cos * second)
    return torch.stack((torch.tanh(rotated[0] + gates[:, 0]), torch.tanh(rotated[1] + gates[:, 1] * gates[:, 2])), 1)


CELLS: list[tuple[Cell, int, int]] = [(lru, 2, 2), (rtu, 3, 2)]
"""A cell, its gates K and its own parameters L."""


def linearise(cell: Cell, gates: Tensor, own: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c, A, u of the gates and u of the cell's own parameters: units do not meet, so that a sum tells them apart."""
    arguments = [tensor.detach().requires_grad_() for tensor in (gates, own, previous)]
    after = cell(*arguments)
    grads = [torch.autograd.grad(half.sum(), arguments, retain_graph=True) for half in after.unbind(1)]
    by_gates, by_own, by_previous = (torch.stack(halves, 1) for halves in zip(*grads, strict=True))
    return after.detach(), by_previous, by_gates, by_own


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

    x, direct = normal(sum(lengths), batch, width), normal(sum(lengths), batch, 2, hidden)
    is_first = torch.rand(sum(lengths), batch, 1, 1, generator=generator) < 0.2
    W, w = normal(gates, hidden, width).requires_grad_(), normal(own, hidden).requires_grad_()

    cells, history = torch.zeros(batch, 2, hidden, dtype=DOUBLE), []
    for inputs, first in zip(x, is_first, strict=True):
        cells = cell(torch.einsum("bd,knd->bkn", inputs, W), w.expand(batch, -1, -1), cells.masked_fill(first, 0))
        history.append(cells)

    # The cell's own parameters are weights of an input that is always one.
    shapes = (gates, hidden, width), (own, hidden, 1)
    kept = [torch.full((batch + 1, 2, *shape), torch.nan, dtype=DOUBLE) for shape in shapes]
    streams = torch.tensor(chance.sample(range(batch + 1), batch))
    fresh = torch.ones(batch, dtype=torch.bool)
    state, start = torch.zeros(batch, 2, hidden, dtype=DOUBLE), 0
    for length in lengths:
        part = slice(start, start + length)
        steps = []
        for inputs, first in zip(x[part], is_first[part], strict=True):
            pre = torch.einsum("bd,knd->bkn", inputs, W)
            state, A, *us = linearise(cell, pre, w.expand(batch, -1, -1), state.masked_fill(first, 0))
            steps.append((A.masked_fill(first.unsqueeze(-1), 0), *us))
        jacobian, *immediates = (torch.stack(values) for values in zip(*steps, strict=True))
        total = block_backward_scan(direct[part], jacobian)
        boundary = torch.einsum("bijn,bin->bjn", jacobian[0], total[0])
        decay, after = block_decay_products(jacobian)
        loss = (torch.stack(history[part]) * direct[part]).sum()
        expected = torch.autograd.grad(loss, (W, w), retain_graph=True)
        ones = torch.ones(length, batch, 1, dtype=DOUBLE)
        for matrix, u, v, whole in zip(kept, immediates, (x[part], ones), expected, strict=True):
            weighted = torch.einsum("tbijn,tbjkn->tbikn", after, u)
            inside = torch.einsum("tbin,tbikn,tbd->knd", total, u, v)
            term = block_sensitivity_pass_(matrix, streams, fresh, boundary, decay, weighted, v)
            torch.testing.assert_close((inside + term).view_as(whole), whole, rtol=1e-10, atol=1e-10)
        fresh.zero_()
        start += length
    at_rest = (set(range(batch + 1)) - set(streams.tolist())).pop()
    assert all(matrix[at_rest].isnan().all() for matrix in kept)


def test_a_complex_factor_is_a_block() -> None:
    a, c = (torch.complex(*torch.randn(2, 3, 5, dtype=DOUBLE)) for _ in range(2))
    product = torch.einsum("bijn,bjn->bin", complex_blocks(a), torch.stack((c.real, c.imag), 1))
    torch.testing.assert_close(torch.complex(*product.unbind(1)), a * c)


@st.composite
def jacobians(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """e_t [T, B, 2, N] and A_t [T, B, 2, 2, N]; some A_t are zero."""
    steps, batch, hidden = (draw(st.integers(1, most)) for most in (5, 2, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    direct = torch.randn(steps, batch, 2, hidden, dtype=DOUBLE, generator=generator)
    jacobian = torch.randn(steps, batch, 2, 2, hidden, dtype=DOUBLE, generator=generator)
    zeros = torch.rand(steps, batch, 1, 1, 1, generator=generator) < draw(st.sampled_from((0.0, 0.3)))
    return direct, jacobian.masked_fill(zeros, 0)


@given(jacobians())
def test_scan_and_products_are_products_of_matrices(case: tuple[Tensor, Tensor]) -> None:
    direct, jacobian = case
    total = block_backward_scan(direct, jacobian)
    whole, after = block_decay_products(jacobian)
    steps, batch, _, _, hidden = jacobian.shape
    for b, n in np.ndindex(batch, hidden):
        matrices = jacobian[:, b, :, :, n].numpy()
        for t in range(steps):
            product, expected = np.eye(2), direct[t, b, :, n].numpy()
            for s in range(t + 1, steps):
                product = matrices[s] @ product
                expected = expected + product.T @ direct[s, b, :, n].numpy()
            np.testing.assert_allclose(after[t, b, :, :, n], product, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(total[t, b, :, n], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            whole[b, :, :, n], after[0, b, :, :, n].numpy() @ matrices[0], rtol=1e-12, atol=1e-12
        )


@given(*(st.integers(1, most) for most in (4, 3, 3, 3, 4)), st.randoms(use_true_random=False))
def test_the_pass_is_its_equation(steps: int, batch: int, gates: int, hidden: int, inputs: int, chance: Random) -> None:
    """In loops over streams and units; bfloat16 is only how S is kept."""
    generator = torch.Generator().manual_seed(chance.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DOUBLE, generator=generator)

    streams = torch.tensor(chance.sample(range(batch + 1), batch))
    fresh = torch.tensor([chance.random() < 0.3 for _ in range(batch)])
    kept = normal(batch + 1, 2, gates, hidden, inputs)
    boundary, decay = normal(batch, 2, hidden), normal(batch, 2, 2, hidden)
    weighted, x = normal(steps, batch, 2, gates, hidden), normal(steps, batch, inputs)
    for dtype in (DOUBLE, torch.bfloat16):
        matrix = kept.to(dtype, copy=True)
        before = matrix.to(DOUBLE, copy=True)
        matrix[streams[fresh]], before[streams[fresh]] = torch.nan, 0
        term = block_sensitivity_pass_(matrix, streams, fresh, boundary, decay, weighted, x)
        expected = torch.zeros_like(term)
        for b, stream in enumerate(streams.tolist()):
            for k, n in np.ndindex(gates, hidden):
                pair = before[stream, :, k, n]
                expected[k, n] += boundary[b, :, n] @ pair
                after = decay[b, :, :, n] @ pair + weighted[:, b, :, k, n].T @ x[:, b]
                tolerance = 1e-11 if dtype == DOUBLE else 2**-8
                torch.testing.assert_close(matrix[stream, :, k, n].double(), after, rtol=tolerance, atol=1e-11)
        torch.testing.assert_close(term, expected, rtol=1e-11, atol=1e-11)
