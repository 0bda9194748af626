"""RTRL a rollout at a time is exact: against full BPTT, step-by-step RTRL and finite differences, in float64."""

import random
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.agents import ELSTM, Carry
from r2ac.kernels import CELLS, GATES, StepByStepRTRL, Traces

RELATIVE = 1e-10


@dataclass
class Stream:
    """A stream of inputs, and a fixed random loss on every h, so that dL/dh_t is known."""

    x: Tensor
    is_first: Tensor
    by_h: Tensor
    rollouts: tuple[int, ...]


@st.composite
def streams(draw: st.DrawFn) -> tuple[ELSTM, Stream]:
    batch, width, hidden = (draw(st.integers(1, 4)) for _ in range(3))
    rollouts = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=6)))
    resets = draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    return make_core(width, hidden), make_stream(batch, width, hidden, rollouts, resets, draw(st.integers(0, 2**31)))


def make_core(width: int, hidden: int) -> ELSTM:
    core = ELSTM(width, hidden, gradient="rtrl").double()
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return core


def make_stream(batch: int, width: int, hidden: int, rollouts: tuple[int, ...], resets: float, seed: int = 0) -> Stream:
    generator = torch.Generator().manual_seed(seed)
    steps = sum(rollouts)
    x = torch.randn(steps, batch, width, dtype=torch.float64, generator=generator)
    by_h = torch.randn(steps, batch, hidden, dtype=torch.float64, generator=generator)
    is_first = torch.rand(steps, batch, generator=generator) < resets
    return Stream(x, is_first, by_h, rollouts)


def plain_elstm(core: ELSTM, x: Tensor, cell: Tensor, is_first: Tensor) -> Tensor:
    """h of every step by ordinary autograd through the equations, nothing shared with the code under test."""
    (F, Z), (w_f, w_z), (b_f, b_z) = core.input_weight, core.recurrent_weight, core.bias
    outputs = []
    for x_t, first in zip(x, is_first, strict=True):
        cell = torch.where(first[:, None], torch.zeros_like(cell), cell)
        f = torch.sigmoid(x_t @ F.T + w_f * cell + b_f)
        z = torch.tanh(x_t @ Z.T + w_z * cell + b_z)
        cell = f * cell + (1 - f) * z
        o = torch.sigmoid(torch.cat((x_t, cell), -1) @ core.output_gate.weight.T + core.output_gate.bias)
        outputs.append(o * cell)
    return torch.stack(outputs)


def rtrl_gradients(core: ELSTM, stream: Stream) -> tuple[dict[str, Tensor], Traces]:
    """Gradients accumulated rollout by rollout, and the sensitivities at the end."""
    core.zero_grad()
    carry = core.initial_carry(stream.x.shape[1])
    start = 0
    for length in stream.rollouts:
        part = slice(start, start + length)
        h, carry = core(stream.x[part], carry, stream.is_first[part])
        (h * stream.by_h[part]).sum().backward()
        start += length
    return {name: parameter.grad.clone() for name, parameter in core.named_parameters()}, carry.traces[0]


def close(actual: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp_min(1e-6)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=RELATIVE)


@given(streams())
def test_gradients_equal_full_bptt_through_the_whole_stream(case: tuple[ELSTM, Stream]) -> None:
    core, stream = case
    actual, _ = rtrl_gradients(core, stream)
    cell = torch.zeros(stream.x.shape[1], core.hidden_size, dtype=torch.float64)
    loss = (plain_elstm(core, stream.x, cell, stream.is_first) * stream.by_h).sum()
    expected = torch.autograd.grad(loss, list(core.parameters()))
    for name, gradient in zip(actual, expected, strict=True):
        close(actual[name], gradient)


@given(streams())
def test_gradients_and_sensitivities_equal_step_by_step_rtrl(case: tuple[ELSTM, Stream]) -> None:
    core, stream = case
    actual, sensitivities = rtrl_gradients(core, stream)
    batch, width = stream.x.shape[1:]
    oracle = StepByStepRTRL(
        CELLS["elstm"],
        core.input_weight.detach(),
        core.recurrent_weight.detach(),
        core.bias.detach(),
        torch.zeros(batch, core.hidden_size, dtype=torch.float64),
        Traces.zeros(CELLS["elstm"], batch, core.hidden_size, width, dtype=torch.float64),
    )
    for x, first, by_h in zip(stream.x, stream.is_first, stream.by_h, strict=True):
        cell = oracle.step(x, first).requires_grad_()
        h = torch.sigmoid(core.output_gate(torch.cat((x, cell), -1))) * cell
        oracle.accumulate(torch.autograd.grad(h, cell, by_h)[0])
        oracle.state = cell.detach()
    exact = oracle.gradient[0], *oracle.gradient[1].split(GATES)
    for name, gradient in zip(("input_weight", "recurrent_weight", "bias"), exact, strict=True):
        close(actual[name], gradient)
    for mine, other in zip(sensitivities.tensors(), oracle.traces.tensors(), strict=True):
        close(mine, other)


@pytest.mark.parametrize("rollouts", [(1,) * 12, (4, 4, 4), (12,)])
def test_gradients_equal_finite_differences(rollouts: tuple[int, ...]) -> None:
    core, stream = make_core(3, 4), make_stream(2, 3, 4, rollouts, resets=0.15)
    actual, _ = rtrl_gradients(core, stream)
    epsilon = 1e-6

    def loss() -> float:
        with torch.no_grad():
            carry, total, start = core.initial_carry(2), 0.0, 0
            for length in rollouts:
                part = slice(start, start + length)
                h, carry = core(stream.x[part], carry, stream.is_first[part])
                total += float((h * stream.by_h[part]).sum())
                start += length
            return total

    for name, parameter in core.named_parameters():
        numerical = torch.zeros_like(parameter)
        for index in range(parameter.numel()):
            flat = parameter.data.view(-1)
            kept = flat[index].item()
            flat[index] = kept + epsilon
            above = loss()
            flat[index] = kept - epsilon
            numerical.view(-1)[index] = (above - loss()) / (2 * epsilon)
            flat[index] = kept
        torch.testing.assert_close(actual[name], numerical, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("where", ["nowhere", "first step", "last step", "everywhere"])
@pytest.mark.parametrize("rollouts", [(1, 1, 1, 1), (3, 3)])
def test_resets_at_every_place(where: str, rollouts: tuple[int, ...]) -> None:
    core, stream = make_core(3, 5), make_stream(2, 3, 5, rollouts, resets=0.0)
    ends = torch.tensor(rollouts).cumsum(0)
    places = {"nowhere": [], "first step": (ends - ends[0]).tolist(), "last step": (ends - 1).tolist()}
    stream.is_first[places.get(where, list(range(int(ends[-1]))))] = True
    actual, _ = rtrl_gradients(core, stream)
    cell = torch.zeros(2, 5, dtype=torch.float64)
    loss = (plain_elstm(core, stream.x, cell, stream.is_first) * stream.by_h).sum()
    for name, gradient in zip(actual, torch.autograd.grad(loss, list(core.parameters())), strict=True):
        close(actual[name], gradient)


def test_tbptt_stops_at_the_rollouts_start_and_rtrl_does_not() -> None:
    core, stream = make_core(3, 4), make_stream(2, 3, 4, (5, 5), resets=0.0)
    exact, _ = rtrl_gradients(core, stream)
    core.gradient = "tbptt"
    core.zero_grad()
    carry = core.initial_carry(2)
    assert carry.traces == ()
    truncated: dict[str, Tensor] = {}
    cell = carry.state
    for part in (slice(0, 5), slice(5, 10)):
        h, carry = core(stream.x[part], carry, stream.is_first[part])
        (h * stream.by_h[part]).sum().backward()
        loss = (plain_elstm(core, stream.x[part], cell, stream.is_first[part]) * stream.by_h[part]).sum()
        for name, gradient in zip(
            dict(core.named_parameters()), torch.autograd.grad(loss, list(core.parameters())), strict=True
        ):
            truncated[name] = truncated.get(name, torch.zeros_like(gradient)) + gradient
        cell = carry.state
    for name, parameter in core.named_parameters():
        close(parameter.grad, truncated[name])
    assert not torch.allclose(exact["input_weight"], truncated["input_weight"], rtol=1e-2)


@given(streams())
def test_input_gradients_are_those_inside_the_rollout(case: tuple[ELSTM, Stream]) -> None:
    core, stream = case
    length = stream.rollouts[0]
    x = stream.x[:length].requires_grad_()
    carry = core.initial_carry(x.shape[1])
    h, _ = core(x, carry, stream.is_first[:length])
    (actual,) = torch.autograd.grad(h, x, stream.by_h[:length])
    expected_h = plain_elstm(core, x, carry.state, stream.is_first[:length])
    torch.testing.assert_close(h, expected_h)
    (expected,) = torch.autograd.grad(expected_h, x, stream.by_h[:length])
    close(actual, expected)


def test_float32_stays_near_float64() -> None:
    core, stream = make_core(9, 16), make_stream(4, 9, 16, (7, 7, 7), resets=0.05)
    exact, exact_s = rtrl_gradients(core, stream)
    stream.x, stream.by_h = stream.x.float(), stream.by_h.float()
    rounded, rounded_s = rtrl_gradients(core.float(), stream)
    for name, gradient in exact.items():
        assert rounded[name].dtype == torch.float32
        assert (rounded[name] - gradient).norm() <= 1e-5 * gradient.norm()
    assert (rounded_s.weight - exact_s.weight).norm() <= 1e-5 * exact_s.weight.norm()


@given(streams(), st.randoms(use_true_random=False))
def test_sensitivities_kept_by_stream_advance_in_place_to_the_same(
    case: tuple[ELSTM, Stream], random: random.Random
) -> None:
    core, stream = case
    batch = stream.x.shape[1]
    expected, expected_s = rtrl_gradients(core, stream)
    rows = torch.tensor(random.sample(range(batch + 2), batch))
    (kept,) = core.initial_carry(batch + 2).traces
    untouched = [row for row in range(batch + 2) if row not in rows.tolist()]
    for tensor in kept.tensors():
        tensor[untouched] = 7
    core.zero_grad()
    start_state = torch.zeros(batch, core.hidden_size, dtype=torch.float64)
    carry, start = Carry(start_state, (kept,)).of_streams(rows), 0
    for length in stream.rollouts:
        part = slice(start, start + length)
        h, carry = core(stream.x[part], carry, stream.is_first[part])
        (h * stream.by_h[part]).sum().backward()
        start += length
    for name, parameter in core.named_parameters():
        close(parameter.grad, expected[name])
    for mine, other in zip(kept.tensors(), expected_s.tensors(), strict=True):
        close(mine[rows], other)
        assert bool((mine[untouched] == 7).all())


def test_sensitivities_kept_by_stream_refuse_two_rollouts_before_a_backward_and_none_at_all() -> None:
    core = make_core(3, 4)
    x, is_first = torch.randn(2, 2, 3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.bool)
    start = core.initial_carry(2)
    first, carry = core(x, start.of_streams(torch.arange(2)), is_first)
    second, _ = core(x, carry, is_first)
    first.sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second.sum().backward()
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are disabled"):
        core(x, carry, is_first)
