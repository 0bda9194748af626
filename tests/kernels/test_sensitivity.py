"""Jump, boundary contraction and rollout gradient against explicit recursions, in float64."""

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

from r2ac.kernels import CELLS, Linearisation, Traces, sensitivity
from r2ac.kernels.scan import backward_scan, decay_products, linear_reverse_scan
from r2ac.kernels.sensitivity import boundary_terms, row_stride, sensitivity_pass_, vector_pass_

DOUBLE = torch.float64


@dataclass(frozen=True)
class Rollout:
    """Any trajectory of any element-wise cell: derivatives need not belong together for the jump to be right."""

    linear: Linearisation
    inputs: Tensor
    before: Traces

    def tensors(self) -> tuple[Tensor, ...]:
        return *self.linear, self.inputs, *self.before.tensors()

    def by_vectors(self) -> Tensor:
        return torch.cat((self.linear.by_own, self.linear.by_gates), -2)

    def after(self, start: int = 0, stop: int | None = None, before: Traces | None = None) -> Traces:
        """The sensitivities after the steps from ``start`` to ``stop``: the passes over all streams."""
        after = Traces(*(tensor.clone() for tensor in (before or self.before).tensors()))
        decay, following = decay_products(self.linear.jacobian[start:stop])
        weighted, gained = (following.unsqueeze(-2) * u[start:stop] for u in (self.linear.by_gates, self.by_vectors()))
        streams = torch.arange(len(decay))
        common = streams, torch.zeros_like(streams, dtype=torch.bool), torch.zeros_like(decay), decay
        sensitivity_pass_(after.weight, *common, weighted, self.inputs[start:stop])
        vector_pass_(after.vectors, *common, gained.sum(0))
        return after


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    steps, batch, gates, own, hidden, width = (draw(st.integers(1, most)) for most in (6, 3, 3, 2, 4, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DOUBLE, generator=generator)

    is_first = torch.rand(steps, batch, 1, generator=generator) < draw(st.sampled_from((0.0, 0.3, 1.0)))
    if draw(st.booleans()):
        is_first[draw(st.sampled_from((0, -1)))] = True
    jacobian = normal(steps, batch, hidden).masked_fill(is_first, 0)
    linear = Linearisation(jacobian, normal(steps, batch, gates, hidden), normal(steps, batch, own, hidden))
    before = Traces(normal(batch, gates, hidden, width), normal(batch, own + gates, hidden))
    return Rollout(linear, normal(steps, batch, width), before)


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
        after = rollout.after()
    matrix, vectors = (tensor.numpy().copy() for tensor in rollout.before.tensors())
    (a, u, _), v = (tensor.numpy() for tensor in rollout.linear), rollout.by_vectors().numpy()
    for t, b, n in np.ndindex(*a.shape):
        matrix[b, :, n] = a[t, b, n] * matrix[b, :, n] + u[t, b, :, n, None] * rollout.inputs.numpy()[t, b]
        vectors[b, :, n] = a[t, b, n] * vectors[b, :, n] + v[t, b, :, n]
    close(tuple(after.tensors()), (torch.from_numpy(matrix), torch.from_numpy(vectors)))


@given(rollouts(), st.integers(0, 5))
def test_two_jumps_are_one(rollout: Rollout, cut: int) -> None:
    steps = rollout.inputs.shape[0]
    middle = 1 + cut % steps
    halves = rollout.after(0, middle)
    if middle < steps:
        halves = rollout.after(middle, steps, halves)
    close(tuple(halves.tensors()), tuple(rollout.after().tensors()))


@given(rollouts())
def test_nothing_crosses_an_episodes_start(rollout: Rollout) -> None:
    rollout.linear.jacobian[-1] = 0
    zeros = Traces(*(torch.zeros_like(tensor) for tensor in rollout.before.tensors()))
    for mine, other in zip(rollout.after().tensors(), rollout.after(before=zeros).tensors(), strict=True):
        assert torch.equal(mine, other)


@given(rollouts())
def test_the_boundary_contraction_is_a_sum_over_streams(rollout: Rollout) -> None:
    boundary = rollout.linear.by_own[0, :, 0]
    with unchanged(boundary, *rollout.before.tensors()):
        terms = boundary_terms(boundary, rollout.before)
    for term, before in zip(terms, rollout.before.tensors(), strict=True):
        expected = torch.zeros_like(before[0])
        for b, k, n in np.ndindex(*before.shape[:3]):
            expected[k, n] += boundary[b, n] * before[b, k, n]
        torch.testing.assert_close(term, expected, rtol=1e-12, atol=1e-12)


def test_the_boundary_contraction_of_pairs_is_a_sum_over_streams_and_parts() -> None:
    boundary = torch.randn(3, 2, 4, dtype=DOUBLE)
    before = Traces(torch.randn(3, 2, 5, 4, 6, dtype=DOUBLE), torch.randn(3, 2, 7, 4, dtype=DOUBLE))
    expected = (
        torch.einsum("bin,biknd->knd", boundary, before.weight),
        torch.einsum("bin,biln->ln", boundary, before.vectors),
    )
    close(boundary_terms(boundary, before), expected)


@given(rollouts(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_pass_in_place_is_the_contraction_and_then_the_jump(rollout: Rollout, more: int, chance: Random) -> None:
    """For rows of a larger store in any order; the rows of other streams stay to the bit. What is kept for a stream
    that begins afresh may be anything."""
    batch = rollout.inputs.shape[1]
    order = chance.sample(range(batch + more), batch)
    streams, others = torch.tensor(order), [row for row in range(batch + more) if row not in order]
    fresh = torch.tensor([chance.random() < 0.3 for _ in order])
    kept = Traces(*(torch.randn(batch + more, *t.shape[1:], dtype=DOUBLE) for t in rollout.before.tensors()))
    for tensor, before in zip(kept.tensors(), rollout.before.tensors(), strict=True):
        tensor[streams] = before
        tensor[streams[fresh]] = torch.nan
        before[fresh] = 0
    at_rest = [tensor[others].clone() for tensor in kept.tensors()]
    boundary = rollout.linear.by_own[0, :, 0] + 1
    decay, following = decay_products(rollout.linear.jacobian)
    weighted = rollout.linear.by_gates * following.unsqueeze(-2)
    gained = (rollout.by_vectors() * following.unsqueeze(-2)).sum(0)
    with unchanged(boundary, streams, fresh, decay, weighted, gained, rollout.inputs):
        term = sensitivity_pass_(kept.weight, streams, fresh, boundary, decay, weighted, rollout.inputs)
        of_vectors = vector_pass_(kept.vectors, streams, fresh, boundary, decay, gained)
    close((term, of_vectors), boundary_terms(boundary, rollout.before))
    close(tuple(tensor[streams] for tensor in kept.tensors()), tuple(rollout.after().tensors()))
    for tensor, other in zip(kept.tensors(), at_rest, strict=True):
        assert torch.equal(tensor[others], other)


@given(rollouts())
def test_the_rollouts_gradient_is_a_sum_over_steps_and_streams(rollout: Rollout) -> None:
    """Explicit loops, for any number of gates and own parameters."""
    a, u, own = rollout.linear
    direct, never = rollout.linear.by_own[:, :, 0] + 1, torch.zeros(a.shape[:2], dtype=torch.bool)
    with unchanged(direct, *rollout.tensors()):
        found = linear_reverse_scan(direct, rollout.linear, never, True)
    total, (decay, following) = backward_scan(direct, a), decay_products(a)
    by_vectors, gained = torch.zeros_like(found.by_vectors), torch.zeros_like(found.gained)
    for t, b, n in np.ndindex(*a.shape):
        assert torch.equal(found.by_projection[t, b, :, n], total[t, b, n] * u[t, b, :, n])
        assert torch.equal(found.weighted[t, b, :, n], following[t, b, n] * u[t, b, :, n])
        numbers = torch.cat((own[t, b, :, n], u[t, b, :, n]))
        by_vectors[:, n] += total[t, b, n] * numbers
        gained[b, :, n] += following[t, b, n] * numbers
    close((found.by_vectors, found.gained), (by_vectors, gained))
    close((found.boundary, found.decay), (a[0] * total[0], decay))


def test_zeros_and_bytes() -> None:
    zeros = Traces.zeros(CELLS["elstm"], 3, 5, 7, dtype=DOUBLE)
    assert [tuple(tensor.shape) for tensor in zeros.tensors()] == [(3, 2, 5, 7), (3, 4, 5)]
    assert all(tensor.dtype == DOUBLE and tensor.count_nonzero() == 0 for tensor in zeros.tensors())
    assert zeros.nbytes() == 8 * 3 * 2 * 5 * (7 + 1 + 1)
    pairs = Traces.zeros(CELLS["lru"], 3, 5, 7)
    assert [tuple(tensor.shape) for tensor in pairs.tensors()] == [(3, 2, 2, 5, 7), (3, 2, 5, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_begin_at_multiples_of_8_numbers_on_a_gpu(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """And the bytes between them are counted, also by a machine that only asks; on a CPU there are none."""
    gpu, vectors, cell = torch.device("cuda"), 4 * 2 * 3 * 2 * 5, CELLS["elstm"]
    here = Traces.zeros(cell, 3, 5, 257).stored_as(dtype)
    assert here.weight.is_contiguous()
    assert here.nbytes() == dtype.itemsize * 3 * 2 * 5 * 257 + vectors
    assert here.nbytes(gpu) == dtype.itemsize * 3 * 2 * 5 * 264 + vectors
    monkeypatch.setattr(sensitivity, "row_stride", lambda inputs, _: row_stride(inputs, gpu))
    there = Traces.zeros(cell, 3, 5, 257).stored_as(dtype)
    assert there.weight.shape == here.weight.shape
    assert there.weight.stride() == (2 * 5 * 264, 5 * 264, 264, 1)
    assert there.weight.dtype == dtype
    assert there.nbytes() == here.nbytes(gpu)
