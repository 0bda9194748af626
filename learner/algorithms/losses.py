"""Parts of the actor-critic loss, each summed over steps and streams (Espeholt et al. 2018, section 4.2).

    loss = policy_gradient_loss + baseline_cost * baseline_loss - entropy_cost * entropy

with baseline_cost 0.5 and entropy_cost 0.01 in Irie et al. 2024; the entropy is the policy's (`r2ac.agents.actions`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def policy_gradient_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """- sum_t,b advantage log pi(a), a scalar, of two [T, B]; no gradient passes through the advantage.

    Raises:
        ValueError: when the shapes differ.
    """
    _check_same_shape("advantage", advantage, "log_prob", log_prob)
    return -(log_prob * advantage.detach()).sum()


def clipped_policy_loss(log_ratio: Tensor, advantage: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """PPO's policy loss, a scalar, and the number of steps whose ratio r = pi(a) / pi_old(a) was clipped.

        - sum_t,b min(r advantage, clamp(r, 1 - clip, 1 + clip) advantage)

    of two [T, B] and a scalar (Schulman et al. 2017, equation 7); no gradient passes through the advantage.

    Raises:
        ValueError: when the shapes differ.
    """
    _check_same_shape("advantage", advantage, "log_ratio", log_ratio)
    ratio, advantage = log_ratio.exp(), advantage.detach()
    clipped = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).sum()
    return loss, ((ratio - 1).abs() > clip).to(ratio.dtype).sum()


def baseline_loss(value: Tensor, target: Tensor) -> Tensor:
    """0.5 sum_t,b (target - value)^2, a scalar, of two [T, B]; no gradient passes through the target.

    Raises:
        ValueError: when the shapes differ.
    """
    _check_same_shape("target", target, "value", value)
    return 0.5 * (target.detach() - value).square().sum()


def _check_same_shape(name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    # Without this, a stray dimension of size 1 would broadcast into a loss over T * T or B * B pairs.
    if tensor.shape != like.shape:
        raise ValueError(f"{name} must be {list(like.shape)} to match {like_name}, got {list(tensor.shape)}")
