"""What agent and losses make of rewards."""

from typing import Any

import numpy as np
import pytest
import torch

from r2ac.agents.rewards import RewardTransform


@pytest.mark.parametrize(
    ("clip", "expected"), [(1.0, [-1.0, 0.5, 1.0]), (2.5, [-2.5, 0.5, 2.5]), ("none", [-3.0, 0.5, 100.0])]
)
def test_rewards_are_clipped_to_the_bound(clip: Any, expected: list[float]) -> None:
    transform = RewardTransform(clip, normalise=False)
    assert transform(torch.tensor([-3.0, 0.5, 100.0])).tolist() == expected
    assert not transform.state_dict(), "checkpoints from before still fit"


def sums_of(returns: np.ndarray) -> torch.Tensor:
    return torch.tensor([returns.size, returns.sum(), np.square(returns).sum()], dtype=torch.float64)


def test_rewards_are_divided_by_the_deviation_of_all_returns_and_then_clipped() -> None:
    """Returns in parts of different sizes, far from zero."""
    returns = np.random.default_rng(0).normal(-40, 6, 5000)
    transform = RewardTransform(2.0, normalise=True)
    assert transform(torch.tensor([1.5])).tolist() == [1.5], "as it is before the first return"
    for part in np.split(returns, [10, 300, 301, 4000]):
        transform.observe(sums_of(part))
    # The variance of 1 at the start counts for a ten thousandth of a return.
    assert transform.moments.tolist() == pytest.approx([5000, returns.mean(), returns.var()], rel=1e-4)
    found = transform(torch.tensor([3.0, -6.0, 1000.0]))
    np.testing.assert_allclose(found, [3 / returns.std(), -6 / returns.std(), 2.0], rtol=1e-4)


def test_returns_that_do_not_vary_give_a_finite_scale() -> None:
    transform = RewardTransform("none", normalise=True)
    for _ in range(100):
        transform.observe(sums_of(np.full(64, 7.0)))
    assert torch.isfinite(transform(torch.tensor([1.0]))).all()


def test_the_deviation_is_a_parameter_that_nothing_trains() -> None:
    """It travels with the weights; the moments behind it stay with the learner and its checkpoints."""
    transform = RewardTransform(10.0, normalise=True)
    assert [(name, each.requires_grad) for name, each in transform.named_parameters()] == [("deviation", False)]
    assert list(transform.state_dict()) == ["deviation", "moments"]
