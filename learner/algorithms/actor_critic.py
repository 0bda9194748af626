"""The V-trace actor-critic: one pass over a batch, one step (Espeholt et al. 2018, section 4.2; Irie et al. 2024, 4).

loss = policy loss + baseline_cost * baseline loss - entropy_cost * entropy
"""

from __future__ import annotations

from torch import Tensor

from r2ac.agents import Agent, Carry, RolloutOutput
from r2ac.agents.scopes import scope
from r2ac.learner.algorithms.algorithm import Algorithm, Descend, Descent, Losses
from r2ac.learner.algorithms.losses import baseline_loss, entropy, log_prob_of_actions, policy_gradient_loss
from r2ac.learner.algorithms.vtrace import vtrace
from r2ac.learner.config import LearnerConfig
from r2ac.learner.rollout import Rollout

METRICS = ("loss/policy", "loss/baseline", "loss/entropy")
"""Losses per step, mean entropy in nats."""


def actor_critic_losses(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Losses:
    """V-trace actor-critic losses of a batch.

    An episode's end ends the return. Where the rollout has final observations, an end by a time limit does not: what
    would have followed is estimated by the value of the final observation, and added, discounted, to the last reward
    (Pardo et al. 2018, "Time limits in reinforcement learning", section 4).
    """
    rewards = output.rewards
    if output.final_values is not None and batch.truncated is not None:
        rewards = rewards + config.discount * output.final_values.masked_fill(~batch.truncated, 0)
    log_prob = log_prob_of_actions(output.logits, batch.action)
    behaviour_log_prob = log_prob_of_actions(batch.behaviour_logits, batch.action)
    returns = vtrace(
        log_rhos=(log_prob - behaviour_log_prob).detach(),
        discounts=config.discount * (~batch.is_first[1:]).to(output.values.dtype),
        rewards=rewards,
        values=output.values.detach(),
        bootstrap_value=output.bootstrap_value,
        clip_rho=config.clip_rho,
        clip_pg_rho=config.clip_pg_rho,
        clip_c=config.clip_c,
    )
    policy = policy_gradient_loss(log_prob, returns.pg_advantages)
    baseline = baseline_loss(output.values, returns.targets)
    bonus = entropy(output.logits)
    total = policy + config.baseline_cost * baseline - config.entropy_cost * bonus
    return Losses(total, dict(zip(METRICS, (policy.detach(), baseline.detach(), bonus.detach()), strict=True)))


def update(
    agent: Agent, batch: Rollout[Tensor], carry: Carry, config: LearnerConfig, descend: Descend
) -> tuple[Carry, Descent]:
    """One pass and one step; see :attr:`Algorithm.update`."""
    output = agent(batch.observation, batch.reward, batch.is_first, carry, batch.instruction, batch.final_observation)
    with scope("losses"):
        losses = actor_critic_losses(output, batch, config)
    return output.carry, descend(losses, batch, carry)


VTRACE = Algorithm(METRICS, actor_critic_losses, update)
