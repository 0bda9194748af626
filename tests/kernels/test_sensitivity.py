"""Jump, boundary contraction and rollout gradient against explicit recursions and autograd, in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import (
    GATES,
    Linearisation,
    Sensitivities,
    boundary_contraction,
    decay_products,
    elstm_linearisation,
    elstm_scan,
    jump,
    rollout_gradient,
    sensitivity,
)
from r2ac.kernels.scan import backward_scan
from r2ac.kernels.sensitivity import row_stride, sensitivity_pass_, vector_pass_

DOUBLE = torch.float64


@dataclass(frozen=True)
class Rollout:
    """Any trajectory of any element-wise cell: derivatives need not belong together for the jump to be right."""

    linear: Linearisation
    inputs: Tensor
    previous: Tensor
    before: Sensitivities

    def tensors(self) -> tuple[Tensor, ...]:
        return self.linear.jacobian, self.linear.immediate, self.inputs, self.previous, *self.before.tensors()

    def part(self, start: int, stop: int, before: Sensitivities) -> Sensitivities:
        """The sensitivities after the steps from ``start`` to ``stop``."""
        linear = Linearisation(self.linear.jacobian[start:stop], self.linear.immediate[start:stop])
        return jump(before, linear, self.inputs[start:stop], self.previous[start:stop])


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    steps, batch, gates, hidden, width = (draw(st.integers(1, most)) for most in (6, 3, 3, 4, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DOUBLE, generator=generator)

    is_first = torch.rand(steps, batch, 1, generator=generator) < draw(st.sampled_from((0.0, 0.3, 1.0)))
    if draw(st.booleans()):
        is_first[draw(st.sampled_from((0, -1)))] = True
    return Rollout(
        Linearisation(normal(steps, batch, hidden).masked_fill(is_first, 0), normal(steps, batch, gates, hidden)),
        normal(steps, batch, width),
        normal(steps, batch, hidden).masked_fill(is_first, 0),
        Sensitivities(normal(batch, gates, hidden, width), normal(batch, gates, hidden), normal(batch, gates, hidden)),
    )


@contextmanager
def unchanged(*tensors: Tensor) -> Iterator[None]:
    before = [tensor.clone() for tensor in tensors]
    yield
    for tensor, kept in zip(tensors, before, strict=True):
        assert torch.equal(tensor, kept)


def close(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@given(rollouts())
def test_the_jump_is_the_recursion_of_every_step(rollout: Rollout) -> None:
    with unchanged(*rollout.tensors()):
        after = jump(rollout.before, rollout.linear, rollout.inputs, rollout.previous)
    matrix, recurrent, bias = (tensor.numpy().copy() for tensor in rollout.before.tensors())
    batch, gates, hidden, _ = matrix.shape
    a, u = rollout.linear.jacobian.numpy(), rollout.linear.immediate.numpy()
    for t in range(a.shape[0]):
        for b, k, n in np.ndindex(batch, gates, hidden):
            matrix[b, k, n] = a[t, b, n] * matrix[b, k, n] + u[t, b, k, n] * rollout.inputs.numpy()[t, b]
            recurrent[b, k, n] = a[t, b, n] * recurrent[b, k, n] + u[t, b, k, n] * rollout.previous.numpy()[t, b, n]
            bias[b, k, n] = a[t, b, n] * bias[b, k, n] + u[t, b, k, n]
    close(after.tensors(), (torch.from_numpy(matrix), torch.from_numpy(recurrent), torch.from_numpy(bias)))


@given(rollouts(), st.integers(0, 5))
def test_two_jumps_are_one(rollout: Rollout, cut: int) -> None:
    steps = rollout.inputs.shape[0]
    middle = 1 + cut % steps
    halves = rollout.part(0, middle, rollout.before)
    if middle < steps:
        halves = rollout.part(middle, steps, halves)
    close(halves.tensors(), rollout.part(0, steps, rollout.before).tensors())


@given(rollouts())
def test_nothing_crosses_an_episodes_start(rollout: Rollout) -> None:
    rollout.linear.jacobian[-1] = 0
    zeros = Sensitivities(*(torch.zeros_like(tensor) for tensor in rollout.before.tensors()))
    with_past = jump(rollout.before, rollout.linear, rollout.inputs, rollout.previous)
    without = jump(zeros, rollout.linear, rollout.inputs, rollout.previous)
    for mine, other in zip(with_past.tensors(), without.tensors(), strict=True):
        assert torch.equal(mine, other)


@given(rollouts())
def test_the_boundary_contraction_is_a_sum_over_streams(rollout: Rollout) -> None:
    boundary = rollout.previous[0]
    with unchanged(boundary, *rollout.before.tensors()):
        terms = boundary_contraction(boundary, rollout.before)
    for term, before in zip(terms, rollout.before.tensors(), strict=True):
        expected = torch.zeros_like(before[0])
        for b, k, n in np.ndindex(*before.shape[:3]):
            expected[k, n] += boundary[b, n] * before[b, k, n]
        torch.testing.assert_close(term, expected, rtol=1e-12, atol=1e-12)


@given(rollouts(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_pass_in_place_is_the_contraction_and_then_the_jump(rollout: Rollout, more: int, chance: Random) -> None:
    """For rows of a larger store in any order; the rows of other streams stay to the bit. What is kept for a stream
    that begins afresh may be anything."""
    batch = rollout.previous.shape[1]
    order = chance.sample(range(batch + more), batch)
    streams, others = torch.tensor(order), [row for row in range(batch + more) if row not in order]
    fresh = torch.tensor([chance.random() < 0.3 for _ in order])
    kept = Sensitivities(*(torch.randn(batch + more, *t.shape[1:], dtype=DOUBLE) for t in rollout.before.tensors()))
    for tensor, before in zip(kept.tensors(), rollout.before.tensors(), strict=True):
        tensor[streams] = before
        tensor[streams[fresh]] = torch.nan
        before[fresh] = 0
    at_rest = [tensor[others].clone() for tensor in kept.tensors()]
    boundary = rollout.previous[0] + 1
    decay, following = decay_products(rollout.linear.jacobian)
    weighted = rollout.linear.immediate * following.unsqueeze(-2)
    gained = torch.stack(((weighted * rollout.previous.unsqueeze(-2)).sum(0), weighted.sum(0)))
    with unchanged(boundary, streams, fresh, decay, weighted, gained, rollout.inputs):
        term = sensitivity_pass_(kept.input_weight, streams, fresh, boundary, decay, weighted, rollout.inputs)
        terms = vector_pass_(kept.recurrent_weight, kept.bias, streams, fresh, boundary, decay, gained)
    close((term, *terms), boundary_contraction(boundary, rollout.before))
    after = jump(rollout.before, rollout.linear, rollout.inputs, rollout.previous)
    close(tuple(tensor[streams] for tensor in kept.tensors()), after.tensors())
    for tensor, other in zip(kept.tensors(), at_rest, strict=True):
        assert torch.equal(tensor[others], other)


@given(rollouts())
def test_the_rollouts_gradient_is_a_sum_over_steps_and_streams(rollout: Rollout) -> None:
    """Explicit loops, for any number of gates."""
    total = rollout.previous + 1
    with unchanged(total, *rollout.tensors()):
        matrix, recurrent, preactivation = rollout_gradient(total, rollout.linear, rollout.inputs, rollout.previous)
    expected_matrix, expected_recurrent = torch.zeros_like(matrix), torch.zeros_like(recurrent)
    for t, b, k, n in np.ndindex(*rollout.linear.immediate.shape):
        by_p = total[t, b, n] * rollout.linear.immediate[t, b, k, n]
        assert preactivation[t, b, k, n] == by_p
        expected_matrix[k, n] += by_p * rollout.inputs[t, b]
        expected_recurrent[k, n] += by_p * rollout.previous[t, b, n]
    close((matrix, recurrent), (expected_matrix, expected_recurrent))


@dataclass
class Chain:
    """An eLSTM by ordinary autograd: parameters, inputs, and a fixed random loss on every cell state."""

    parameters: tuple[Tensor, Tensor, Tensor]
    x: Tensor
    is_first: Tensor
    by_cell: Tensor

    def cells(self, cell: Tensor, start: int, stop: int, parameters: tuple[Tensor, ...] | None = None) -> list[Tensor]:
        (F, Z), (w_f, w_z), (b_f, b_z) = parameters or self.parameters
        cells = []
        for x, first in zip(self.x[start:stop], self.is_first[start:stop], strict=True):
            cell = torch.where(first[:, None], torch.zeros_like(cell), cell)
            f = torch.sigmoid(x @ F.T + w_f * cell + b_f)
            cell = f * cell + (1 - f) * torch.tanh(x @ Z.T + w_z * cell + b_z)
            cells.append(cell)
        return cells


def make_chain(steps: int, batch: int, hidden: int, width: int, seed: int) -> Chain:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DOUBLE, generator=generator)

    parameters = normal(GATES, hidden, width), normal(GATES, hidden), normal(GATES, hidden)
    is_first = torch.rand(steps, batch, generator=generator) < 0.2
    return Chain(parameters, normal(steps, batch, width), is_first, normal(steps, batch, hidden))


@given(
    first=st.integers(1, 4),
    second=st.integers(1, 4),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**31),
)
def test_two_rollouts_have_autograds_gradient_of_the_whole_chain(
    first: int, second: int, sizes: tuple[int, int, int], seed: int
) -> None:
    batch, hidden, width = sizes
    steps = first + second
    chain = make_chain(steps, batch, hidden, width, seed)
    cell = zero = torch.zeros(batch, hidden, dtype=DOUBLE)
    before = Sensitivities.zeros(batch, GATES, hidden, width, dtype=DOUBLE)
    W, w, b = chain.parameters
    gradient = [torch.zeros_like(parameter) for parameter in chain.parameters]
    by_x = []
    for part in (slice(0, first), slice(first, steps)):
        x, is_first = chain.x[part], chain.is_first[part]
        scan = elstm_scan(torch.einsum("tbd,knd->tbkn", x, W) + b, w, cell, is_first)
        linear = elstm_linearisation(scan, w, is_first)
        total = backward_scan(chain.by_cell[part], linear.jacobian)
        by_W, by_w, by_p = rollout_gradient(total, linear, x, scan.previous)
        by_x.append(torch.einsum("tbkn,knd->tbd", by_p, W))
        terms = boundary_contraction(linear.jacobian[0] * total[0], before)
        for kept, inside, term in zip(gradient, (by_W, by_w, by_p.sum((0, 1))), terms, strict=True):
            kept += inside + term
        before = jump(before, linear, x, scan.previous)
        cell = scan.cell[-1]

    for tensor in (*chain.parameters, chain.x):
        tensor.requires_grad_()
    loss = (torch.stack(chain.cells(zero, 0, steps)) * chain.by_cell).sum()
    close(tuple(gradient), torch.autograd.grad(loss, chain.parameters))
    middle = chain.cells(zero, 0, first)[-1].detach()
    last = (torch.stack(chain.cells(middle, first, steps)) * chain.by_cell[first:]).sum()
    close((by_x[1],), (torch.autograd.grad(last, chain.x)[0][first:],))
    jacobian = torch.autograd.functional.jacobian(lambda *p: chain.cells(zero, 0, steps, p)[-1], chain.parameters)
    close(before.tensors(), tuple(_diagonal(part) for part in jacobian))


def _diagonal(jacobian: Tensor) -> Tensor:
    """[B, N, K, N, ...], which is zero for two different units, to [B, K, N, ...]."""
    hidden = jacobian.shape[1]
    off = ~torch.eye(hidden, dtype=torch.bool)
    assert jacobian.transpose(2, 3).movedim((1, 2), (0, 1))[off].count_nonzero() == 0
    return torch.stack([jacobian[:, n, :, n] for n in range(hidden)], dim=2)


def test_zeros_and_bytes() -> None:
    zeros = Sensitivities.zeros(3, 2, 5, 7, dtype=DOUBLE)
    assert [tuple(tensor.shape) for tensor in zeros.tensors()] == [(3, 2, 5, 7), (3, 2, 5), (3, 2, 5)]
    assert all(tensor.dtype == DOUBLE and tensor.count_nonzero() == 0 for tensor in zeros.tensors())
    assert zeros.nbytes() == 8 * 3 * 2 * 5 * (7 + 1 + 1)
    zeros.recurrent_weight.fill_(1)
    assert zeros.bias.count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_begin_at_multiples_of_8_numbers_on_a_gpu(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """And the bytes between them are counted, also by a machine that only asks; on a CPU there are none."""
    gpu, vectors = torch.device("cuda"), 4 * 2 * 3 * 2 * 5
    here = Sensitivities.zeros(3, 2, 5, 257).stored_as(dtype)
    assert here.input_weight.is_contiguous()
    assert here.nbytes() == dtype.itemsize * 3 * 2 * 5 * 257 + vectors
    assert here.nbytes(gpu) == dtype.itemsize * 3 * 2 * 5 * 264 + vectors
    monkeypatch.setattr(sensitivity, "row_stride", lambda inputs, _: row_stride(inputs, gpu))
    there = Sensitivities.zeros(3, 2, 5, 257).stored_as(dtype)
    assert there.input_weight.shape == here.input_weight.shape
    assert there.input_weight.stride() == (2 * 5 * 264, 5 * 264, 264, 1)
    assert there.input_weight.dtype == dtype
    assert there.nbytes() == here.nbytes(gpu)
