"""The update: against a plain transcription of agent and losses with autograd, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.learner import Learner, LearnerConfig, Rollout, concatenate

SIZE, ACTIONS, HIDDEN = 3, 4, 5


@dataclass(frozen=True)
class Stream:
    """B endless streams, of which rollouts are cut."""

    observation: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    action: np.ndarray
    behaviour_logits: np.ndarray
    truncated: np.ndarray | None = None
    final_observation: np.ndarray | None = None

    def cut(self, start: int, stop: int, sequence: int) -> Rollout[np.ndarray]:
        """The rollout from ``start`` to ``stop``; the cells it ships are none that the learner holds."""
        batch = self.action.shape[1]
        return Rollout(
            observation=self.observation[start : stop + 1],
            reward=self.reward[start : stop + 1],
            is_first=self.is_first[start : stop + 1],
            action=self.action[start:stop],
            behaviour_logits=self.behaviour_logits[start:stop],
            first_state=np.linspace(1, 2, batch * HIDDEN, dtype=np.float32).reshape(batch, HIDDEN),
            stream=np.arange(batch),
            sequence=np.full(batch, sequence),
            weights_version=np.zeros(batch, dtype=np.int64),
            truncated=None if self.truncated is None else self.truncated[start:stop],
            final_observation=None if self.final_observation is None else self.final_observation[start:stop],
        )

    def cuts(self, *lengths: int) -> list[Rollout[np.ndarray]]:
        """Rollouts of these lengths, one after another."""
        ends = np.cumsum(lengths)
        return [self.cut(int(ends[i]) - length, int(ends[i]), i) for i, length in enumerate(lengths)]


def make_stream(steps: int = 12, batch: int = 3, seed: int = 0, resets: float = 0.15) -> Stream:
    rng = np.random.default_rng(seed)
    return Stream(
        observation=rng.normal(size=(steps + 1, batch, SIZE)),
        reward=2 * rng.normal(size=(steps + 1, batch)).astype(np.float32),
        is_first=rng.random((steps + 1, batch)) < resets,
        action=rng.integers(0, ACTIONS, (steps, batch)),
        behaviour_logits=rng.normal(size=(steps, batch, ACTIONS)),
    )


def with_time_limits(stream: Stream, seed: int = 1) -> Stream:
    """Half of the episodes' ends are by a time limit; what is no such end has a final observation of no number."""
    rng = np.random.default_rng(seed)
    truncated = stream.is_first[1:] & (rng.random(stream.action.shape) < 0.5)
    final = np.where(truncated[..., None], rng.normal(size=(*truncated.shape, SIZE)), np.nan)
    return replace(stream, truncated=truncated, final_observation=final)


def make_learner(
    num_streams: int = 3,
    encoder: Any = "none",
    gradient: Any = "rtrl",
    total_steps: int = 10**6,
    rewards: dict[str, Any] | None = None,
    **config: Any,
) -> Learner:
    torch.manual_seed(5)
    agent_config = AgentConfig(gradient, hidden_size=HIDDEN, encoder=encoder, encoder_features=6, **(rewards or {}))
    agent = Agent(ObservationSpec((SIZE,), DiscreteActions(ACTIONS)), agent_config).double()
    for parameter in agent.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return Learner(agent, LearnerConfig(**config), num_streams, total_steps)


def still(**config: Any) -> Learner:
    """A learner whose weights stand still and whose gradients are not clipped."""
    return make_learner(learning_rate=0.0, max_gradient_norm=1e9, **config)


def gradients(learner: Learner) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in learner.parameters if parameter.grad is not None]


def weights(learner: Learner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in learner.parameters]


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], relative: float = 1e-10) -> None:
    for mine, other in zip(actual, expected, strict=True):
        assert (mine - other).abs().max() <= relative * other.abs().max().clamp_min(1e-9)


def plain_loss(
    agent: Any, stream: Stream, lengths: Sequence[int], config: LearnerConfig, clip: float = 1.0, scale: float = 1.0
) -> list[dict[str, Tensor]]:
    """The losses of consecutive rollouts, written out; autograd reaches through all of them to the first step. Rewards
    are divided by ``scale`` and then clipped."""
    observation, reward = torch.from_numpy(stream.observation), torch.from_numpy(stream.reward).double()
    is_first = torch.from_numpy(stream.is_first)
    steps, batch = stream.action.shape
    (F, Z), (w_f, w_z), (b_f, b_z) = agent.core.input_weight, agent.core.recurrent_weight, agent.core.bias
    cell = torch.zeros(batch, HIDDEN, dtype=torch.float64)
    reward = (reward / scale).clip(-clip, clip)

    def step(shown: Tensor, last_reward: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat((shown, last_reward[:, None]), dim=-1)
        f = torch.sigmoid(x @ F.T + w_f * cell + b_f)
        cell = f * cell + (1 - f) * torch.tanh(x @ Z.T + w_z * cell + b_z)
        return torch.sigmoid(agent.core.output_gate(torch.cat((x, cell), dim=-1))) * cell, cell

    logits, values, final_values = [], [], torch.zeros(steps, batch, dtype=torch.float64)
    for t in range(steps + 1):
        last_reward = torch.where(is_first[t], 0.0, reward[t])
        h, cell = step(observation[t], last_reward, torch.where(is_first[t][:, None], 0.0, cell))
        logits.append(agent.policy(h))
        values.append(agent.value(h)[:, 0])
        if stream.final_observation is not None and t < steps:
            h, _ = step(torch.from_numpy(stream.final_observation[t]), reward[t + 1], cell)
            final_values[t] = agent.value(h)[:, 0].detach()
    losses, start = [], 0
    for length in lengths:
        steps_of_it = range(start, start + length)
        losses.append(_plain_rollout_loss(stream, logits, values, reward, final_values, steps_of_it, config))
        start += length
    return losses


def _plain_rollout_loss(
    stream: Stream,
    logits: list[Tensor],
    values: list[Tensor],
    reward: Tensor,
    final_values: Tensor,
    steps: range,
    config: LearnerConfig,
) -> dict[str, Tensor]:
    """V-trace by its recursion, stream by stream. At a time limit the next value, and the next target, are the value of
    the final observation; the recursion ends there."""
    policy, baseline, entropy = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    behaviour = torch.from_numpy(stream.behaviour_logits)
    for b in range(stream.action.shape[1]):
        ahead = 0.0
        next_target = values[steps.stop][b].item()
        for t in reversed(steps):
            log_pi, action = logits[t][b].log_softmax(-1), int(stream.action[t, b])
            ratio = (log_pi[action] - behaviour[t, b].log_softmax(-1)[action]).exp().item()
            value, next_value, paid = values[t][b].item(), values[t + 1][b].item(), reward[t + 1, b].item()
            discount = config.discount
            if stream.is_first[t + 1, b]:
                ahead = 0.0
                goes_on = stream.truncated is not None and stream.truncated[t, b]
                next_value = next_target = final_values[t, b].item() if goes_on else 0.0
            delta = min(config.clip_rho, ratio) * (paid + discount * next_value - value)
            advantage = min(config.clip_pg_rho, ratio) * (paid + discount * next_target - value)
            ahead = delta + discount * min(config.clip_c, ratio) * ahead
            next_target = value + ahead
            policy = policy - advantage * log_pi[action]
            baseline = baseline + 0.5 * (next_target - values[t][b]) ** 2
            entropy = entropy - (log_pi.exp() * log_pi).sum()
    total = policy + config.baseline_cost * baseline - config.entropy_cost * entropy
    return {"total": total, "policy": policy, "baseline": baseline, "entropy": entropy}


@pytest.mark.parametrize("lengths", [(4, 1, 7), (12,)])
@pytest.mark.parametrize(
    "config", [{}, {"discount": 0.8, "baseline_cost": 2.0, "entropy_cost": 0.3, "clip_rho": 0.7, "clip_c": 0.5}]
)
def test_losses_and_gradients_of_several_rollouts(lengths: tuple[int, ...], config: dict[str, float]) -> None:
    """Weights that stand still: the sum over rollouts is BPTT through the whole stream."""
    stream, learner = make_stream(), still(**config)
    summed = [torch.zeros_like(parameter) for parameter in learner.parameters]
    metrics = []
    for rollout in stream.cuts(*lengths):
        metrics.append(learner.update(rollout))
        summed = [kept + new for kept, new in zip(summed, gradients(learner), strict=True)]
        norm = torch.cat([gradient.flatten() for gradient in gradients(learner)]).norm()
        torch.testing.assert_close(metrics[-1]["loss/gradient_norm"], norm)

    expected = plain_loss(learner.agent, stream, lengths, learner.config)
    total = torch.stack([losses["total"] for losses in expected]).sum()
    close(summed, torch.autograd.grad(total, learner.parameters))
    for measured, losses, length in zip(metrics, expected, lengths, strict=True):
        for name, loss in losses.items():
            assert measured[f"loss/{name}"].item() == pytest.approx(loss.item() / (length * 3), rel=1e-10)
    assert not any(tensor.requires_grad for measured in metrics for tensor in measured.values())
    assert (learner.updates, learner.env_steps, learner.skipped_updates) == (len(lengths), 36, 0)
    assert learner.carries.resets == 0


@pytest.mark.parametrize("max_gradient_norm", [1e9, 0.5])
def test_one_update_is_one_step_of_rmsprop_with_the_clipped_gradient(max_gradient_norm: float) -> None:
    stream, learner = make_stream(), make_learner(max_gradient_norm=max_gradient_norm)
    before = weights(learner)
    losses = plain_loss(learner.agent, stream, [12], learner.config)
    gradient = torch.autograd.grad(losses[0]["total"], learner.parameters)
    norm = torch.cat([part.flatten() for part in gradient]).norm().item()
    assert norm > 1
    metrics = learner.update(stream.cut(0, 12, 0))
    assert metrics["loss/gradient_norm"].item() == pytest.approx(norm)
    clipped = [part * min(1.0, max_gradient_norm / norm) for part in gradient]
    expected = [
        weight - 6e-4 * part / ((0.01 * part.square()).sqrt() + 0.01)
        for weight, part in zip(before, clipped, strict=True)
    ]
    # The steps themselves, for beside the weights they are small.
    steps = [after - weight for after, weight in zip(weights(learner), before, strict=True)]
    close(steps, [after - weight for after, weight in zip(expected, before, strict=True)], relative=1e-5)


def test_the_learning_rate_falls_linearly_to_zero() -> None:
    stream = make_stream()
    learner = make_learner(total_steps=4 * 9, learning_rate=0.01)
    rates = []
    for rollout in stream.cuts(3, 3, 3, 3):
        rates.append(learner.learning_rate())
        learner.update(rollout)
        assert learner.optimiser.param_groups[0]["lr"] == rates[-1]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    assert learner.learning_rate() == 0.0
    before = weights(learner)
    learner.update(stream.cut(0, 3, 4))
    assert learner.learning_rate() == 0.0
    assert all(torch.equal(mine, other) for mine, other in zip(weights(learner), before, strict=True))


@pytest.mark.parametrize("optimiser", ["rmsprop", "adam"])
@pytest.mark.parametrize("gradient", ["rtrl", "tbptt"])
def test_two_runs_of_one_seed_are_the_same_to_the_bit(optimiser: str, gradient: str) -> None:
    learners = [make_learner(encoder="mlp", gradient=gradient, optimiser=optimiser) for _ in range(2)]
    for rollout in make_stream().cuts(5, 5, 2):
        one, other = (learner.update(rollout) for learner in learners)
        assert one == other
    assert all(torch.equal(mine, other) for mine, other in zip(*map(weights, learners), strict=True))
    start = weights(make_learner(encoder="mlp"))
    assert not any(torch.equal(mine, other) for mine, other in zip(weights(learners[0]), start, strict=True))


def test_the_order_of_streams_in_a_batch_makes_no_difference() -> None:
    stream = make_stream(batch=5)
    one, other = still(num_streams=5, encoder="mlp"), still(num_streams=5, encoder="mlp")
    for rollout in stream.cuts(4, 4, 4):
        one.update(rollout)
        other.update(concatenate([rollout.columns(3, 5), rollout.columns(0, 1), rollout.columns(1, 3)]))
        close(gradients(one), gradients(other))


def test_the_gradient_of_a_batch_is_the_sum_of_its_blocks() -> None:
    stream = make_stream(batch=5)
    whole, parts = still(num_streams=5, encoder="mlp"), still(num_streams=5, encoder="mlp")
    for rollout in stream.cuts(4, 4, 4):
        whole.update(rollout)
        parts.update(rollout.columns(2, 5))
        summed = gradients(parts)
        parts.update(rollout.columns(0, 2))
        close([kept + new for kept, new in zip(summed, gradients(parts), strict=True)], gradients(whole))


def carries(learner: Learner, sequence: int) -> list[Tensor]:
    """Cells and sensitivities of all streams before their rollout of this number."""
    batch = len(learner.carries.next_sequence)
    gap = learner.carries.gaps(np.arange(batch), np.full(batch, sequence))
    carry = learner.carries.fetch(torch.arange(batch), torch.from_numpy(gap), torch.full((batch, HIDDEN), 50.0))
    assert learner.carries.resets == 0
    if not carry.traces:
        return [carry.state]
    (traces,) = carry.traces
    return [carry.state, traces.weight[traces.streams], traces.vectors[traces.streams]]


@pytest.mark.parametrize("gradient", ["rtrl", "tbptt"])
def test_the_carry_after_a_long_rollout_is_that_after_its_parts(gradient: str) -> None:
    stream = make_stream()
    long, short = still(gradient=gradient), still(gradient=gradient)
    long.update(stream.cut(0, 12, 0))
    for rollout in stream.cuts(5, 1, 6):
        short.update(rollout)
    expected = carries(long, 1)
    close(carries(short, 3), expected)
    assert all(tensor.abs().sum() > 0 for tensor in expected)


@pytest.mark.parametrize("sequence", [0, 2], ids=["restarted", "lost"])
def test_after_a_gap_a_rollout_is_learned_from_as_by_tbptt_from_the_shipped_cell(sequence: int) -> None:
    stream = make_stream(resets=0.0)
    first, second, third = stream.cuts(4, 4, 4)
    learner = still()
    learner.update(first)
    # Stream 1 shows a gap, the others go on.
    numbers = np.array([1, sequence, 1])
    learner.update(replace(second, sequence=numbers))
    assert learner.carries.resets == 1
    mixed = gradients(learner)

    whole, truncated = still(), still(gradient="tbptt")
    whole.update(first)
    whole.update(second.columns(0, 1))
    expected = gradients(whole)
    whole.update(second.columns(2, 3))
    expected = [kept + new for kept, new in zip(expected, gradients(whole), strict=True)]
    truncated.update(replace(second.columns(1, 2), sequence=np.array([7])))
    close(mixed, [kept + new for kept, new in zip(expected, gradients(truncated), strict=True)])
    # And it is whole again: the next rollout is no gap.
    learner.update(replace(third, sequence=numbers + 1))
    assert learner.carries.resets == 1


def test_the_rollout_stays_as_it_is_and_may_be_read_only() -> None:
    rollout, kept = make_stream().cut(0, 6, 0), make_stream().cut(0, 6, 0)
    for array in rollout.arrays().values():
        array.setflags(write=False)
    make_learner().update(rollout)
    for name, array in kept.arrays().items():
        np.testing.assert_array_equal(getattr(rollout, name), array)


def test_a_frozen_encoder_stays_as_it_is() -> None:
    agent = make_learner(encoder="mlp").agent
    agent.freeze_encoder()
    learner = Learner(agent, LearnerConfig(), 3, 10**6)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    for rollout in make_stream().cuts(6, 6):
        learner.update(rollout)
    for name, tensor in agent.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("encoder.")


@pytest.mark.parametrize("gradient", ["rtrl", "tbptt"])
@pytest.mark.parametrize("optimiser", ["rmsprop", "adam"])
def test_no_part_of_an_update_asks_for_a_number(gradient: str, optimiser: str) -> None:
    """Tensors without numbers stand for a device that has not yet computed them: whoever waits for one, fails."""
    with FakeTensorMode():
        config = AgentConfig(gradient, hidden_size=HIDDEN, normalise_rewards=True)  # type: ignore[arg-type]
        agent = Agent(ObservationSpec((3, 16, 16), DiscreteActions(ACTIONS)), config)
        learner = Learner(agent, LearnerConfig(optimiser=optimiser), 3, 10**6)  # type: ignore[arg-type]
        rollout = replace(
            with_time_limits(make_stream()).cut(0, 6, 0),
            observation=np.zeros((7, 3, 3, 16, 16), dtype=np.uint8),
            final_observation=np.zeros((6, 3, 3, 16, 16), dtype=np.uint8),
        )
        numbers = {**rollout.arrays(), "gap": np.zeros(3, dtype=bool)}
        inputs = {
            name: torch.empty(array.shape, dtype=torch.from_numpy(np.zeros(1, array.dtype)).dtype)
            for name, array in numbers.items()
        }
        learner.device = torch.device("cuda")
        metrics = learner._step(inputs)
        with pytest.raises(DataDependentOutputException):
            metrics["loss/total"].item()
