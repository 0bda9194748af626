"""Updates with other rewards than the paper's, and with time limits that do not end the return: against the plain
transcription of the losses, in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.learner.test_learner import close, gradients, make_stream, plain_loss, still, with_time_limits


@pytest.mark.parametrize(("clip", "bound"), [(1.0, 1.0), (3.0, 3.0), ("none", np.inf)])
@pytest.mark.parametrize("limited", [False, True])
def test_losses_with_other_bounds_and_with_returns_that_time_limits_do_not_end(
    clip: Any, bound: float, limited: bool
) -> None:
    stream, lengths = make_stream(resets=0.3), (5, 7)
    if limited:
        stream = with_time_limits(stream)
        assert stream.truncated is not None
        assert 3 < stream.truncated.sum() < stream.is_first[1:].sum() - 3
    learner = still(rewards={"reward_clip": clip})
    expected = plain_loss(learner.agent, stream, lengths, learner.config, bound)
    found = []
    for rollout in stream.cuts(*lengths):
        metrics = learner.update(rollout)
        found.append([metrics[f"loss/{name}"].item() for name in ("total", "policy", "baseline")])
    for measured, losses, length in zip(found, expected, lengths, strict=True):
        of_all = [losses[name].item() / (length * 3) for name in ("total", "policy", "baseline")]
        assert measured == pytest.approx(of_all, rel=1e-10)


def test_gradients_do_not_flow_through_the_values_of_final_observations() -> None:
    stream, learner = with_time_limits(make_stream(resets=0.3)), still()
    learner.update(stream.cut(0, 12, 0))
    total = plain_loss(learner.agent, stream, [12], learner.config)[0]["total"]
    close(gradients(learner), torch.autograd.grad(total, learner.parameters))


def test_normalised_rewards_are_those_divided_by_the_deviation_of_the_returns_up_to_now() -> None:
    """In the losses and in the core's input."""
    stream = make_stream()
    parts, whole = (still(rewards={"normalise_rewards": True, "reward_clip": 2.0}) for _ in range(2))
    running, returns = np.zeros(3), []
    for t in range(12):
        running = stream.reward[t + 1] + 0.99 * np.where(stream.is_first[t], 0, running)
        returns.append(running)
    for rollout, stop in zip(stream.cuts(5, 7), (5, 12), strict=True):
        parts.update(rollout)
        assert parts.read_metrics()["learner/reward_deviation"] == pytest.approx(np.std(returns[:stop]), rel=1e-4)
    # An update learns by the deviation that the actors had: that of the batches before.
    stream.is_first[0] = True
    scale = 1.0
    for sequence in (0, 5):
        metrics = whole.update(stream.cut(0, 12, sequence))
        expected = plain_loss(whole.agent, stream, [12], whole.config, 2.0, scale)[0]
        assert metrics["loss/total"].item() == pytest.approx(expected["total"].item() / 36, rel=1e-6)
        scale = whole.read_metrics()["learner/reward_deviation"]
        assert scale == pytest.approx(np.std(returns), rel=1e-3)


@pytest.mark.parametrize("limited", [False, True])
def test_a_value_of_100_stays_where_each_step_pays_1_and_a_time_limit_does_not_end_the_return(limited: bool) -> None:
    """1 / (1 - 0.99) is the value of a task that goes on for ever; where a time limit of 4 steps is an end, it is less
    than 4."""
    learner = still(rewards={"reward_clip": "none"})
    with torch.no_grad():
        learner.agent.value.weight.zero_()
        learner.agent.value.bias.fill_(100.0)
    ends = np.tile((np.arange(13) % 4 == 0)[:, None], (1, 3))
    stream = replace(make_stream(), reward=np.ones((13, 3), dtype=np.float32), is_first=ends)
    if limited:
        stream = replace(stream, truncated=ends[1:], final_observation=stream.observation[1:])
    metrics = learner.update(stream.cut(0, 12, 0))
    if limited:
        assert metrics["loss/baseline"].item() < 1e-20
        assert abs(metrics["loss/policy"].item()) < 1e-10
    else:
        assert metrics["loss/baseline"].item() > 0.5 * 50**2
