"""PPO: its losses against a transcription, and its gradients and traces against full BPTT, in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r2ac.agents import Carry
from r2ac.learner import Learner, LearnerConfig, Rollout
from r2ac.learner.algorithms.ppo import PPO, Targets, clipped_losses, normalised, targets_of
from r2ac.learner.collective import SingleLearner
from tests.learner.test_learner import Stream, close, gradients, make_learner, make_stream, weights, with_time_limits

PLAIN: dict[str, Any] = {"algorithm": "ppo", "normalise_advantage": False, "max_gradient_norm": 1e9}


def on_policy(learner: Learner, stream: Stream, *lengths: int) -> list[Rollout[np.ndarray]]:
    """Rollouts of a stream that the learner's agent, as it is now, acted in: with its states and its logits."""
    agent, state, cut = learner.agent, torch.zeros(stream.action.shape[1], 5, dtype=torch.float64), []
    for rollout in stream.cuts(*lengths):
        first_state, logits = state, []
        for t in range(rollout.length):
            shown = (torch.from_numpy(array[t]) for array in (rollout.observation, rollout.reward, rollout.is_first))
            output = agent.step(*shown, state)
            state = output.state
            logits.append(output.logits)
        cut.append(replace(rollout, first_state=first_state.numpy(), behaviour_logits=torch.stack(logits).numpy()))
    return cut


def traces_of(learner: Learner) -> list[Tensor]:
    streams = torch.arange(len(learner.carries.next_sequence))
    carry = learner.carries.fetch(streams, torch.zeros(len(streams), dtype=torch.bool), torch.zeros(len(streams), 5))
    learner.carries.store(streams, carry, torch.tensor(True))
    return [carry.traces[0].weight.clone(), carry.traces[0].vectors.clone()]


@pytest.mark.parametrize("limits", [False, True])
@pytest.mark.parametrize("gradient", ["rtrl", "tbptt"])
def test_one_epoch_without_a_clip_is_the_actor_critics_gradient(gradient: str, limits: bool) -> None:
    stream = with_time_limits(make_stream()) if limits else make_stream()
    common: dict[str, Any] = {"gradient": gradient, "learning_rate": 0.0, "max_gradient_norm": 1e9}
    other = make_learner(**common)
    ppo = make_learner(**common, algorithm="ppo", normalise_advantage=False, n_epochs=1, gae_lambda=1.0, clip_range=1e9)
    first, lost, third, fourth = on_policy(ppo, stream, 4, 2, 3, 3)
    # The second rollout of the last stream is missing: after the gap it begins again.
    gap = np.where(np.arange(3) == 2, third.sequence + 1, third.sequence)
    third, fourth = replace(third, sequence=gap), replace(fourth, sequence=gap + 1)
    for rollout in (first, lost, third, fourth):
        ppo.update(rollout)
        other.update(rollout)
        close(gradients(ppo), [gradient / rollout.action.size for gradient in gradients(other)])
    assert ppo.carries.resets == 1
    if gradient == "rtrl":
        close(traces_of(ppo), traces_of(other))


@pytest.mark.parametrize("num_minibatches", [1, 3])
def test_every_epoch_has_the_boundary_term_and_the_last_one_advances_the_traces(num_minibatches: int) -> None:
    stream = make_stream()
    settings = PLAIN | {"learning_rate": 0.0, "n_epochs": 3, "num_minibatches": num_minibatches}
    learner, once = make_learner(**settings), make_learner(**settings | {"n_epochs": 1})
    found: list[list[Tensor]] = []
    apply = learner.apply
    learner.apply = lambda *arguments: (found.append(gradients(learner)), apply(*arguments))[1]  # type: ignore[method-assign, func-returns-value]
    for rollout in on_policy(learner, stream, 4, 5, 3):
        found.clear()
        learner.update(rollout)
        once.update(rollout)
        assert len(found) == 3 * num_minibatches
        epochs = [
            [torch.stack(parts).mean(0) for parts in zip(*found[i : i + num_minibatches], strict=True)]
            for i in range(0, len(found), num_minibatches)
        ]
        close(epochs[1], epochs[0])
        close(epochs[2], epochs[0])
        close(traces_of(learner), traces_of(once))
    assert max(trace.abs().max() for trace in traces_of(learner)) > 0.1


def test_the_gradient_of_a_late_rollout_is_full_bptts() -> None:
    stream = make_stream()
    learner = make_learner(**PLAIN, learning_rate=0.0, n_epochs=2)
    rollouts = on_policy(learner, stream, 4, 5, 3)
    for rollout in rollouts:
        learner.update(rollout)
    agent, config = learner.agent, learner.config
    whole = rollouts[2]
    x = [
        torch.from_numpy(np.concatenate([getattr(each, name)[: each.length] for each in rollouts[:2]]))
        for name in ("observation", "reward", "is_first")
    ]
    # The states of the first two rollouts, by a carry without traces and with the gradient through all of it.
    inputs = agent.core_input(*x, None)
    before = agent.core.truncated_states(inputs, torch.zeros(3, 5, dtype=torch.float64), x[2])[-1]
    last = [torch.from_numpy(getattr(whole, name)) for name in ("observation", "reward", "is_first")]
    inputs = agent.core_input(*(each[:3] for each in last), None)
    states = agent.core.truncated_states(inputs, before, last[2][:3])
    h = agent.core._read(inputs, states)
    batch = Rollout(**{name: torch.from_numpy(array) for name, array in whole.arrays().items()})
    (traces,) = agent.core.initial_carry(3, dtype=torch.float64).traces
    with torch.no_grad():
        output = agent(
            carry=Carry(before.detach(), (replace(traces, streams=torch.arange(3), advance=False),)),
            **batch.inputs(),
        )
    targets = targets_of(output, batch, config)
    output = replace(output, logits=agent.policy(h), values=agent.value(h).squeeze(-1))
    losses = clipped_losses(output, batch, targets, config, torch.ones((), dtype=torch.float64))
    found = gradients(learner)
    agent.zero_grad()
    losses.backward(1 / whole.action.size)
    close(found, gradients(learner))


def test_the_losses_are_those_of_the_paper() -> None:
    linear: Any = dict.fromkeys(("clip_schedule", "entropy_schedule"), "linear")
    costs: Any = {"entropy_cost": 0.3, "baseline_cost": 0.7}
    config = LearnerConfig(algorithm="ppo", clip_range=0.2, clip_range_vf=0.1, **costs, **linear)
    learner = make_learner(**PLAIN)
    (rollout,) = on_policy(learner, make_stream(), 12)
    rng = np.random.default_rng(0)
    batch = Rollout(**{name: torch.from_numpy(array) for name, array in rollout.arrays().items()})
    batch = replace(batch, behaviour_logits=torch.from_numpy(rng.normal(size=batch.behaviour_logits.shape)))
    output = learner.agent(carry=learner.agent.core.initial_carry(3, dtype=torch.float64), **batch.inputs())
    advantage, returns, old = (torch.from_numpy(rng.normal(size=(12, 3))) for _ in range(3))
    share = torch.tensor(0.5, dtype=torch.float64)
    losses = clipped_losses(output, batch, Targets(advantage, returns, old), config, share)
    policy = value = entropy = kl = 0.0
    for t in range(12):
        for b in range(3):
            log_pi, log_old = output.logits[t, b].log_softmax(-1), batch.behaviour_logits[t, b].log_softmax(-1)
            action = int(batch.action[t, b])
            ratio = (log_pi[action] - log_old[action]).exp().item()
            gain = advantage[t, b].item()
            policy -= min(ratio * gain, min(max(ratio, 0.9), 1.1) * gain)
            moved = old[t, b].item() + min(max(output.values[t, b].item() - old[t, b].item(), -0.05), 0.05)
            value += 0.5 * (returns[t, b].item() - moved) ** 2
            entropy -= (log_pi.exp() * log_pi).sum().item()
            kl += ratio - 1 - np.log(ratio)
    assert losses.total.item() == pytest.approx(policy + 0.7 * value - 0.5 * 0.3 * entropy)
    assert losses.parts["loss/approx_kl"].item() == pytest.approx(kl)
    assert 0 < losses.parts["loss/clip_fraction"].item() < 36


def test_advantages_are_normalised_over_the_batch() -> None:
    advantage = 5 + 3 * torch.randn(7, 4, dtype=torch.float64)
    expected = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    torch.testing.assert_close(normalised(advantage, SingleLearner()), expected)


def test_no_step_follows_once_the_policy_is_too_far_and_the_traces_still_cross_the_rollout() -> None:
    settings = PLAIN | {"optimiser": "sgd", "n_epochs": 6, "learning_rate": 0.5}
    stopped, once = make_learner(**settings, target_kl=1e-6), make_learner(**settings | {"n_epochs": 1})
    free = make_learner(**settings)
    first, second = on_policy(stopped, make_stream(), 6, 6)
    for learner in (stopped, once, free):
        learner.update(first)
    # The first step is free: the ratio is one before it.
    close(weights(stopped), weights(once), relative=0.0)
    assert not any(map(torch.equal, weights(stopped), weights(free)))
    assert stopped.read_metrics()["learner/steps"] == 1.0
    assert free.read_metrics()["learner/steps"] == 6.0
    # They crossed it at the weights after the step, where one epoch takes them across before it.
    at_rest = make_learner(**settings | {"n_epochs": 1, "learning_rate": 0.0})
    at_rest.agent.load_state_dict(stopped.agent.state_dict())
    at_rest.update(first)
    close(traces_of(stopped), traces_of(at_rest))
    stopped.update(second)
    assert stopped.carries.resets == 0


def test_an_update_that_is_not_finite_changes_no_weight() -> None:
    learner = make_learner(**PLAIN, n_epochs=2, learning_rate=0.1)
    first, second, third = on_policy(learner, make_stream(), 4, 4, 4)
    learner.update(first)
    before = weights(learner)
    second.reward[2, 1] = np.nan
    learner.update(second)
    close(weights(learner), before, relative=0.0)
    assert (learner.skipped_updates, learner.updates) == (1, 2)
    learner.update(third)
    assert learner.carries.resets == 3
    assert all(tensor.isfinite().all() for tensor in traces_of(learner))


def test_the_clip_falls_with_the_schedule() -> None:
    settings = PLAIN | {"optimiser": "sgd", "learning_rate": 0.5, "learning_rate_schedule": "constant", "n_epochs": 4}
    learner = make_learner(**settings, clip_schedule="linear", total_steps=36)
    constant = make_learner(**settings, total_steps=36)
    late = make_learner(**settings, clip_range=0.1, total_steps=36)
    stream = make_stream()
    (rollout,) = on_policy(learner, stream, 6)
    for each in (learner, constant, late):
        each.env_steps = 18
        each.update(rollout)
    close(weights(learner), weights(late), relative=1e-6)
    assert not any(map(torch.equal, weights(learner), weights(constant)))


def test_the_names_of_its_metrics() -> None:
    learner = make_learner(**PLAIN)
    (rollout,) = on_policy(learner, make_stream(), 6)
    learner.update(rollout)
    assert {"loss/total", *PPO.metrics, "loss/gradient_norm"} <= learner.read_metrics().keys()


@pytest.mark.parametrize("normalise", [{"normalise_rewards": True}, {"normalise_observations": True}])
def test_the_ratio_is_one_in_the_first_pass(normalise: dict[str, bool]) -> None:
    learner = make_learner(**PLAIN, rewards=normalise, n_epochs=1, learning_rate=0.1, rtrl_metrics_every=0)
    stream = make_stream()
    for number in range(3):
        # Each is played with the weights, and the scales, that the update before has left.
        rollout = on_policy(learner, stream, 4, 4, 4)[number]
        learner.update(rollout)
        assert learner.read_metrics()["loss/approx_kl"] < 1e-12


def test_a_minibatch_that_is_not_finite_costs_its_own_step_and_streams() -> None:
    learner = make_learner(**PLAIN, n_epochs=2, num_minibatches=3, learning_rate=0.01)
    first, second, third = on_policy(learner, make_stream(resets=0.0), 4, 4, 4)
    learner.update(first)
    before = weights(learner)
    second.reward[2, 1] = np.nan
    learner.update(second)
    assert not any(map(torch.equal, weights(learner), before))
    assert all(weight.isfinite().all() for weight in weights(learner))
    assert learner.skipped_updates == 0
    metrics = learner.read_metrics()
    assert np.isfinite(list(metrics.values())).all()
    third.reward[:] = 0
    learner.update(third)
    assert learner.carries.resets == 1
    assert all(tensor.isfinite().all() for tensor in traces_of(learner))


def test_a_single_advantage_is_not_normalised() -> None:
    advantage = torch.tensor([[3.0]])
    assert torch.equal(normalised(advantage, SingleLearner()), advantage)


def test_the_values_of_final_observations_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = with_time_limits(make_stream())
    learner = make_learner(**PLAIN, n_epochs=4, learning_rate=0.0)
    calls = []
    final_values = learner.agent._final_values
    monkeypatch.setattr(learner.agent, "_final_values", lambda *given: (calls.append(1), final_values(*given))[1])
    for rollout in on_policy(learner, stream, 6, 6):
        learner.update(rollout)
    assert len(calls) == 2
