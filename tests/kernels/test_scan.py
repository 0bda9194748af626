"""The scans of the eLSTM against plain loops over numbers and complex-step derivatives, in float64."""

import cmath
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import CELLS, GATES, Linearisation
from r2ac.kernels.scan import backward_scan, decay_products, forward_scan, linearise_rollout

ELSTM = CELLS["elstm"]
RESETS = ("nowhere", "first", "last", "everywhere", "anywhere")


@dataclass(frozen=True)
class Rollout:
    preactivation: Tensor
    recurrent_weight: Tensor
    cell: Tensor
    is_first: Tensor

    def scan(self) -> Tensor:
        bias = torch.zeros_like(self.recurrent_weight)
        return forward_scan(ELSTM, self.preactivation, self.recurrent_weight, bias, self.cell, self.is_first)

    def linearisation(self, states: Tensor) -> Linearisation:
        given = self.preactivation, self.recurrent_weight, states, self.cell, self.is_first
        return linearise_rollout(ELSTM, *given)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    steps, batch, hidden = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    where = draw(st.sampled_from(RESETS))
    is_first = torch.rand(steps, batch, generator=generator) < 0.4
    if where != "anywhere":
        is_first[:] = where == "everywhere"
    if where in ("first", "last"):
        is_first[0 if where == "first" else -1] = True
    return Rollout(normal(steps, batch, GATES, hidden), normal(GATES, hidden), normal(batch, hidden), is_first)


@contextmanager
def unchanged(*tensors: Tensor) -> Iterator[None]:
    before = [tensor.clone() for tensor in tensors]
    yield
    for tensor, kept in zip(tensors, before, strict=True):
        assert torch.equal(tensor, kept)


def step_of_numbers(p_f: complex, p_z: complex, w_f: complex, w_z: complex, cell: complex) -> complex:
    """c of one unit of one stream; complex, so that an imaginary step of 1e-30 gives exact derivatives."""
    f = 1 / (1 + cmath.exp(-(p_f + w_f * cell)))
    return f * cell + (1 - f) * cmath.tanh(p_z + w_z * cell)


@given(rollouts())
def test_the_scan_is_the_equations_one_unit_at_a_time(rollout: Rollout) -> None:
    with unchanged(rollout.preactivation, rollout.recurrent_weight, rollout.cell, rollout.is_first):
        scan = rollout.scan()
    steps, batch, _, hidden = rollout.preactivation.shape
    w_f, w_z = rollout.recurrent_weight.tolist()
    for b in range(batch):
        for n in range(hidden):
            cell = rollout.cell[b, n].item()
            for t in range(steps):
                previous = 0.0 if rollout.is_first[t, b] else cell
                p_f, p_z = rollout.preactivation[t, b, :, n].tolist()
                cell = step_of_numbers(p_f, p_z, w_f[n], w_z[n], previous).real
                assert scan[t, b, n].item() == pytest.approx(cell, rel=1e-12, abs=1e-14)


@given(rollouts())
def test_the_cell_before_an_episode_does_not_matter(rollout: Rollout) -> None:
    rollout.is_first[0] = True
    other = Rollout(rollout.preactivation, rollout.recurrent_weight, rollout.cell + 5, rollout.is_first)
    assert torch.equal(rollout.scan(), other.scan())


@given(rollouts())
def test_the_linearisation_is_the_complex_step_derivative(rollout: Rollout) -> None:
    scan = rollout.scan()
    with unchanged(scan, *vars(rollout).values()):
        linear = rollout.linearisation(scan)
    steps, batch, _, hidden = rollout.preactivation.shape
    epsilon = 1e-30
    for t, b, n in np.ndindex(steps, batch, hidden):
        keep = 0.0 if rollout.is_first[t, b] else 1.0
        cell = (rollout.cell if t == 0 else scan[t - 1])[b, n].item()
        p_f, p_z = rollout.preactivation[t, b, :, n].tolist()
        w_f, w_z = rollout.recurrent_weight[:, n].tolist()
        a = step_of_numbers(p_f, p_z, w_f, w_z, keep * complex(cell, epsilon)).imag / epsilon
        u_f = step_of_numbers(complex(p_f, epsilon), p_z, w_f, w_z, keep * cell).imag / epsilon
        u_z = step_of_numbers(p_f, complex(p_z, epsilon), w_f, w_z, keep * cell).imag / epsilon
        of_f = step_of_numbers(p_f, p_z, complex(w_f, epsilon), w_z, keep * cell).imag / epsilon
        of_z = step_of_numbers(p_f, p_z, w_f, complex(w_z, epsilon), keep * cell).imag / epsilon
        assert linear.jacobian[t, b, n].item() == pytest.approx(a, rel=1e-11, abs=1e-13)
        assert linear.by_gates[t, b, :, n].tolist() == pytest.approx([u_f, u_z], rel=1e-11, abs=1e-13)
        assert linear.by_own[t, b, :, n].tolist() == pytest.approx([of_f, of_z], rel=1e-11, abs=1e-13)
    assert linear.jacobian[rollout.is_first].count_nonzero() == 0


@given(rollouts())
def test_the_linearisation_is_autograds_jacobian_of_a_whole_step(rollout: Rollout) -> None:
    """The Jacobian is taken in full: nothing lies off the diagonals of streams and units."""
    linear = rollout.linearisation(rollout.scan())

    def step(preactivation: Tensor, cell: Tensor) -> Tensor:
        previous = torch.where(rollout.is_first[0][:, None], torch.zeros_like(cell), cell)
        f, z = (preactivation + rollout.recurrent_weight * previous[:, None]).unbind(1)
        return torch.sigmoid(f) * previous + (1 - torch.sigmoid(f)) * torch.tanh(z)

    by_preactivation, by_cell = torch.autograd.functional.jacobian(step, (rollout.preactivation[0], rollout.cell))
    batch, hidden = rollout.cell.shape
    size = batch * hidden
    torch.testing.assert_close(by_cell.reshape(size, size), torch.diag(linear.jacobian[0].flatten()))
    for k in range(GATES):
        gate = by_preactivation[..., k, :].reshape(size, size)
        torch.testing.assert_close(gate, torch.diag(linear.by_gates[0, :, k].flatten()))


@st.composite
def jacobians(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """e_t and a_t [T, B, N]; some a_t are exactly zero."""
    shape = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    direct, jacobian = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    zeros = torch.rand(shape, generator=generator) < draw(st.sampled_from((0.0, 0.3, 1.0)))
    return direct, jacobian.masked_fill(zeros, 0)


@given(jacobians())
def test_the_backward_scan_is_the_sum_over_all_later_steps(case: tuple[Tensor, Tensor]) -> None:
    direct, jacobian = case
    with unchanged(direct, jacobian):
        total = backward_scan(direct, jacobian)
    steps, batch, hidden = direct.shape
    for t, b, n in np.ndindex(steps, batch, hidden):
        expected = sum(
            direct[s, b, n].item() * math.prod(jacobian[t + 1 : s + 1, b, n].tolist()) for s in range(t, steps)
        )
        assert total[t, b, n].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_backward_scan_takes_an_expanded_gradient() -> None:
    jacobian = torch.full((3, 2, 4), 0.5, dtype=torch.float64)
    total = backward_scan(torch.ones((), dtype=torch.float64).expand(3, 2, 4), jacobian)
    assert total[:, 0, 0].tolist() == [1.75, 1.5, 1.0]


@given(jacobians())
def test_decay_products_are_products(case: tuple[Tensor, Tensor]) -> None:
    _, jacobian = case
    with unchanged(jacobian):
        whole, after = decay_products(jacobian)
    assert whole.shape == jacobian.shape[1:]
    for b, n in np.ndindex(*whole.shape):
        factors = jacobian[:, b, n].tolist()
        assert whole[b, n].item() == pytest.approx(math.prod(factors), rel=1e-12)
        for t in range(len(factors)):
            assert after[t, b, n].item() == pytest.approx(math.prod(factors[t + 1 :]), rel=1e-12)
    assert whole[(jacobian == 0).any(0)].count_nonzero() == 0
    assert torch.equal(after[-1], torch.ones_like(whole))


def test_decay_products_of_one_step() -> None:
    jacobian = torch.tensor([[[0.5, 0.0]]], dtype=torch.float64)
    whole, after = decay_products(jacobian)
    assert whole.tolist() == [[0.5, 0.0]]
    assert after.tolist() == [[[1.0, 1.0]]]


def test_a_zero_hides_what_came_before_it_and_nothing_after() -> None:
    jacobian = torch.tensor([1e300, 0.0, 2.0, 3.0], dtype=torch.float64).view(4, 1, 1)
    whole, after = decay_products(jacobian)
    assert whole.item() == 0.0
    assert after.flatten().tolist() == [0.0, 6.0, 3.0, 1.0]
