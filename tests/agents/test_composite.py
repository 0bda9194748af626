"""Cores made of several: their gradients against autograd through whole histories, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.agents import AgentConfig, Carry, Core
from r2ac.agents.composite import Stack
from r2ac.agents.cores import make_core

DOUBLE, WIDTH, STREAMS = torch.float64, 3, 2
FULL: dict[str, object] = {"layers": 2, "layer_gradient": "full"}
cuts = given(lengths=st.lists(st.integers(1, 4), min_size=2, max_size=4), chance=st.randoms(use_true_random=False))


def composite(core: str = "elstm", **settings: object) -> Core:
    return make_core(WIDTH, AgentConfig(core=core, **{"hidden_size": 5, "input_scale": 1.0, **settings})).double()  # type: ignore[arg-type]


def store_of(core: Core) -> Carry:
    """The carry of one stream more than a batch has, whose traces are not finite where nothing may read them."""
    carry = core.initial_carry(STREAMS + 1)
    for traces in carry.traces:
        for tensor in traces.tensors():
            tensor.fill_(torch.nan)
    return carry


def draw(core: Core, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, is_first, and the gradient that comes to h."""
    x, by_h = (
        torch.randn(steps, STREAMS, WIDTH, dtype=DOUBLE),
        torch.randn(steps, STREAMS, core.output_size, dtype=DOUBLE),
    )
    return x, torch.rand(steps, STREAMS) < 0.2, by_h


def through_all(core: Core, x: Tensor, is_first: Tensor, cut_below: bool = False, cut_before: bool = False) -> Tensor:
    """h by steps alone, from a state of zeros; of a stack, where asked, an upper layer reads its input, or its
    state before each step, as constants."""
    state, outputs = torch.zeros(STREAMS, core.state_size, dtype=DOUBLE), []
    layers = list(core.parts) if isinstance(core, Stack) else [core]
    for x_t, first in zip(x, is_first, strict=True):
        states = []
        for number, (layer, own) in enumerate(
            zip(layers, state.split([layer.state_size for layer in layers], 1), strict=True)
        ):
            cut = number > 0
            x_t, after = layer.transition(
                x_t.detach() if cut and cut_below else x_t, own.detach() if cut and cut_before else own, first
            )
            states.append(after)
        state = torch.cat(states, 1)
        outputs.append(x_t)
    return torch.stack(outputs)


def rollouts_of(
    core: Core, x: Tensor, is_first: Tensor, by_h: Tensor, lengths: list[int], chance: Random
) -> Iterator[tuple[slice, Tensor, list[Tensor]]]:
    """Of consecutive rollouts the steps, h, and the gradients by all parameters; the traces are those of a store."""
    kept, start = store_of(core), 0
    streams = torch.tensor(chance.sample(range(STREAMS + 1), STREAMS))
    fresh, state = torch.ones(STREAMS, dtype=torch.bool), torch.zeros(STREAMS, core.state_size, dtype=DOUBLE)
    for length in lengths:
        part = slice(start, start + length)
        core.zero_grad()
        h, carry = core(x[part], replace(kept, state=state).of_streams(streams, fresh), is_first[part])
        (h * by_h[part]).sum().backward()
        yield part, h.detach(), [weight.grad for weight in core.parameters() if weight.grad is not None]
        state, fresh, start = carry.state, torch.zeros_like(fresh), start + length
    at_rest = (set(range(STREAMS + 1)) - set(streams.tolist())).pop()
    assert all(tensor[at_rest].isnan().all() for traces in kept.traces for tensor in traces.tensors())


@cuts
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixed:elstm+lru", {}),
        ("mixed:mingru+rtu+indrnn", {}),
        ("elstm", FULL),
        ("mixed:qrnn+lru", FULL | {"hidden_size": 2}),
    ],
)
def test_gradients_are_those_of_the_whole_history(
    name: str, settings: dict[str, object], lengths: list[int], chance: Random
) -> None:
    torch.manual_seed(chance.randrange(2**31))
    core = composite(name, **settings)
    x, is_first, by_h = draw(core, sum(lengths))
    expected_h = through_all(core, x, is_first)
    for part, found_h, gradients in rollouts_of(core, x, is_first, by_h, lengths, chance):
        torch.testing.assert_close(found_h, expected_h[part], rtol=1e-12, atol=1e-12)
        loss = (expected_h[part] * by_h[part]).sum()
        whole = torch.autograd.grad(loss, list(core.parameters()), retain_graph=True)
        torch.testing.assert_close(gradients, list(whole), rtol=1e-10, atol=1e-10)


def test_units_of_a_mixed_core_are_dealt_out_evenly() -> None:
    core = composite("mixed:elstm+lru", hidden_size=7)
    assert core.hidden_size == 7
    # Four numbers, and three pairs.
    assert core.state_size == core.output_size == 4 + 6
    assert [traces.weight.shape for traces in core.initial_carry(2).traces] == [(2, 2, 4, WIDTH), (2, 2, 2, 3, WIDTH)]


@cuts
@pytest.mark.parametrize("name", ["elstm", "mixed:qrnn+lru"])
def test_layers_have_exact_gradients_each_and_the_lower_one_that_of_its_rule(
    name: str, lengths: list[int], chance: Random
) -> None:
    """local: of the whole history in which the upper layer's states before each step, and for its own parameters the
    lower one's outputs, are constants."""
    torch.manual_seed(chance.randrange(2**31))
    core = composite(name, layers=2, layer_gradient="local")
    x, is_first, by_h = draw(core, sum(lengths))
    lower, upper = (list(layer.parameters()) for layer in core.parts)
    for_upper = through_all(core, x, is_first, cut_below=True)
    for_lower = through_all(core, x, is_first, cut_before=True)
    for part, _, gradients in rollouts_of(core, x, is_first, by_h, lengths, chance):
        whole = [
            *torch.autograd.grad((for_lower[part] * by_h[part]).sum(), lower, retain_graph=True),
            *torch.autograd.grad((for_upper[part] * by_h[part]).sum(), upper, retain_graph=True),
        ]
        torch.testing.assert_close(gradients, whole, rtol=1e-10, atol=1e-10)


def test_one_rollout_of_a_stack_has_the_gradient_of_bptt() -> None:
    core = composite(layers=3)
    x, is_first, by_h = draw(core, 7)
    ((_, _, gradients),) = rollouts_of(core, x, is_first, by_h, [7], Random(0))
    whole = torch.autograd.grad((through_all(core, x, is_first) * by_h).sum(), list(core.parameters()))
    torch.testing.assert_close(gradients, list(whole), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "settings", [{"core": "mixed:elstm+lru"}, {"layers": 2}, {"core": "feedforward", "layers": 2}, FULL]
)
def test_a_rollout_from_which_nothing_is_learned_leaves_the_same_carry(settings: dict[str, object]) -> None:
    core = composite(**settings)  # type: ignore[arg-type]
    x, is_first, by_h = draw(core, 4)
    streams, fresh = torch.tensor([2, 0]), torch.tensor([True, False])
    learned, passed = (core.initial_carry(STREAMS + 1) for _ in range(2))
    for _ in range(2):
        state = torch.randn(STREAMS, core.state_size, dtype=DOUBLE)
        h, after = core(x, replace(learned, state=state).of_streams(streams, fresh), is_first)
        (h * by_h).sum().backward()
        advanced = core.advance(x, replace(passed, state=state).of_streams(streams, fresh), is_first)
        torch.testing.assert_close(advanced.state, after.state)
        for mine, other in zip(passed.traces, learned.traces, strict=True):
            torch.testing.assert_close(mine.tensors(), other.tensors())
        _, states, _ = core.unroll(x, replace(learned, state=state).of_streams(streams, fresh), is_first)
        torch.testing.assert_close(core.truncated_states(x, state, is_first), states)


@pytest.mark.parametrize("settings", [{"core": "mixed:elstm+lru", "layers": 2}, FULL])
def test_the_terms_of_the_streams_add_up_to_the_boundary_term(settings: dict[str, object]) -> None:
    core = composite(**settings)  # type: ignore[arg-type]
    x, is_first, by_h = draw(core, 4)
    kept, streams = core.initial_carry(STREAMS), torch.arange(STREAMS)
    for tensor in (tensor for traces in kept.traces for tensor in traces.tensors()):
        tensor.normal_()
    carry = kept.of_streams(streams, torch.tensor([False, True]))
    state = carry.state.requires_grad_()
    h, _ = core.transition(x[0], state, is_first[0])
    by_state = torch.autograd.grad((h * by_h[0]).sum(), state)[0]
    terms = core.boundary_by_stream(by_state, carry)
    assert [term.shape for term in terms] == [(STREAMS, *weight.shape) for weight in core.recurrent_parameters]
    found = []
    for fresh in (carry.traces[0].fresh, torch.tensor([True, True])):
        core.zero_grad()
        h, _ = core(x[:1], copy.deepcopy(kept).of_streams(streams, fresh), is_first[:1])
        (h * by_h[:1]).sum().backward()
        found.append([weight.grad for weight in core.recurrent_parameters if weight.grad is not None])
    boundary = [whole - inside for whole, inside in zip(*found, strict=True)]
    torch.testing.assert_close([term.sum(0) for term in terms], boundary)


def test_sensitivities_of_exact_layers_are_read_by_each_pass_over_a_rollout_and_advanced_by_the_last() -> None:
    core = composite(**FULL)
    x, is_first, by_h = draw(core, 3)
    kept = core.initial_carry(STREAMS)
    kept.traces[0].weight.normal_()
    carry = kept.of_streams(torch.arange(STREAMS), torch.tensor([False, True]))
    at_first, advanced = copy.deepcopy(kept.traces[0].weight), copy.deepcopy(carry)
    core.advance(x, advanced, is_first)

    def gradients(start: Carry, columns: list[int]) -> list[Tensor]:
        core.zero_grad()
        h, _ = core(x[:, columns], start, is_first[:, columns])
        (h * by_h[:, columns]).sum().backward()
        return [weight.grad.clone() for weight in core.recurrent_parameters if weight.grad is not None]

    of_all = gradients(Carry(carry.state, (replace(carry.traces[0], advance=False),)), [0, 1])
    torch.testing.assert_close(kept.traces[0].weight, at_first)
    by_column = [gradients(carry.select(torch.tensor([column])), [column]) for column in (1, 0)]
    torch.testing.assert_close([sum(pair) for pair in zip(*by_column, strict=True)], of_all)
    torch.testing.assert_close(kept.traces[0].weight, advanced.traces[0].weight)
