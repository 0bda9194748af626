"""The running returns by whose deviation rewards are normalised."""

import numpy as np
import torch

from r2ac.learner import Rollout
from r2ac.learner.returns import DiscountedReturns

STREAMS, DISCOUNT = 4, 0.9


def make_batch(reward: np.ndarray, is_first: np.ndarray, streams: np.ndarray) -> Rollout[torch.Tensor]:
    """Of what the returns read; all else is left out."""
    nothing = torch.empty(0)
    return Rollout(
        observation=nothing,
        reward=torch.from_numpy(reward),
        is_first=torch.from_numpy(is_first),
        action=nothing,
        behaviour_logits=nothing,
        first_state=nothing,
        stream=torch.from_numpy(streams),
        sequence=nothing,
        weights_version=nothing,
    )


def test_returns_are_summed_from_each_episodes_first_step_across_rollouts() -> None:
    """Against a loop over steps; batches hold some of the streams, in any order, and rollouts of any length."""
    rng = np.random.default_rng(0)
    returns = DiscountedReturns(STREAMS, DISCOUNT, torch.device("cpu"))
    running, lost_at = np.zeros(STREAMS), 7
    for number in range(20):
        streams = rng.permutation(STREAMS)[: rng.integers(1, STREAMS + 1)]
        steps = int(rng.integers(1, 6))
        reward = rng.normal(5, 3, (steps + 1, len(streams))).astype(np.float32)
        is_first = rng.random((steps + 1, len(streams))) < 0.2
        gap = np.arange(len(streams)) == (0 if number == lost_at else -1)
        running[streams[gap]] = 0
        expected = np.zeros((steps, len(streams)))
        for t in range(steps):
            before = np.where(is_first[t], 0, running[streams])
            expected[t] = running[streams] = reward[t + 1] + DISCOUNT * before
        found = returns.advance(make_batch(reward, is_first, streams), torch.from_numpy(gap))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_reward_that_is_not_finite_counts_as_nothing() -> None:
    returns = DiscountedReturns(1, DISCOUNT, torch.device("cpu"))
    reward = np.array([0, 1, np.nan, np.inf, 1], dtype=np.float32)[:, None]
    batch = make_batch(reward, np.zeros((5, 1), dtype=bool), np.array([0]))
    found = returns.advance(batch, torch.zeros(1, dtype=torch.bool))
    np.testing.assert_allclose(found[:, 0], [1, 0.9, 0.81, 1 + 0.9 * 0.81], rtol=1e-6)
