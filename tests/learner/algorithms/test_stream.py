"""The online actor-critic and TD: their traces against the forward view by full BPTT, in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r2ac.agents import ClosedForm, OnlineAgent
from r2ac.learner import Learner
from tests.learner.algorithms.test_ppo import on_policy
from tests.learner.test_learner import Stream, close, make_learner, make_stream, weights, with_time_limits

STEPS, LAMBDA, DISCOUNT = 10, 0.7, 0.9
STILL: dict[str, Any] = {
    "discount": DISCOUNT,
    "trace_lambda": LAMBDA,
    "learning_rate": 0.0,
    "step_bound": 0.0,
    "max_gradient_norm": 1e9,
    "baseline_cost": 0.6,
    "entropy_cost": 0.0,
}


def parameter_gradients(learner: Learner) -> list[Tensor]:
    return [torch.zeros_like(each) if each.grad is None else each.grad.clone() for each in learner.parameters]


def forward_view(learner: Learner, stream: Stream, prediction: bool) -> list[Tensor]:
    """- sum_t (G_t^lambda - V_t) grad (log pi(a_t) + c V_t), the mean over streams, with the gradient through the whole
    stream. The last rollout's value is the bootstrap."""
    agent, batch = learner.agent, stream.action.shape[1]
    shown = [torch.from_numpy(array) for array in (stream.observation, stream.reward, stream.is_first)]
    state, log_probs, values, finals = torch.zeros(batch, 5, dtype=torch.float64), [], [], []
    for t in range(STEPS + 1):
        output = agent.transition(*(each[t] for each in shown), state)
        if stream.final_observation is not None and t < STEPS:
            final = torch.from_numpy(stream.final_observation[t])
            never = torch.zeros(batch, dtype=torch.bool)
            finals.append(agent.step(final, shown[1][t + 1], never, output.state).value)
        state = output.state
        values.append(output.value)
        if t < STEPS:
            action = torch.from_numpy(stream.action[t])
            log_probs.append(output.logits.log_softmax(-1).gather(1, action[:, None])[:, 0])
    total = torch.zeros((), dtype=torch.float64)
    for b in range(batch):
        ahead = values[STEPS][b].item()
        for t in reversed(range(STEPS)):
            reward = float(np.clip(stream.reward[t + 1, b], -1, 1))
            following = values[t + 1][b].item()
            if stream.is_first[t + 1, b]:
                cut = stream.truncated is not None and stream.truncated[t, b]
                ahead = following = finals[t][b].item() if cut else 0.0
            ahead = reward + DISCOUNT * ((1 - LAMBDA) * following + LAMBDA * ahead)
            wanted = values[t][b] if prediction else log_probs[t][b] + 0.6 * values[t][b]
            total = total - (ahead - values[t][b].item()) * wanted / batch
    found = torch.autograd.grad(total, learner.parameters, allow_unused=True)
    return [
        torch.zeros_like(own) if each is None else each for own, each in zip(learner.parameters, found, strict=True)
    ]


@pytest.mark.parametrize("algorithm", ["stream", "td"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("limits", [False, True])
@pytest.mark.parametrize("way", ["autograd", "closed form", "kernel"])
def test_the_steps_sum_up_to_those_of_the_forward_view(
    algorithm: str, batch: int, limits: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "kernel":
        monkeypatch.setattr(ClosedForm, "fits", lambda agent: way == "closed form")
        monkeypatch.setattr(OnlineAgent, "fits", lambda agent: False)
    stream = make_stream(STEPS, batch, seed=4)
    if limits:
        stream = with_time_limits(stream)
        # The double of a rollout has numbers where no episode was cut.
        assert stream.final_observation is not None
        stream = replace(stream, final_observation=np.nan_to_num(stream.final_observation))
    learner = make_learner(batch, algorithm=algorithm, **STILL)
    total = [torch.zeros_like(each) for each in learner.parameters]
    for rollout in on_policy(learner, stream, *[1] * STEPS):
        learner.update(rollout)
        total = [sum_ + each for sum_, each in zip(total, parameter_gradients(learner), strict=True)]
    close(total, forward_view(learner, stream, prediction=algorithm == "td"), relative=1e-8)


def test_an_episodes_end_empties_the_traces_of_its_stream_alone() -> None:
    stream = make_stream(4, 2, resets=0.0)
    stream.is_first[2, 1] = True
    learner = make_learner(2, algorithm="stream", **STILL)
    fresh = make_learner(1, algorithm="stream", **STILL)
    rollouts = on_policy(learner, stream, 1, 1, 1)
    for rollout in rollouts:
        learner.update(rollout)
    alone = rollouts[2].columns(1, 2)
    fresh.update(replace(alone, stream=np.array([0]), sequence=np.array([0])))
    (z,), (begun,) = ([each.algorithm.traces[0]] for each in (learner, fresh))
    close([z[1]], [begun[0]])
    assert not torch.allclose(z[0], z[1])


def test_the_bounded_step_never_overshoots() -> None:
    settings = STILL | {"optimiser": "sgd", "learning_rate": 50.0, "learning_rate_schedule": "constant"}
    free, bound = (make_learner(1, algorithm="td", **settings | {"step_bound": kappa}) for kappa in (0.0, 2.0))
    stream = make_stream(1, 1, resets=0.0)
    errors = []
    for learner in (free, bound):
        (rollout,) = on_policy(learner, stream, 1)
        before = learner.update(rollout)["loss/td_error"]
        again = replace(rollout, sequence=rollout.sequence + 5)
        after = learner.update(again)["loss/td_error"]
        errors.append((float(before), float(after)))
    assert errors[0][1] > errors[0][0]
    assert errors[1][1] < errors[1][0]
    assert free.read_metrics()["learner/step_scale"] == 1.0
    assert bound.read_metrics()["learner/step_scale"] < 1.0


def test_the_bound_is_that_of_the_paper() -> None:
    settings = STILL | {"optimiser": "sgd", "learning_rate": 0.5, "learning_rate_schedule": "constant"}
    free, bound = (make_learner(1, algorithm="stream", **settings | {"step_bound": kappa}) for kappa in (0.0, 3.0))
    (rollout,) = on_policy(free, make_stream(1, 1, resets=0.0), 1)
    start = weights(free)
    for learner in (free, bound):
        metrics = learner.update(rollout)
    error = float(metrics["loss/td_error"])
    whole = [after - before for after, before in zip(weights(free), start, strict=True)]
    # alpha delta z of the first step; its trace is the gradient.
    size = sum(float(step.abs().sum()) for step in whole) / (0.5 * error)
    share = 1 / max(1.0, 0.5 * 3.0 * max(error, 1.0) * size)
    close(
        [after - before for after, before in zip(weights(bound), start, strict=True)], [step * share for step in whole]
    )


def test_an_update_that_is_not_finite_is_skipped_and_forgotten() -> None:
    learner = make_learner(2, algorithm="stream", **STILL | {"learning_rate": 0.1, "step_bound": 2.0})
    rollouts = on_policy(learner, make_stream(4, 2), 1, 1, 1, 1)
    learner.update(rollouts[0])
    before = weights(learner)
    rollouts[1].reward[1, 0] = np.nan
    learner.update(rollouts[1])
    close(weights(learner), before, relative=0.0)
    for rollout in rollouts[2:]:
        learner.update(rollout)
    # The reward is also what the core reads in the next step.
    assert learner.skipped_updates == 2
    assert all(each.isfinite().all() for each in weights(learner))
    assert not any(map(torch.equal, weights(learner), before))


def test_td_leaves_the_policy_uniform() -> None:
    learner = make_learner(2, algorithm="td", **STILL | {"learning_rate": 0.1, "step_bound": 2.0})
    for rollout in on_policy(learner, make_stream(4, 2), 1, 1, 1, 1):
        learner.update(rollout)
        assert not rollout.behaviour_logits.any()
    assert not any(parameter.any() for parameter in learner.agent.policy.parameters())


def test_rollouts_of_more_than_one_step_are_refused() -> None:
    with pytest.raises(ValueError, match="rollout_length must be 1, not 4"):
        make_learner(3, algorithm="stream").update(make_stream().cut(0, 4, 0))
