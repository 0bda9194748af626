"""The kernels of whole rollouts against the agent's readable forward pass and autograd, in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from r2ac.agents import (
    Agent,
    AgentConfig,
    BoxActions,
    Carry,
    DiscreteActions,
    FusedActor,
    MultiDiscreteActions,
    ObservationSpec,
)
from r2ac.agents.fused import MOST_WORK, kernel_agent
from r2ac.agents.moments import ObservationNormaliser
from r2ac.kernels.native_library import CELLS_WITH_SCANS, missing_reason

pytestmark = pytest.mark.skipif(missing_reason() is not None, reason="there is no C++ compiler")
SIZE, ACTIONS = 6, 3
SHAPES = st.sampled_from([(1, 1), (1, 5), (4, 1), (7, 5), (20, 3), (3, 0), (150, 2)])
AGENTS = st.fixed_dictionaries(
    {
        "core": st.sampled_from([*CELLS_WITH_SCANS, "mixed:elstm+lru", "mixed:lru+mingru+lru"]),
        "hidden_size": st.sampled_from([3, 12, 34]),
        "gradient": st.sampled_from(["rtrl", "tbptt"]),
        "readout": st.sampled_from(["linear", "mlp"]),
        "readout_size": st.sampled_from([1, 9, 50]),
        "readout_skip": st.booleans(),
        "layer_norm": st.booleans(),
        "normalise_observations": st.booleans(),
        "normalise_rewards": st.booleans(),
        "reward_clip": st.sampled_from([0.5, "none"]),
    }
)


def make_agent(**config: Any) -> Agent:
    spec = ObservationSpec((SIZE,), DiscreteActions(ACTIONS), action_masks=True)
    agent = Agent(spec, AgentConfig(**{"encoder": "none", "hidden_size": 8} | config)).double()
    if isinstance(agent.observations, ObservationNormaliser):
        agent.observations.mean.normal_()
        agent.observations.deviation.uniform_(0.5, 2)
    if agent.rewards.deviation is not None:
        agent.rewards.deviation.fill_(1.7)
    return agent


def make_carry(agent: Agent, batch: int, advance: bool, notes: bool) -> Carry:
    """Of a batch among more streams, some of which are fresh."""
    begun = agent.core.initial_carry(batch + 3)
    for traces in begun.traces:
        traces.weight.normal_()
        traces.vectors.normal_()
    kept = tuple(replace(traces, advance=advance) for traces in begun.traces)
    carry = Carry(torch.randn(batch, agent.core.state_size).double(), kept)
    if not kept:
        return carry
    carry = carry.of_streams(torch.randperm(batch + 3)[:batch], torch.rand(batch) < 0.3)
    if not advance:
        return carry
    through = agent.core.initial_through(batch + 3)
    for each in through:
        each.uniform_(0, 50)
    return agent.core.with_notes(carry, through, parts=notes)


def copy(carry: Carry) -> Carry:
    traces = tuple(replace(each, weight=each.weight.clone(), vectors=each.vectors.clone()) for each in carry.traces)
    return Carry(carry.state, traces, tuple(replace(each, through=each.through.clone()) for each in carry.notes))


def make_rollout(steps: int, batch: int, masks: bool) -> dict[str, Tensor | None]:
    mask = torch.rand(steps + 1, batch, ACTIONS) < 0.6
    mask[..., 0] = True
    return {
        "observation": torch.randn(steps + 1, batch, SIZE).double(),
        "reward": torch.randn(steps + 1, batch).double(),
        "is_first": torch.rand(steps + 1, batch) < 0.2,
        "action_mask": mask if masks else None,
    }


def results(
    compute: Any, agent: Agent, rollout: dict[str, Any], carry: Carry, bootstrap: Tensor | None
) -> list[Tensor]:
    """All that a pass and its gradient give and change; ``compute``: the agent or its ``rollout``."""
    agent.zero_grad()
    output = compute(carry=carry, bootstrap_value=bootstrap, **rollout)
    random = torch.Generator().manual_seed(3)
    by_logits, by_values = (
        torch.randn(each.shape, generator=random).double() for each in (output.logits, output.values)
    )
    if output.pullback is None:
        torch.autograd.backward((output.logits, output.values), (by_logits, by_values))
    else:
        vector = output.pullback(by_logits, by_values)
        assert torch.equal(
            vector, torch.cat([each.grad.flatten() for each in agent.parameters() if each.grad is not None])
        )
    found = [output.logits, output.values, output.bootstrap_value, output.carry.state, output.core_input]
    found += [output.rewards.double(), *(each.grad for each in agent.parameters() if each.grad is not None)]
    found += [each for traces in output.carry.traces for each in traces.tensors()[:2]]
    return found + [each for notes in carry.notes for each in notes.tensors()]


@given(config=AGENTS, shape=SHAPES, flags=st.tuples(*[st.booleans()] * 4), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_rollout_is_that_of_the_readable_agent(
    config: dict[str, Any], shape: tuple[int, int], flags: tuple[bool, ...], seed: int
) -> None:
    torch.manual_seed(seed)
    advance, notes, masks, bootstraps = flags
    agent, rollout = make_agent(**config), make_rollout(*shape, masks)
    carry = make_carry(agent, shape[1], advance, notes)
    bootstrap = None if bootstraps else torch.randn(shape[1]).double()
    assert kernel_agent(agent, carry, shape[0] * shape[1]) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "forward", None)
        ours = results(agent.rollout, agent, rollout, copy(carry), bootstrap)
    readable = results(agent, agent, rollout, copy(carry), bootstrap)
    torch.testing.assert_close(ours, readable, rtol=1e-9, atol=1e-10)


def act(agent: Agent, inputs: dict[str, Tensor], state: Tensor, steps: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and actions of all steps that an actor makes, and the state after them."""
    count, batch = inputs["reward"].shape
    logits, uniforms = state.new_zeros(count, batch, agent.actions.parameters), torch.rand(count, batch).double()
    state, action = state.clone(), torch.zeros(count, batch, dtype=torch.int64)
    step = FusedActor(agent, batch).over(inputs, uniforms, state, logits, action)
    for t in range(steps):
        step(t)
        chosen = agent.actions.choose(logits[t].numpy(), uniforms[t].numpy())
        np.testing.assert_array_equal(action[t].numpy(), chosen)
    return logits[:steps], action[:steps], state


def read(agent: Agent, inputs: dict[str, Tensor], state: Tensor, steps: int = 3) -> tuple[Tensor, Tensor]:
    """What :meth:`Agent.act` has for the same."""
    logits = []
    for t in range(steps):
        found, state = agent.act(state=state, **{name: each[t] for name, each in inputs.items()})
        logits.append(found)
    return torch.stack(logits), state


def make_inputs(batch: int, masks: bool = False) -> dict[str, Tensor]:
    return {name: each for name, each in make_rollout(3, batch, masks).items() if each is not None}


@given(config=AGENTS, batch=st.sampled_from([1, 7, 64]), masks=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_steps_are_those_of_the_readable_agent(config: dict[str, Any], batch: int, masks: bool, seed: int) -> None:
    torch.manual_seed(seed)
    agent, inputs = make_agent(**config), make_inputs(batch, masks)
    state = torch.randn(batch, agent.core.state_size).double()
    expected = read(agent, inputs, state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "act", None)
        logits, _, after = act(agent, inputs, state)
    torch.testing.assert_close((logits, after), expected)


def test_an_actor_draws_each_part_of_an_action() -> None:
    torch.manual_seed(0)
    actions = MultiDiscreteActions((2, 4, 3))
    agent = Agent(ObservationSpec((SIZE,), actions), AgentConfig(encoder="none", hidden_size=6))
    inputs = {name: each.float() if each.is_floating_point() else each for name, each in make_inputs(50).items()}
    logits, uniforms = torch.zeros(3, 50, 9), torch.rand(3, 50, 3).double()
    state, action = torch.zeros(50, agent.core.state_size), torch.zeros(3, 50, 3, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "act", None)
        FusedActor(agent, 50).over(inputs, uniforms, state, logits, action)(1)
    np.testing.assert_array_equal(action[1].numpy(), actions.choose(logits[1].numpy(), uniforms[1].numpy()))
    assert (action[1].amax(0) == torch.tensor([1, 3, 2])).all()
    assert not action[0].any()


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("core", ["elstm", "lru"])
def test_an_actor_follows_the_weights(core: str, moves: bool) -> None:
    agent, inputs = make_agent(core=core), make_inputs(2)
    actor, state = FusedActor(agent, 2), torch.zeros(2, agent.core.state_size).double()
    logits, action = torch.zeros(3, 2, agent.actions.parameters).double(), torch.zeros(3, 2, dtype=torch.int64)
    for _ in range(2):
        with torch.no_grad():
            for weight in agent.parameters():
                if moves:
                    weight.data = weight.data + 0.1
                else:
                    weight.add_(0.1)
        own, expected = state.clone(), read(agent, inputs, state, steps=1)
        step = actor.over(inputs, torch.rand(3, 2).double(), own, logits, action)
        if moves:
            # Begun steps keep the weights that they began with.
            for weight in agent.parameters():
                weight.data = torch.full_like(weight.data, 0.3)
        step(0)
        torch.testing.assert_close((logits[:1], own), expected)


@pytest.mark.parametrize("core", ["elstm", "lru", "mixed:elstm+lru"])
def test_steps_that_were_prepared_follow_weights_that_change_where_they_lie(core: str) -> None:
    agent, inputs = make_agent(core=core), make_inputs(2)
    state = torch.zeros(2, agent.core.state_size).double()
    logits, action = torch.zeros(3, 2, agent.actions.parameters).double(), torch.zeros(3, 2, dtype=torch.int64)
    step = FusedActor(agent, 2).over(inputs, torch.rand(3, 2).double(), state, logits, action)
    for _ in range(2):
        with torch.no_grad():
            for weight in agent.parameters():
                weight.add_(0.1)
        expected = read(agent, inputs, state, steps=1)
        step(0)
        torch.testing.assert_close((logits[:1], state), expected)


def test_a_subclass_of_the_agent_is_asked_itself() -> None:
    class Louder(Agent):
        def forward(self, *given: Any, **named: Any) -> Any:
            output = super().forward(*given, **named)
            return replace(output, values=2 * output.values)

    rollout, spec = make_rollout(3, 2, False), ObservationSpec((SIZE,), DiscreteActions(ACTIONS))
    agent = Louder(spec, AgentConfig("tbptt", encoder="none", hidden_size=4)).double()
    carry = agent.core.initial_carry(2)
    assert torch.equal(agent.rollout(carry=carry, **rollout).values, agent(carry=carry, **rollout).values)


def test_an_actors_arrays_are_checked() -> None:
    agent, inputs = make_agent(), make_inputs(2)
    state, uniforms = torch.zeros(2, agent.core.state_size).double(), torch.rand(3, 2).double()
    logits, action = torch.zeros(3, 2, agent.actions.parameters).double(), torch.zeros(3, 2, dtype=torch.int64)
    actor = FusedActor(agent, 2)
    with pytest.raises(IndexError, match="a step must lie in 0 to 2, not 3"):
        actor.over(inputs, uniforms, state, logits, action)(3)
    with pytest.raises(ValueError, match=r"action must be torch.int64"):
        actor.over(inputs, uniforms, state, logits, action.int())
    with pytest.raises(ValueError, match=r"uniforms must be torch.float64"):
        actor.over(inputs, uniforms[:, :1], state, logits, action)
    with pytest.raises(ValueError, match=r"observation must be .* without gaps in a step"):
        actor.over(inputs | {"observation": inputs["observation"].mT.contiguous().mT}, uniforms, state, logits, action)
    with pytest.raises(ValueError, match="state is changed in place"):
        actor.over(inputs, uniforms, torch.zeros(agent.core.state_size, 2).double().mT, logits, action)


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 400},
        {"encoder": "mlp"},
        {"core": "lstm"},
        {"core": "mixed:elstm+qrnn"},
        {"layers": 2},
    ],
    ids=str,
)
def test_what_the_kernels_do_not_know_is_left_to_the_readable_agent(config: dict[str, Any]) -> None:
    agent = make_agent(**config)
    assert kernel_agent(agent, agent.core.initial_carry(2), 2) is None
    inputs, state = make_inputs(2), torch.zeros(2, agent.core.state_size).double()
    logits, _, after = act(agent, inputs, state)
    torch.testing.assert_close((logits, after), read(agent, inputs, state))


def test_large_rollouts_continuous_actions_and_frozen_weights_are_too() -> None:
    agent = make_agent(gradient="tbptt")
    carry, rollout = agent.core.initial_carry(2), make_rollout(3, 2, False)
    assert kernel_agent(agent, carry, MOST_WORK) is None
    boxes = Agent(ObservationSpec((SIZE,), BoxActions((-1.0,), (1.0,))), AgentConfig(encoder="none"))
    assert kernel_agent(boxes, boxes.core.initial_carry(2), 2) is None
    agent.core.requires_grad_(False)
    agent.rollout(carry=carry, **rollout).values.sum().backward()
    assert all(weight.grad is None for weight in agent.core.parameters())
    assert agent.value.weight.grad is not None


def test_carries_that_the_core_does_not_take_raise_its_error() -> None:
    agent, rollout = make_agent(), make_rollout(3, 2, False)
    carry = make_carry(agent, 2, advance=True, notes=False)
    with pytest.raises(ValueError, match="needs a carry with traces"):
        agent.rollout(carry=Carry(carry.state), **rollout)
    with pytest.raises(ValueError, match=r"carry.state must be torch.float64"):
        agent.rollout(carry=replace(carry, state=carry.state.float()), **rollout)
    noted = make_carry(agent, 2, advance=True, notes=True)
    small = tuple(replace(note, through=note.through[:1]) for note in noted.notes)
    with pytest.raises(ValueError, match=r"notes.through must be"):
        agent.rollout(carry=replace(noted, notes=small), **rollout)


def test_states_of_another_dtype_are_the_agents_own_error() -> None:
    agent = make_agent()
    with pytest.raises(RuntimeError):
        act(agent, make_inputs(2), torch.zeros(2, agent.core.state_size))


def test_weights_that_do_not_lie_side_by_side_are_read_as_they_are() -> None:
    agent, rollout = make_agent(gradient="tbptt"), make_rollout(3, 2, False)
    carry = agent.core.initial_carry(2)
    expected = agent(carry=carry, **rollout).values
    weight = agent.value.weight
    weight.data = torch.stack((weight.data, weight.data), dim=-1)[..., 0]
    torch.testing.assert_close(agent.rollout(carry=carry, **rollout).values, expected)


def test_sums_of_many_steps_lose_no_more_digits_than_pytorchs() -> None:
    agent = make_agent(gradient="tbptt").float()
    carry, rollout = agent.core.initial_carry(500), make_rollout(20, 500, False)
    pullback = agent.rollout(carry=carry, **rollout).pullback
    assert pullback is not None
    pullback(torch.ones(20, 500, ACTIONS), torch.zeros(20, 500))
    assert agent.policy.bias.grad is not None
    torch.testing.assert_close(agent.policy.bias.grad, torch.full((ACTIONS,), 10_000.0), rtol=1e-6, atol=0)


def test_a_gradient_is_taken_once() -> None:
    """A second time would take the sensitivities across the rollout twice."""
    agent = make_agent()
    carry = make_carry(agent, 2, advance=True, notes=False)
    output = agent.rollout(carry=carry, **make_rollout(3, 2, False))
    assert output.pullback is not None
    output.pullback(output.logits, output.values)
    with pytest.raises(RuntimeError, match="the gradient of a rollout is taken once"):
        output.pullback(output.logits, output.values)


def test_what_has_no_kernel_of_its_losses_is_recorded_by_autograd() -> None:
    spec = ObservationSpec((SIZE,), MultiDiscreteActions((2, 3)))
    agent = Agent(spec, AgentConfig(encoder="none", hidden_size=6)).double()
    output = agent.rollout(carry=make_carry(agent, 2, advance=True, notes=False), **make_rollout(3, 2, False))
    assert output.pullback is None
    assert output.logits.requires_grad


def test_what_is_not_finite_passes() -> None:
    agent, rollout = make_agent(), make_rollout(3, 2, False)
    observation = rollout["observation"]
    assert observation is not None
    observation[1, 0, 0] = float("nan")
    output = agent.rollout(carry=make_carry(agent, 2, advance=True, notes=False), **rollout)
    assert output.logits[1, 0].isnan().all()
    assert output.logits[:, 1].isfinite().all()
