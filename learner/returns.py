"""What rewards and observations are normalised by: the deviation of the discounted returns of all streams so far, and
mean and deviation of what was observed."""

from __future__ import annotations

import torch
from torch import Tensor

from r2ac.agents import Agent
from r2ac.kernels import backward_scan, kernels_for, native_online
from r2ac.learner.collective import Collective
from r2ac.learner.rollout import Rollout


class DiscountedReturns:
    """G_t = r_t + discount G_{t-1}, with G = 0 before an episode, kept from rollout to rollout on the device.

    This is a running sum over the past, as Gymnasium's `NormalizeReward` has it, and not the return that is to come:
    the two have about the same deviation, and this one is known at once.
    """

    def __init__(self, num_streams: int, discount: float, device: torch.device) -> None:
        self.discount = discount
        self.last = torch.zeros(num_streams, device=device)

    def advance(self, batch: Rollout[Tensor], gap: Tensor) -> Tensor:
        """The returns after each step of a batch of different streams, [T, B] float32, without waiting for the device.

        Where ``gap`` [B], a rollout does not follow the stream's last one, whose return is then forgotten. A reward
        that is not finite counts as 0: it spoils one update and not the deviation of all that follow.
        """
        decays = self.discount * (~batch.is_first[:-1]).float()
        rewards = batch.reward[1:].nan_to_num(0, 0, 0)
        rewards[0].add_(decays[0] * self.last.index_select(0, batch.stream).masked_fill(gap, 0))
        returns = rewards
        if len(rewards) > 1:
            # The scan runs backwards in time, and takes the factor of a step from the step after it.
            returns = backward_scan(rewards.flip(0), torch.cat((decays[:1], decays[1:].flip(0)))).flip(0)
        self.last.index_copy_(0, batch.stream, returns[-1])
        return returns


class RunningNormalisers:
    """Updates the moments by which an agent normalises rewards and observations, if it does, with the batches of all
    learners, without waiting for the device. What is not finite counts as 0."""

    def __init__(self, agent: Agent, num_streams: int, discount: float, collective: Collective) -> None:
        parameter = agent.value.bias
        self._rewards, self._observations, self._collective = agent.rewards, agent.observations, collective
        self._returns: DiscountedReturns | None = None
        if agent.rewards.deviation is not None:
            self._returns = DiscountedReturns(num_streams, discount, parameter.device)
        self._is_native = collective.size == 1 and kernels_for(parameter).name == "native"

    def observe(self, batch: Rollout[Tensor], gap: Tensor) -> None:
        """Take a batch, whose streams have a ``gap``, [B] bool, before it."""
        if self._is_native and batch.length == 1:
            self._observe_step(batch, gap)
            return
        if self._returns is not None:
            self._rewards.observe(self._sums(self._returns.advance(batch, gap)))
        if self._observations is not None:
            self._observations.observe(self._sums(batch.observation[1:].nan_to_num(0, 0, 0)))

    def _observe_step(self, batch: Rollout[Tensor], gap: Tensor) -> None:
        """The same of one step, by kernels."""
        returns, rewards, observations = self._returns, self._rewards, self._observations
        if returns is not None and rewards.deviation is not None:
            shown = batch.reward[1], batch.is_first[0] | gap, batch.stream
            native_online.observe_returns(*shown, returns.last, returns.discount, rewards.moments, rewards.deviation)
        if observations is not None:
            values = batch.observation[1].to(observations.mean.dtype)
            native_online.observe_vectors(values, observations.moments, observations.mean, observations.deviation)

    def _sums(self, values: Tensor) -> Tensor:
        """Number, sum and sum of squares of values [T, B, ...] over the steps of all learners' batches, [3, ...]
        float64."""
        values = values.double()
        sums = torch.stack((torch.ones_like(values), values, values.square())).sum((1, 2))
        if self._collective.size > 1:
            self._collective.sum_([sums])
        return sums
