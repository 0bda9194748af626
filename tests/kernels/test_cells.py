"""Every cell of the table gets exact RTRL: against autograd through the whole history, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.agents import CORES, AgentConfig, Recurrent
from r2ac.kernels import CELLS, Cell, Traces, magnitude, recurrence
from r2ac.kernels.scan import forward_scan

DOUBLE = torch.float64
every_cell = pytest.mark.parametrize("name", CELLS)
cuts = given(
    lengths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    chance=st.randoms(use_true_random=False),
)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


def history(cell: Cell, x: Tensor, is_first: Tensor, weight: Tensor, own: Tensor, bias: Tensor) -> Tensor:
    """The states by `step` alone, which autograd goes through."""
    state, states = x.new_zeros(x.shape[1], *cell.pair, bias.shape[-1]), []
    for inputs, first in zip(x, is_first, strict=True):
        gates = torch.einsum("bd,knd->bkn", inputs, weight) + bias
        state = cell.step(gates, own, state.masked_fill(first.view(-1, *(1,) * (state.dim() - 1)), 0))
        states.append(state)
    return torch.stack(states)


def check_rollouts(name: str, lengths: list[int], sizes: tuple[int, int, int], chance: Random) -> None:
    """Each rollout's gradient is that of the whole history, whatever cuts it and whatever a store of streams held."""
    cell, (batch, hidden, width) = CELLS[name], sizes
    torch.manual_seed(chance.randrange(2**31))
    x, direct = normal(sum(lengths), batch, width), normal(sum(lengths), batch, *cell.pair, hidden)
    is_first = torch.rand(sum(lengths), batch) < 0.2
    shapes = (cell.gates, hidden, width), (cell.numbers, hidden), (cell.gates, hidden)
    parameters = [normal(*shape).requires_grad_() for shape in shapes]
    weight, own, bias = parameters
    expected_states = history(cell, x, is_first, *parameters)

    traces = Traces.zeros(cell, batch + 1, hidden, width, dtype=DOUBLE)
    for kept in (traces.weight, traces.vectors):
        kept.fill_(torch.nan)
    streams = torch.tensor(chance.sample(range(batch + 1), batch))
    fresh, state, start = torch.ones(batch, dtype=torch.bool), direct.new_zeros(direct.shape[1:]), 0
    for length in lengths:
        part = slice(start, start + length)
        projection = torch.einsum("tbd,knd->tbkn", x[part], weight)
        rtrl = weight, x[part], Traces(traces.weight, traces.vectors, streams, fresh)
        states = recurrence(name, projection, own, bias, state, is_first[part], *rtrl)
        torch.testing.assert_close(states, expected_states[part], rtol=1e-12, atol=1e-12)
        loss = (expected_states[part] * direct[part]).sum()
        options = {"allow_unused": True, "materialize_grads": True}
        whole = torch.autograd.grad(loss, parameters, retain_graph=True, **options)
        found = torch.autograd.grad(states, parameters, direct[part], **options)
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
        state, fresh, start = states[-1].detach(), torch.zeros_like(fresh), start + length
    at_rest = (set(range(batch + 1)) - set(streams.tolist())).pop()
    assert all(kept[at_rest].isnan().all() for kept in (traces.weight, traces.vectors))


@every_cell
@cuts
def test_every_rollout_has_the_gradient_of_the_whole_history(
    name: str, lengths: list[int], sizes: tuple[int, int, int], chance: Random
) -> None:
    check_rollouts(name, lengths, sizes, chance)


@every_cell
def test_derivatives_are_those_of_the_step_in_full(name: str) -> None:
    """The Jacobian of a step over streams and units is zero but where both are the same."""
    cell, batch, hidden = CELLS[name], 2, 3
    gates, own = normal(batch, cell.gates, hidden), normal(cell.numbers, hidden)
    previous = normal(batch, *cell.pair, hidden)
    found = cell.linearise(gates, own, previous)
    by_gates, by_previous = torch.autograd.functional.jacobian(lambda p, c: cell.step(p, own, c), (gates, previous))
    by_own = torch.autograd.functional.jacobian(
        lambda o: cell.step(gates, o, previous), own.expand(batch, -1, -1).contiguous()
    )
    for full, mine in zip((by_previous, by_gates, by_own), found, strict=True):
        # [B, (2,) N, B, ..., N], of which the derivatives lie where both B and both N are the same.
        for b, n in np.ndindex(batch, hidden):
            same = full[b][..., n].select(cell.parts - 1, n).select(cell.parts - 1, b)
            torch.testing.assert_close(same, mine[b][..., n])
        assert full.abs().sum().item() == pytest.approx(mine.abs().sum().item())


@every_cell
def test_derivatives_are_those_of_central_differences(name: str) -> None:
    """Each number of an argument is moved in all streams and units at once: they do not meet."""
    cell, batch, hidden, epsilon = CELLS[name], 4, 3, 1e-6
    torch.manual_seed(1)
    gates, own = normal(batch, cell.gates, hidden), normal(batch, cell.numbers, hidden)
    arguments = gates, own, normal(batch, cell.parts, hidden)

    def moved(argument: int, number: int, by: float) -> Tensor:
        changed = [each.clone() for each in arguments]
        changed[argument][:, number] += by
        gates, own, previous = changed
        return cell.step(gates, own, previous.view(batch, *cell.pair, hidden))

    def differences(argument: int) -> Tensor:
        """[B, (2,) numbers, N]."""
        of_each = [
            (moved(argument, number, epsilon) - moved(argument, number, -epsilon)) / (2 * epsilon)
            for number in range(arguments[argument].shape[1])
        ]
        return torch.stack(of_each, -2) if of_each else gates.new_zeros(batch, *cell.pair, 0, hidden)

    found = cell.linearise(gates, own, arguments[2].view(batch, *cell.pair, hidden))
    for argument, mine in enumerate((found.by_gates, found.by_own, found.jacobian)):
        torch.testing.assert_close(differences(argument).view_as(mine), mine, rtol=1e-6, atol=1e-7)


@every_cell
def test_the_scan_is_the_step_again_and_again_and_a_reset_forgets_what_is_not_finite(name: str) -> None:
    cell = CELLS[name]
    x, is_first = normal(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
    is_first[0] = is_first[3, 1] = True
    parameters = normal(cell.gates, 4, 3), normal(cell.numbers, 4), normal(cell.gates, 4)
    projection = torch.einsum("tbd,knd->tbkn", x, parameters[0])
    before = torch.full((2, *cell.pair, 4), torch.nan, dtype=DOUBLE)
    found = forward_scan(cell, projection, *parameters[1:], before, is_first)
    torch.testing.assert_close(found, history(cell, x, is_first, *parameters))


@every_cell
@pytest.mark.parametrize("steps", [2.0, 10.0, 100.0])
def test_time_scales_are_those_of_units_that_see_nothing(name: str, steps: float) -> None:
    """exp(-1 / steps) up to the order of 1 / steps^2: some cells have steps / (steps + 1)."""
    cell, hidden = CELLS[name], 4
    own = {own: torch.zeros(numbers, hidden, dtype=DOUBLE) for own, numbers in cell.own.items()}
    bias = torch.zeros(cell.gates, hidden, dtype=DOUBLE)
    cell.set_time_scales(own, bias, torch.full((hidden,), steps, dtype=DOUBLE))
    numbers = torch.cat((*own.values(), bias[:0]))
    decay = magnitude(cell.linearise(bias.unsqueeze(0), numbers, bias.new_zeros(1, *cell.pair, hidden)).jacobian)
    torch.testing.assert_close(decay, torch.full_like(decay, math.exp(-1 / steps)), rtol=0, atol=0.5 / steps**2)


class Toy(Cell):
    """c = sin(w c' + p): by the protocol alone, as a file of its own would have it."""

    gates = 1
    own: Mapping[str, int] = {"weight": 1}

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        return torch.sin(own[..., 0, :] * previous + gates[..., 0, :])


def test_a_cell_is_a_step_and_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, a core, and actors' steps: nothing else knows the cell."""
    monkeypatch.setitem(CELLS, "toy", Toy())
    for seed in range(5):
        check_rollouts("toy", [3, 1, 2], (2, 3, 2), Random(seed))
    core = Recurrent("toy", 3, 4)
    h, after = core(torch.randn(5, 2, 3), core.initial_carry(2), torch.zeros(5, 2, dtype=torch.bool))
    h.sum().backward()
    assert {name for name, _ in core.named_parameters()} == {"input_weight", "weight", "bias"}
    assert all(parameter.grad is not None for parameter in core.parameters())
    assert core.step(torch.randn(2, 3), after.state, torch.zeros(2, dtype=torch.bool))[0].shape == (2, 4)


@every_cell
def test_every_cell_is_a_core_of_its_name(name: str) -> None:
    core = CORES[name](3, AgentConfig(hidden_size=4, chrono_steps=10))
    assert isinstance(core, Recurrent)
    assert core.cell is CELLS[name]
    assert core.state_size == core.output_size == 4 * core.cell.parts
