"""The V-trace actor-critic: one pass over a batch, one step (Espeholt et al. 2018, section 4.2; Irie et al. 2024, 4).

loss = policy loss + baseline_cost * baseline loss - entropy_cost * entropy
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from r2ac.agents import Carry, RolloutOutput
from r2ac.agents.scopes import scope
from r2ac.kernels import native_losses
from r2ac.learner.algorithms import fused_losses
from r2ac.learner.algorithms.algorithm import Descent, Losses, UpdateContext
from r2ac.learner.algorithms.losses import baseline_loss, policy_gradient_loss
from r2ac.learner.algorithms.vtrace import vtrace
from r2ac.learner.config import LearnerConfig
from r2ac.learner.rollout import Rollout

METRICS = ("loss/policy", "loss/baseline", "loss/entropy")
"""Losses per step, mean entropy in nats."""


def discounts(batch: Rollout[Tensor], config: LearnerConfig, dtype: torch.dtype) -> Tensor:
    """The discount of the value after each step, [T, B]: 0 where an episode ended, which ends the return."""
    return config.discount * (~batch.is_first[1:]).to(dtype)


def rewards_with_ends(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Tensor:
    """The rewards of the losses, [T, B]. Where the rollout has final observations, an end by a time limit does not end
    the return: what would have followed is estimated by the value of the final observation, and added, discounted, to
    the last reward (Pardo et al. 2018, "Time limits in reinforcement learning", section 4)."""
    if output.final_values is None or batch.truncated is None:
        return output.rewards
    return output.rewards + config.discount * output.final_values.masked_fill(~batch.truncated, 0)


class ActorCritic:
    """One pass over a batch and one step by the sums of its losses."""

    metrics: tuple[str, ...] = METRICS
    descends = True
    traces: Sequence[Tensor] = ()

    def __init__(self, context: UpdateContext) -> None:
        self._context = context

    @staticmethod
    def losses(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Losses:
        """V-trace actor-critic losses of a batch."""
        dtype = output.values.dtype
        following = discounts(batch, config, dtype), rewards_with_ends(output, batch, config).to(dtype)
        clips = config.clip_rho, config.clip_pg_rho, config.clip_c, config.vtrace_lambda
        if fused_losses.fits(output):
            given = batch.action, batch.behaviour_logits.to(dtype), output.bootstrap_value, *following
            costs = config.baseline_cost, config.entropy_cost
            return fused_losses.fused(native_losses.vtrace_losses, output, METRICS, *given, clips, costs)
        log_prob = output.actions.log_prob(output.logits, batch.action)
        entropy = output.actions.entropy(output.logits)
        behaviour_log_prob = output.actions.log_prob(batch.behaviour_logits, batch.action)
        returns = vtrace(
            (log_prob - behaviour_log_prob).detach(),
            *following,
            output.values.detach(),
            output.bootstrap_value,
            clip_rho=config.clip_rho,
            clip_pg_rho=config.clip_pg_rho,
            clip_c=config.clip_c,
            lambda_=config.vtrace_lambda,
        )
        policy = policy_gradient_loss(log_prob, returns.pg_advantages)
        baseline = baseline_loss(output.values, returns.targets)
        bonus = entropy.sum()
        total = policy + config.baseline_cost * baseline - config.entropy_cost * bonus
        return Losses(total, dict(zip(METRICS, (policy.detach(), baseline.detach(), bonus.detach()), strict=True)))

    def update(self, batch: Rollout[Tensor], carry: Carry) -> tuple[Carry, Descent]:
        output = self._context.agent.rollout(carry=carry, **batch.inputs())
        with scope("losses"):
            losses = self.losses(output, batch, self._context.config)
        return output.carry, self._context.optimise.descend(losses, batch, carry)
