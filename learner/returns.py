"""The discounted returns of all streams so far, by whose deviation rewards are normalised."""

from __future__ import annotations

import torch
from torch import Tensor

from r2ac.kernels import backward_scan
from r2ac.learner.rollout import Rollout


class DiscountedReturns:
    """G_t = r_t + discount G_{t-1}, with G = 0 before an episode, kept from rollout to rollout on the device.

    This is a running sum over the past, as Gymnasium's `NormalizeReward` has it, and not the return that is to come:
    the two have about the same deviation, and this one is known at once.
    """

    def __init__(self, num_streams: int, discount: float, device: torch.device) -> None:
        self._discount = discount
        self._last = torch.zeros(num_streams, device=device)

    def advance(self, batch: Rollout[Tensor], gap: Tensor) -> Tensor:
        """The returns after each step of a batch of different streams, [T, B] float32, without waiting for the device.

        Where ``gap`` [B], a rollout does not follow the stream's last one, whose return is then forgotten. A reward
        that is not finite counts as 0: it spoils one update and not the deviation of all that follow.
        """
        decays = self._discount * (~batch.is_first[:-1]).float()
        rewards = batch.reward[1:].nan_to_num(0, 0, 0)
        before = self._last[batch.stream].masked_fill(gap, 0)
        rewards = torch.cat((rewards[:1] + decays[:1] * before, rewards[1:]))
        returns = rewards
        if len(rewards) > 1:
            # The scan runs backwards in time, and takes the factor of a step from the step after it.
            returns = backward_scan(rewards.flip(0), torch.cat((decays[:1], decays[1:].flip(0)))).flip(0)
        self._last[batch.stream] = returns[-1]
        return returns
