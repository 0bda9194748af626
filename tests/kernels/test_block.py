"""Scans and the pass of cells with a 2x2 Jacobian per unit against loops, in float64."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels.block import block_backward_scan, block_decay_products, block_sensitivity_pass_

DOUBLE = torch.float64


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
