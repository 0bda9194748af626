"""The agent: its size, acting against learning, what the core reads, and where gradients go."""

from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from r2ac.agents import Agent, AgentConfig, Carry, DiscreteActions, ObservationSpec, RolloutOutput
from r2ac.kernels import GATES, Traces

T, B, A = 6, 3, 4
VECTOR, IMAGE = (5,), (2, 7, 9)


def make_agent(shape: tuple[int, ...] = VECTOR, dtype: torch.dtype = torch.float64, **config: Any) -> Agent:
    torch.manual_seed(1)
    return Agent(
        ObservationSpec(shape, DiscreteActions(A)),
        AgentConfig(hidden_size=8, encoder_features=10, **config),
    ).to(dtype)


def make_inputs(shape: tuple[int, ...] = VECTOR, steps: int = T) -> tuple[Tensor, Tensor, Tensor]:
    """Observation, reward and is_first of a rollout, T+1 of each."""
    observation = (
        torch.randn(steps + 1, B, *shape, dtype=torch.float64)
        if len(shape) == 1
        else torch.randint(0, 256, (steps + 1, B, *shape), dtype=torch.uint8)
    )
    return observation, 2 * torch.randn(steps + 1, B), torch.rand(steps + 1, B) < 0.25


def random_carry(agent: Agent) -> Carry:
    """The carry of streams that have seen much."""
    zeros = agent.core.initial_carry(B)
    traces = tuple(Traces(*map(torch.randn_like, each.tensors())) for each in zeros.traces)
    return Carry(torch.randn_like(zeros.state), traces)


def some_loss(output: RolloutOutput) -> Tensor:
    weights = torch.linspace(-1, 1, output.logits.numel(), dtype=output.logits.dtype).view_as(output.logits)
    return (weights * output.logits.log_softmax(-1)).sum() + output.values.square().sum()


def gradients(agent: Agent, output: RolloutOutput) -> dict[str, Tensor | None]:
    agent.zero_grad()
    some_loss(output).backward()
    return {name: parameter.grad for name, parameter in agent.named_parameters()}


@pytest.mark.parametrize(
    ("shape", "hidden", "actions", "parameters"),
    [
        pytest.param((3, 72, 96), 512, 9, 1_647_178, id="dmlab"),
        pytest.param((4, 84, 84), 256, 18, 1_358_307, id="atari"),
        pytest.param((3, 64, 64), 256, 15, 890_448, id="procgen"),
    ],
)
def test_the_papers_agents_have_the_papers_sizes(
    shape: tuple[int, ...], hidden: int, actions: int, parameters: int
) -> None:
    def count(core: Any) -> int:
        agent = Agent(
            ObservationSpec(shape, DiscreteActions(actions)),
            AgentConfig(core=core, hidden_size=hidden),
        )
        return sum(parameter.numel() for parameter in agent.parameters())

    assert count("elstm") == parameters
    assert count("feedforward") == parameters - 2 * hidden


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        (VECTOR, {}),
        (VECTOR, {"gradient": "tbptt"}),
        (VECTOR, {"encoder": "none", "chrono_steps": 20}),
        (VECTOR, {"core": "feedforward"}),
        (VECTOR, {"core": "mingru", "output_gate": True, "readout": "mlp", "readout_skip": True, "layer_norm": True}),
        (IMAGE, {}),
        (IMAGE, {"core": "feedforward"}),
    ],
)
def test_acting_step_by_step_says_what_learning_from_the_rollout_says(
    shape: tuple[int, ...], config: dict[str, Any]
) -> None:
    agent, (observation, reward, is_first) = make_agent(shape, **config), make_inputs(shape)
    is_first[T] = torch.tensor([True, False, False])
    carry = random_carry(agent)
    output = agent(observation, reward, is_first, carry)
    state = carry.state
    for t in range(T):
        step = agent.step(observation[t], reward[t], is_first[t], state)
        torch.testing.assert_close(step.logits, output.logits[t])
        torch.testing.assert_close(step.value, output.values[t])
        logits, after = agent.act(observation=observation[t], reward=reward[t], is_first=is_first[t], state=state)
        assert torch.equal(logits, step.logits)
        assert torch.equal(after, step.state)
        state = step.state
    torch.testing.assert_close(state, output.carry.state)
    bootstrap = agent.step(observation[T], reward[T], is_first[T], state)
    torch.testing.assert_close(bootstrap.value, output.bootstrap_value)


def test_shapes_and_what_carries_a_gradient() -> None:
    agent, (observation, reward, is_first) = make_agent(dtype=torch.float32), make_inputs()
    output = agent(observation, reward, is_first, agent.core.initial_carry(B))
    assert output.logits.shape == (T, B, A)
    assert output.values.shape == (T, B)
    assert output.bootstrap_value.shape == (B,)
    assert output.logits.dtype == output.values.dtype == torch.float32
    assert output.logits.requires_grad
    assert output.values.requires_grad
    assert not output.bootstrap_value.requires_grad
    assert not any(kept.requires_grad for kept in (output.carry.state, *output.carry.traces[0].tensors()))
    step = agent.step(observation[0], reward[0], is_first[0], output.carry.state)
    assert not any(tensor.requires_grad for tensor in (step.logits, step.value, step.state))


@pytest.mark.parametrize("core", ["elstm", "feedforward"])
def test_the_last_reward_is_clipped_and_absent_where_an_episode_begins(core: Any) -> None:
    agent = make_agent(core=core)
    observation, _, _ = make_inputs()

    def logits(reward: float, is_first: bool) -> tuple[Tensor, Tensor]:
        rewards, firsts = torch.full((T + 1, B), reward), torch.full((T + 1, B), is_first)
        carry = agent.core.initial_carry(B)
        output = agent(observation, rewards, firsts, carry)
        step = agent.step(observation[0], rewards[0], firsts[0], carry.state)
        return torch.cat((output.logits.flatten(), output.bootstrap_value)), step.logits

    def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[bool, bool]:
        return torch.equal(one[0], other[0]), torch.equal(one[1], other[1])

    assert same(logits(7.5, False), logits(1.0, False)) == (True, True)
    assert same(logits(-300.0, False), logits(-1.0, False)) == (True, True)
    assert same(logits(0.5, False), logits(1.0, False)) == (False, False)
    assert same(logits(0.5, False), logits(-0.5, False)) == (False, False)
    assert same(logits(1.0, True), logits(0.0, True)) == (True, True)
    # An episode that begins may follow a reward that is not a number.
    assert same(logits(float("nan"), True), logits(0.0, True)) == (True, True)


def test_inputs_stay_as_they_are() -> None:
    agent, inputs = make_agent(IMAGE), make_inputs(IMAGE)
    carry = random_carry(agent)
    given = (*inputs, carry.state, *carry.traces[0].tensors())
    kept = [tensor.clone() for tensor in given]
    gradients(agent, agent(*inputs, carry))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given, kept, strict=True))


def autograd_nodes(loss: Tensor) -> list[str]:
    """The names of all autograd nodes below a loss."""
    seen, waiting = {loss.grad_fn}, [loss.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:  # type: ignore[union-attr]
            if node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return [node.name() for node in seen if node is not None]


@pytest.mark.parametrize("gradient", ["rtrl", "tbptt"])
def test_a_frozen_encoder_gets_no_gradient_builds_no_graph_and_changes_nothing_else(gradient: Any) -> None:
    agent, inputs = make_agent(IMAGE, gradient=gradient), make_inputs(IMAGE)
    carry = random_carry(agent)
    output = agent(*inputs, carry)
    assert any("Convolution" in name for name in autograd_nodes(some_loss(output)))
    trained = {name: tensor for name, tensor in gradients(agent, output).items() if tensor is not None}
    assert all(tensor.abs().sum() > 0 for tensor in trained.values())

    agent.freeze_encoder()
    output = agent(*inputs, carry)
    accumulated = [name for name in autograd_nodes(some_loss(output)) if "AccumulateGrad" in name]
    assert not any("Convolution" in name for name in autograd_nodes(some_loss(output)))
    others = [name for name in trained if not name.startswith("encoder.")]
    assert len(accumulated) == len(others) < len(trained)
    frozen = gradients(agent, output)
    for name, tensor in frozen.items():
        if name.startswith("encoder."):
            assert tensor is None
        else:
            torch.testing.assert_close(tensor, trained[name])


def test_the_encoder_gets_the_gradient_inside_the_rollout_only() -> None:
    """So that RTRL and TBPTT agree on it for the same carry, while the core's gradients differ."""
    exact, truncated, inputs = make_agent(IMAGE), make_agent(IMAGE, gradient="tbptt"), make_inputs(IMAGE)
    inputs[2][0] = False
    carry = random_carry(exact)
    by_exact = gradients(exact, exact(*inputs, carry))
    by_truncated = gradients(truncated, truncated(*inputs, Carry(carry.state)))
    for name, mine in by_exact.items():
        other = by_truncated[name]
        assert mine is not None
        assert other is not None
        if name in ("core.input_weight", "core.recurrent_weight", "core.bias"):
            assert not torch.allclose(mine, other, rtol=1e-2)
        else:
            torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)


def plain_agent(agent: Agent, observation: Tensor, reward: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and values of a whole stream by the equations of the agent without an encoder, for autograd."""
    core: Any = agent.core
    (F, Z), (w_f, w_z), (b_f, b_z) = core.input_weight, core.recurrent_weight, core.bias
    cell = torch.zeros(observation.shape[1], core.hidden_size, dtype=observation.dtype)
    outputs = []
    for observation_t, reward_t, first in zip(observation, reward.to(observation.dtype), is_first, strict=True):
        last_reward = torch.where(first, torch.zeros_like(reward_t), reward_t.clip(-1, 1))
        x = torch.cat((observation_t, last_reward[:, None]), dim=-1)
        cell = torch.where(first[:, None], torch.zeros_like(cell), cell)
        f = torch.sigmoid(x @ F.T + w_f * cell + b_f)
        cell = f * cell + (1 - f) * torch.tanh(x @ Z.T + w_z * cell + b_z)
        o = torch.sigmoid(torch.cat((x, cell), -1) @ core.output_gate.weight.T + core.output_gate.bias)
        outputs.append(o * cell)
    h = torch.stack(outputs)
    return h @ agent.policy.weight.T + agent.policy.bias, (h @ agent.value.weight.T + agent.value.bias)[..., 0]


@pytest.mark.parametrize("lengths", [(1,) * 12, (5, 1, 6), (12,)])
@pytest.mark.parametrize("resets", [0.0, 0.2])
def test_without_an_encoder_the_gradient_is_exact_from_end_to_end(lengths: tuple[int, ...], resets: float) -> None:
    agent = make_agent(encoder="none")
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    steps = sum(lengths)
    observation, reward, _ = make_inputs(steps=steps)
    is_first = torch.rand(steps + 1, B) < resets
    by_logits = torch.randn(steps, B, A, dtype=torch.float64)
    targets = torch.randn(steps, B, dtype=torch.float64)

    def loss(logits: Tensor, values: Tensor, start: int, stop: int) -> Tensor:
        """Of logits and values, not linear in either."""
        policy = (by_logits[start:stop] * logits.log_softmax(-1).exp()).sum()
        return policy + (targets[start:stop] - values).square().sum()

    agent.zero_grad()
    carry, start = agent.core.initial_carry(B), 0
    for length in lengths:
        stop = start + length
        inputs = (tensor[start : stop + 1] for tensor in (observation, reward, is_first))
        output = agent(*inputs, carry)
        loss(output.logits, output.values, start, stop).backward()
        carry, start = output.carry, stop

    logits, values = plain_agent(agent, observation[:steps], reward[:steps], is_first[:steps])
    expected = torch.autograd.grad(loss(logits, values, 0, steps), list(agent.parameters()))
    for (name, parameter), gradient in zip(agent.named_parameters(), expected, strict=True):
        assert parameter.grad is not None
        scale = gradient.abs().max()
        assert (parameter.grad - gradient).abs().max() <= 1e-11 * scale, name


def test_the_gradient_of_some_steps_only_is_exact_too() -> None:
    """A loss at the last step alone reaches the parameters through every step before it."""
    agent, (observation, reward, _) = make_agent(encoder="none"), make_inputs()
    is_first = torch.zeros(T + 1, B, dtype=torch.bool)
    carry = agent.core.initial_carry(B)
    for t in range(T):
        part = slice(t, t + 2)
        output = agent(observation[part], reward[part], is_first[part], carry)
        carry = output.carry
    agent.zero_grad()
    output.values.sum().backward()
    _, values = plain_agent(agent, observation[:T], reward[:T], is_first[:T])
    expected = torch.autograd.grad(values[-1].sum(), list(agent.core.parameters()))
    for parameter, gradient in zip(agent.core.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-11, atol=1e-14)


def test_the_spec_of_an_environment() -> None:
    env = gymnasium.make_vec("CartPole-v1", num_envs=2)
    assert ObservationSpec.of(env) == ObservationSpec((4,), DiscreteActions(2))
    env.close()


@pytest.mark.parametrize("sizes", [{"hidden_size": 0}, {"encoder_features": 0}])
def test_sizes_below_one_are_named(sizes: dict[str, int]) -> None:
    words = f"at least 1, not {sizes.get('hidden_size', 256)} and {sizes.get('encoder_features', 256)}"
    with pytest.raises(ValueError, match=words):
        Agent(ObservationSpec(VECTOR, DiscreteActions(A)), AgentConfig(**sizes))  # type: ignore[arg-type]


def test_an_unknown_gradient_is_named() -> None:
    with pytest.raises(ValueError, match="gradient must be one of rtrl, tbptt, not 'bptt'"):
        make_agent(gradient="bptt")


def test_rtrl_starts_without_sensitivities_to_add() -> None:
    carry = make_agent().core.initial_carry(B)
    assert carry.traces[0].weight.shape == (B, GATES, 8, 10 + 1)
    assert not any(tensor.count_nonzero() for tensor in (carry.state, *carry.traces[0].tensors()))
