from __future__ import annotations

import math

import pytest
import torch

from r2ac.agents import DiscreteActions
from r2ac.learner.algorithms.losses import (
    baseline_loss,
    clipped_policy_loss,
    policy_gradient_loss,
)


def draw_policy(length: int = 5, batch: int = 3, num_actions: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(length, batch, num_actions, generator=generator, dtype=torch.float64)
    action = torch.randint(num_actions, (length, batch), generator=generator)
    return logits, action


def test_policy_gradient_loss_by_hand() -> None:
    log_prob = torch.tensor([[0.5, 0.25], [0.1, 0.2]]).log()
    advantage = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    expected = -(2 * math.log(0.5) - math.log(0.25) + 3 * math.log(0.2))
    assert float(policy_gradient_loss(log_prob, advantage)) == pytest.approx(expected)


def test_policy_gradient_is_advantage_times_softmax_minus_one_hot() -> None:
    logits, action = draw_policy()
    logits.requires_grad_()
    advantage = torch.linspace(-1, 2, action.numel(), dtype=torch.float64).view_as(action).requires_grad_()
    policy_gradient_loss(DiscreteActions(4).log_prob(logits, action), advantage).backward()
    one_hot = torch.nn.functional.one_hot(action, logits.shape[-1])
    torch.testing.assert_close(logits.grad, (advantage.unsqueeze(-1) * (logits.softmax(-1) - one_hot)).detach())
    assert advantage.grad is None


def test_the_clipped_policy_loss_by_hand() -> None:
    log_ratio = torch.tensor([[1.5, 1.5], [0.5, 0.5], [1.1, 0.9]]).log().requires_grad_()
    advantage = torch.tensor([[2.0, -2.0], [2.0, -2.0], [1.0, 1.0]], requires_grad=True)
    loss, clipped = clipped_policy_loss(log_ratio, advantage, torch.tensor(0.2))
    # What has already gone too far in the direction that the advantage wants stops at the clip; the way back is open.
    assert float(loss.detach()) == pytest.approx(-(1.2 * 2 - 1.5 * 2 + 0.5 * 2 - 0.8 * 2 + 1.1 + 0.9))
    assert float(clipped) == 4
    loss.backward()
    torch.testing.assert_close(log_ratio.grad, torch.tensor([[0.0, 3.0], [-1.0, 0.0], [-1.1, -0.9]]))
    assert advantage.grad is None


def test_baseline_loss_and_its_gradient_by_hand() -> None:
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    target = torch.tensor([[1.5, 2.0], [1.0, 5.0]], requires_grad=True)
    loss = baseline_loss(value, target)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (0.25 + 0.0 + 4.0 + 1.0))
    torch.testing.assert_close(value.grad, torch.tensor([[-0.5, 0.0], [2.0, -1.0]]))
    assert target.grad is None


def test_refuse_shapes_that_would_broadcast() -> None:
    logits, action = draw_policy(length=5, batch=3)
    log_prob = DiscreteActions(4).log_prob(logits, action)
    with pytest.raises(ValueError, match=r"advantage must be \[5, 3\] to match log_prob, got \[5, 3, 1\]"):
        policy_gradient_loss(log_prob, log_prob.unsqueeze(-1))
    with pytest.raises(ValueError, match=r"target must be \[5, 3\] to match value, got \[3\]"):
        baseline_loss(log_prob, log_prob[0])
