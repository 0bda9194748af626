"""Rewards as the agent and its losses take them: scaled by a running deviation, and clipped."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from r2ac.agents.moments import fresh_moments, merged


class RewardTransform(nn.Module):
    """clip(r / deviation, -bound, bound): where the rewards are not to be normalised the deviation is 1, and where they
    are not to be clipped the bound is infinite.

    The deviation is that of the discounted return over all that was learned from, as in Gymnasium's `NormalizeReward`
    (Engstrom et al. 2020, "Implementation matters in deep policy gradients", section 3). No mean is subtracted, so that
    the sign of a reward stays.
    """

    moments: Tensor
    """Number, mean and variance of the returns seen, [3] float64; there only where rewards are normalised."""

    def __init__(self, clip: float | Literal["none"], normalise: bool) -> None:
        super().__init__()
        self.clip = clip
        self.deviation: nn.Parameter | None = None
        """A scalar; None where rewards are not normalised."""
        if normalise:
            # A parameter that nothing trains: it travels with the weights to those who act, whose cores read rewards.
            self.deviation = nn.Parameter(torch.ones(()), requires_grad=False)
            self.register_buffer("moments", fresh_moments())

    def forward(self, reward: Tensor) -> Tensor:
        """Rewards of any shape, as the environment gave them."""
        if self.deviation is not None:
            reward = reward / self.deviation
        return reward if self.clip == "none" else reward.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def observe(self, sums: Tensor) -> None:
        """Take discounted returns, by their number, sum and sum of squares, [3] float64, into the deviation, without
        waiting for the device."""
        assert self.deviation is not None
        self.moments.copy_(merged(self.moments, sums))
        self.deviation.copy_((self.moments[2] + 1e-8).sqrt())
