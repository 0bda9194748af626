"""The Triton scans against the float64 reference: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import CELLS, GATES, REFERENCE, scan

pytest.importorskip("triton", reason="Triton has no build for this machine")

from r2ac.kernels import triton_scan

elstm = REFERENCE.scans("elstm")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RESETS = ("nowhere", "first", "last", "everywhere", "anywhere")
# On either side of the four steps that a loop loads ahead, and of the 32 units of a program.
STEPS, UNITS = st.sampled_from((1, 2, 3, 4, 5, 9)), st.sampled_from((1, 3, 31, 32, 33, 70))
# The interpreter takes milliseconds a step.
examples = hypothesis.settings(max_examples=50 if DEVICE == "cpu" else 200)
# The interpreter computes in NumPy, which remarks on infinities.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning")


@dataclass(frozen=True)
class Rollout:
    """What the kernels read, float32 on the device; the reference gets the same numbers in float64."""

    direct: Tensor
    projection: Tensor
    recurrent_weight: Tensor
    bias: Tensor
    cell: Tensor
    is_first: Tensor

    def forward(self) -> tuple[Tensor, ...]:
        return self.projection, self.recurrent_weight, self.bias, self.cell, self.is_first

    def backward(self, cells: Tensor) -> tuple[Tensor, ...]:
        return self.direct, self.projection, self.recurrent_weight, self.bias, cells, self.cell, self.is_first

    def after(self, step: int) -> Rollout:
        """The same without its first steps, as if it began with zeros there."""
        vectors = self.recurrent_weight, self.bias, torch.zeros_like(self.cell)
        return Rollout(self.direct[step:], self.projection[step:], *vectors, self.is_first[step:])


def rollout(steps: int, batch: int, hidden: int, resets: str = "anywhere", seed: int = 0, scale: float = 1) -> Rollout:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    is_first = torch.rand(steps, batch, generator=generator) < 0.4
    if resets != "anywhere":
        is_first[:] = resets == "everywhere"
    if resets in ("first", "last"):
        is_first[0 if resets == "first" else -1] = True
    gates = GATES, hidden
    projection = scale * normal(steps, batch, *gates)
    values = normal(steps, batch, hidden), projection, normal(*gates), normal(*gates), normal(batch, hidden)
    return Rollout(*values, is_first.to(DEVICE))


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    sizes = draw(STEPS), draw(st.integers(1, 3)), draw(UNITS)
    scale = draw(st.sampled_from((1.0, 1.0, 30.0)))
    drawn = rollout(*sizes, draw(st.sampled_from(RESETS)), draw(st.integers(0, 2**31)), scale)
    if draw(st.booleans()):
        drawn.cell[drawn.is_first[0]] = draw(st.sampled_from((torch.nan, torch.inf, -torch.inf)))
    return drawn


def in_double(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.double().cpu() if tensor.is_floating_point() else tensor.cpu() for tensor in tensors)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Within what float32 allows for, relative to the largest value."""
    assert actual.dtype == torch.float32
    assert actual.shape == expected.shape
    tolerance = 3e-6 * max(1.0, expected.abs().max().item() if expected.numel() else 0)
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=1e-5, atol=tolerance)


@examples
@given(rollouts())
def test_the_cells_are_those_of_the_reference(drawn: Rollout) -> None:
    cells = triton_scan.elstm_forward(*drawn.forward())
    assert_close(cells, elstm.forward(*in_double(drawn.forward())))


@examples
@given(rollouts(), st.booleans())
def test_the_gradients_and_the_jump_are_those_of_the_reference(drawn: Rollout, jump: bool) -> None:
    cells = elstm.forward(*drawn.forward())
    found = triton_scan.elstm_backward(*drawn.backward(cells), jump=jump)
    expected = elstm.reverse(*in_double(drawn.backward(cells)), jump=jump)
    for name, value in found._asdict().items():
        assert_close(value, getattr(expected, name))


def test_the_gradients_are_those_of_autograd() -> None:
    drawn = rollout(6, 2, 35)
    own = tuple(tensor.requires_grad_() for tensor in in_double(drawn.forward()[:4]))
    projection, weight, bias, cell = own
    cells = []
    for p, first in zip(projection, drawn.is_first.cpu(), strict=True):
        previous = (cells[-1] if cells else cell).masked_fill(first.unsqueeze(-1), 0)
        cells.append(CELLS["elstm"].step(p + bias, weight, previous))
    trajectory = torch.stack(cells)
    by_projection, by_weight, by_bias, by_cell = torch.autograd.grad(trajectory, own, drawn.direct.double().cpu())
    computed = triton_scan.elstm_forward(*drawn.forward())
    found = triton_scan.elstm_backward(*drawn.backward(computed), jump=False)
    assert_close(computed, trajectory.detach())
    assert_close(found.by_projection, by_projection)
    assert_close(found.by_vectors, torch.cat((by_weight, by_bias)))
    assert_close(found.boundary, by_cell)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_reset_forgets_what_is_not_finite(value: float) -> None:
    reset = 2
    drawn = rollout(5, 2, 3, "nowhere")
    drawn.is_first[reset] = True
    drawn.cell[:] = value
    cells = triton_scan.elstm_forward(*drawn.forward())
    assert not cells[:reset].isfinite().any()
    expected = in_double(drawn.after(reset).forward())
    assert_close(cells[reset:], elstm.forward(*expected))
    found = triton_scan.elstm_backward(*drawn.backward(cells), jump=True)
    rest = elstm.reverse(*in_double(drawn.after(reset).backward(cells[reset:])), jump=True)
    assert_close(found.by_projection[reset:], rest.by_projection)
    assert_close(found.weighted[reset:], rest.weighted)


def test_a_gradient_that_is_not_finite_stays_in_its_episode() -> None:
    reset = 2
    drawn = rollout(4, 1, 3, "nowhere")
    drawn.is_first[reset] = True
    drawn.direct[reset:] = torch.inf
    cells = triton_scan.elstm_forward(*drawn.forward())
    found = triton_scan.elstm_backward(*drawn.backward(cells), jump=False)
    assert found.by_projection[:reset].isfinite().all()
    assert found.boundary.isfinite().all()


def test_both_gates_are_accurate_from_tiny_to_huge_arguments() -> None:
    """Where there is no cell before, f = 0 leaves z, and z = 1 leaves 1 - f."""
    magnitudes = torch.cat((torch.logspace(-8, 4, 120), torch.linspace(0.5, 0.6, 40), torch.tensor([0.0, 88.8, 1e4])))
    x = torch.cat((magnitudes, -magnitudes)).to(DEVICE)
    projection = torch.stack((torch.full_like(x, -1e4), x, x, torch.full_like(x, 1e4))).view(2, 1, 2, -1)
    nothing, is_first = projection.new_zeros(2, x.numel()), torch.ones(2, 1, dtype=torch.bool, device=DEVICE)
    cells = triton_scan.elstm_forward(projection, nothing, nothing, nothing[:1], is_first)
    candidate, keep = cells[:, 0].double().cpu()
    exact = x.double().cpu()
    torch.testing.assert_close(candidate, exact.tanh(), rtol=1e-6, atol=0)
    torch.testing.assert_close(keep, (-exact).sigmoid(), rtol=0, atol=3e-7)


def test_saturated_gates_give_finite_gradients() -> None:
    drawn = rollout(3, 2, 4, scale=1e4)
    cells = triton_scan.elstm_forward(*drawn.forward())
    found = triton_scan.elstm_backward(*drawn.backward(cells), jump=True)
    assert all(value.isfinite().all() for value in (cells, *found))


def test_a_cell_that_forgets_nothing_keeps_every_bit() -> None:
    drawn = rollout(6, 1, 33, "nowhere")
    drawn.projection[:, :, 0] = 1e4
    cells = triton_scan.elstm_forward(*drawn.forward())
    assert torch.equal(cells, drawn.cell.expand_as(cells))


def test_tensors_may_be_views() -> None:
    drawn = rollout(3, 2, 5)
    cells = triton_scan.elstm_forward(*drawn.forward())
    ones = torch.ones((), device=DEVICE).expand_as(cells)
    strided = tuple(tensor.movedim(0, -1).contiguous().movedim(-1, 0) for tensor in drawn.backward(cells)[1:])
    found = triton_scan.elstm_backward(ones, *strided, jump=True)
    expected = triton_scan.elstm_backward(ones.contiguous(), *drawn.backward(cells)[1:], jump=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(triton_scan.elstm_forward(*(strided[i] for i in (0, 1, 2, 4, 5))), cells)


@examples
@given(STEPS, st.sampled_from(((), (1,), (3,), (2, 17), (2, 2, 9))), st.integers(0, 2**31))
def test_the_generic_scan_is_that_of_the_reference(steps: int, shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    direct, jacobian = torch.randn(2, steps, *shape, generator=generator)
    found = triton_scan.backward_scan(direct.to(DEVICE), jacobian.to(DEVICE))
    # The reference takes what stands behind T as [B, N].
    expected = scan.backward_scan(*(tensor.double().view(steps, 1, -1) for tensor in (direct, jacobian)))
    assert_close(found, expected.view(steps, *shape))
