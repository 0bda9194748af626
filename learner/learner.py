"""The learner: one update of the agent from a batch of rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent, RolloutOutput
from r2ac.learner.carries import CarryStore
from r2ac.learner.losses import baseline_loss, entropy, log_prob_of_actions, policy_gradient_loss
from r2ac.learner.optimiser import clip_gradient_norm, linear_decay, make_optimiser
from r2ac.learner.rollout import Rollout
from r2ac.learner.vtrace import vtrace


@dataclass(frozen=True)
class LearnerConfig:
    """How the agent learns."""

    discount: float = 0.99
    """Discount per step (gamma)."""
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp with the paper's settings, or Adam."""
    learning_rate: float = 6e-4
    """Learning rate at the start; it falls linearly to zero over the training's steps."""
    max_gradient_norm: float = 40.0
    """The gradient is scaled down to this global norm."""
    baseline_cost: float = 0.5
    """Weight of the value head's loss (0.5 times the squared error)."""
    entropy_cost: float = 0.01
    """Weight of the entropy bonus."""
    clip_rho: float = 1.0
    """V-trace's clip of the importance weights in the value targets."""
    clip_pg_rho: float = 1.0
    """V-trace's clip of the importance weights in the policy gradient."""
    clip_c: float = 1.0
    """V-trace's clip of the importance weights that cut the traces."""
    max_skipped_updates: int = 10
    """The run stops after so many updates in a row with a loss or gradient that is not finite."""


class TrainingDiverged(RuntimeError):
    """Too many updates in a row had a loss or gradient that was not finite."""


@dataclass(frozen=True)
class Losses:
    """The losses of a batch, scalar tensors summed over T and B, and the policy's entropy."""

    total: Tensor
    policy: Tensor
    baseline: Tensor
    entropy: Tensor
    """Mean over T and B, in nats."""


def actor_critic_losses(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Losses:
    """V-trace actor-critic losses of a batch of rollouts (Espeholt et al. 2018, section 4.2; Irie et al. 2024, 4).

    total = policy + baseline_cost * baseline - entropy_cost * (summed entropy). Rewards are clipped to [-1, 1]; an
    episode's end, by termination or by a time limit, ends the return.
    """
    log_prob = log_prob_of_actions(output.logits, batch.action)
    behaviour_log_prob = log_prob_of_actions(batch.behaviour_logits, batch.action)
    returns = vtrace(
        log_rhos=(log_prob - behaviour_log_prob).detach(),
        discounts=config.discount * (~batch.is_first[1:]).to(output.values.dtype),
        rewards=batch.reward[1:].clamp(-1, 1),
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
    return Losses(total, policy.detach(), baseline.detach(), bonus.detach() / batch.action.numel())


class Learner:
    """Agent, optimiser and the carries of all streams.

    Args:
        agent: the agent, on the device where it is to learn.
        config: how it learns.
        num_streams: the number of streams that all rollout actors step together.
        total_steps: environment steps after which the learning rate has fallen to zero.
    """

    def __init__(self, agent: Agent, config: LearnerConfig, num_streams: int, total_steps: int) -> None:
        self.agent, self.config, self.total_steps = agent, config, total_steps
        self.device = next(agent.parameters()).device
        self.carries = CarryStore(agent.core, num_streams)
        self.parameters = [parameter for parameter in agent.parameters() if parameter.requires_grad]
        self.optimiser = make_optimiser(self.parameters, config.optimiser, config.learning_rate)
        self.env_steps = 0
        """Environment steps learned from."""
        self.updates = 0
        """Updates made; also the version of the weights."""
        self.skipped_updates = 0
        """Updates left out because the loss or the gradient was not finite, since the start."""
        self._skipped_in_a_row = 0

    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return self.config.learning_rate * linear_decay(self.env_steps, self.total_steps)

    def update(self, rollout: Rollout[np.ndarray]) -> dict[str, Tensor]:
        """One update from a batch of rollouts: T steps of B streams.

        An update whose loss or gradient is not finite changes nothing but the counters, and its streams begin again
        with zero sensitivities.

        Returns:
            Metrics as scalar tensors on the learner's device: losses per step, gradient norm, entropy.

        Raises:
            TrainingDiverged: after ``max_skipped_updates`` such updates in a row.
        """
        batch = rollout.to_torch(self.device)
        carry = self.carries.fetch(rollout.stream, rollout.sequence, batch.first_cell)
        output = self.agent(batch.observation, batch.reward, batch.is_first, carry)
        losses = actor_critic_losses(output, batch, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        gradient_norm = clip_gradient_norm(self.parameters, self.config.max_gradient_norm)
        rate = self.learning_rate()
        if bool(torch.isfinite(losses.total) & torch.isfinite(gradient_norm)):
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.optimiser.step()
            self.carries.store(rollout.stream, rollout.sequence, output.carry)
            self.updates += 1
            self._skipped_in_a_row = 0
        else:
            self._skip(losses.total.detach(), gradient_norm)
        steps = rollout.length * rollout.batch_size
        self.env_steps += steps
        return {
            "loss/total": losses.total.detach() / steps,
            "loss/policy": losses.policy / steps,
            "loss/baseline": losses.baseline / steps,
            "loss/entropy": losses.entropy,
            "loss/gradient_norm": gradient_norm,
        }

    def _skip(self, loss: Tensor, gradient_norm: Tensor) -> None:
        self.skipped_updates += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.config.max_skipped_updates:
            raise TrainingDiverged(
                f"training diverged: {self._skipped_in_a_row} updates in a row had a loss or gradient that is not "
                f"finite (loss {float(loss)}, gradient norm {float(gradient_norm)}) after {self.env_steps:,} "
                "environment steps; lower --learning-rate or raise --max-skipped-updates"
            )
