"""PPO by exact RTRL: several epochs of clipped steps over one batch (Schulman et al. 2017).

loss = policy loss + baseline_cost * baseline loss - entropy_cost * entropy, each a mean over steps and streams

Names and defaults are those of Stable-Baselines3 where they mean the same. There, vf_coef weights the squared error
and here baseline_cost half of it; advantages are normalised over the batch and not over each minibatch.

The batch was collected with the newest weights, all rollouts of the same ones. Each pass over it begins at the state
c_0 and the sensitivities S_0 before the rollout, so that its gradient is TBPTT's and the boundary term with S_0; the
last epoch's pass alone takes S across the rollout. What is kept is one sensitivity for each stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from r2ac.agents import Carry, Core, RolloutOutput
from r2ac.agents.scopes import scope
from r2ac.kernels import native_losses
from r2ac.learner.algorithms import fused_losses
from r2ac.learner.algorithms.actor_critic import discounts, rewards_with_ends
from r2ac.learner.algorithms.algorithm import Descent, Losses, StepCondition, UpdateContext
from r2ac.learner.algorithms.losses import baseline_loss, clipped_policy_loss
from r2ac.learner.algorithms.vtrace import gae
from r2ac.learner.collective import Collective, SingleLearner
from r2ac.learner.config import LearnerConfig
from r2ac.learner.rollout import Rollout

_KL = "loss/approx_kl"


@dataclass(frozen=True)
class Targets:
    """What a batch's epochs have in common, each [T, B]; no gradients."""

    advantage: Tensor
    returns: Tensor
    """The value's targets."""
    values: Tensor
    """Before the first step."""

    def select(self, index: Tensor) -> Targets:
        """Of the streams of these columns, [b] int64."""
        return Targets(self.advantage[:, index], self.returns[:, index], self.values[:, index])


def targets_of(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Targets:
    """Advantages, as they are, and the value's targets, from what the agent computed before the first step."""
    values = output.values.detach()
    found = gae(
        discounts(batch, config, values.dtype),
        rewards_with_ends(output, batch, config),
        values,
        output.bootstrap_value,
        config.gae_lambda,
    )
    return Targets(found.pg_advantages, found.targets, values)


def normalised(advantage: Tensor, collective: Collective) -> Tensor:
    """(A - mean) / (deviation + 1e-8) over all steps of the batches of all learners; a single one stays as it is."""
    wide = advantage.double()
    sums = torch.stack((torch.ones_like(wide).sum(), wide.sum(), wide.square().sum()))
    if collective.size > 1:
        collective.sum_([sums])
    count, total, squares = sums
    mean = total / count
    variance = (squares - total * mean).clamp_min(0) / (count - 1).clamp_min(1)
    return torch.where(count > 1, (wide - mean) / (variance.sqrt() + 1e-8), wide).to(advantage.dtype)


def clipped_losses(
    output: RolloutOutput, batch: Rollout[Tensor], targets: Targets, config: LearnerConfig, remaining: Tensor
) -> Losses:
    """PPO's losses of a batch; ``remaining``, a scalar, is the share of the training that is left, for schedules."""
    clip_scale = remaining if config.clip_schedule == "linear" else torch.ones_like(remaining)
    entropy_cost = config.entropy_cost * (remaining if config.entropy_schedule == "linear" else 1.0)
    if fused_losses.fits(output):
        clips_value = config.clip_range_vf != "none"
        value_clip = config.clip_range_vf * clip_scale if clips_value else inf
        costs = (*map(float, (config.baseline_cost, entropy_cost, config.clip_range * clip_scale, value_clip)),)
        given = batch.action, targets.advantage, targets.returns, costs, batch.behaviour_logits.to(output.logits.dtype)
        old_values = targets.values if clips_value else None
        return fused_losses.fused(native_losses.actor_critic_losses, output, PPO.metrics, *given, old_values)
    actions = output.actions
    behaviour_log_prob = actions.log_prob(batch.behaviour_logits, batch.action)
    log_prob, entropy = actions.log_prob(output.logits, batch.action), actions.entropy(output.logits)
    log_ratio = log_prob - behaviour_log_prob
    policy, clipped = clipped_policy_loss(log_ratio, targets.advantage, config.clip_range * clip_scale)
    values = output.values
    if config.clip_range_vf != "none":
        bound = config.clip_range_vf * clip_scale
        values = targets.values + torch.maximum(torch.minimum(values - targets.values, bound), -bound)
    baseline, bonus = baseline_loss(values, targets.returns), entropy.sum()
    total = policy + config.baseline_cost * baseline - entropy_cost * bonus
    # Schulman's estimate of KL(old || new), which is never negative (joschu.net/blog/kl-approx.html).
    kl = (log_ratio.exp() - 1 - log_ratio).sum()
    parts = (policy, baseline, bonus, kl, clipped)
    return Losses(total, dict(zip(PPO.metrics, (part.detach() for part in parts), strict=False)))


def carry_of(core: Core, carry: Carry, index: Tensor | None, advance: bool) -> Carry:
    """The carry of a pass over these columns, [b] int64, or over all; the traces cross the rollout if they are to
    ``advance``, and are noted then."""
    start = Carry(carry.state, tuple(replace(traces, advance=advance) for traces in carry.traces))
    if index is not None:
        start = start.select(index)
    if not advance or not carry.notes:
        return start
    through = [notes.through for notes in carry.notes]
    return core.with_notes(start, through, parts=carry.notes[0].by_state is not None)


def summary_of(descents: Sequence[Descent], counted: Sequence[Tensor]) -> Descent:
    """An update of several steps: the means of the metrics of those ``counted`` (bool scalars), or the last one's where
    none is; finite where one is."""
    weights = torch.stack(tuple(counted)).double()
    total = weights.sum()
    values = torch.stack([torch.stack(tuple(descent.metrics.values())) for descent in descents]).double()
    means = values.where(weights.unsqueeze(1) > 0, 0.0).sum(0) / total.clamp_min(1)
    metrics = dict(zip(descents[-1].metrics, torch.where(total > 0, means, values[-1]).unbind(), strict=True))
    made = torch.stack([descent.made for descent in descents])
    finite = torch.stack([descent.finite for descent in descents])
    return Descent(metrics | {"learner/steps": made.double().sum()}, finite.any(), made.any())


class PPO:
    """Epochs of clipped steps over a batch."""

    metrics: tuple[str, ...] = (
        "loss/policy",
        "loss/baseline",
        "loss/entropy",
        _KL,
        "loss/clip_fraction",
        "learner/steps",
    )
    descends = True
    traces: Sequence[Tensor] = ()

    def __init__(self, context: UpdateContext) -> None:
        self._context = context

    @staticmethod
    def losses(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Losses:
        """Of the first pass over a batch."""
        targets = targets_of(output, batch, config)
        if config.normalise_advantage:
            targets = replace(targets, advantage=normalised(targets.advantage, SingleLearner()))
        return clipped_losses(output, batch, targets, config, torch.ones_like(output.bootstrap_value[0]))

    def update(self, batch: Rollout[Tensor], carry: Carry) -> tuple[Carry, Descent]:
        """Epochs over the batch. Once the policy has moved beyond ``target_kl`` no step follows, but the last
        epoch's passes, which take the traces across the rollout."""
        context, config = self._context, self._context.config
        # The state that the actor had, with which it computed its probabilities: not the learner's own.
        carry = replace(carry, state=batch.first_state.to(carry.state.dtype))
        core, alone = context.agent.core, config.num_minibatches == 1
        first_start = carry_of(core, carry, None, advance=alone and config.n_epochs == 1)
        # The targets come from a pass before the first step: that of the first epoch, where it is over the whole batch.
        with torch.set_grad_enabled(alone):
            first = context.agent.rollout(carry=first_start, **batch.inputs())
        targets, seen = self._targets(first, batch), replace(batch, final_observation=None)
        may_branch = carry.state.device.type == "cpu"
        goes_on = torch.ones((), dtype=torch.bool, device=carry.state.device)
        after, kept = torch.empty_like(carry.state), torch.ones_like(batch.is_first[0])
        descents, counted = list[Descent](), list[Tensor]()
        for epoch in range(config.n_epochs):
            last = epoch == config.n_epochs - 1
            for index in self._minibatches(batch.batch_size, after.device):
                if may_branch and not last and not goes_on:
                    continue
                part, target = (seen, targets) if index is None else (seen.select(index), targets.select(index))
                start, output = first_start, first
                if epoch or not alone:
                    start = carry_of(core, carry, index, advance=last)
                    bootstrap = first.bootstrap_value if index is None else first.bootstrap_value[index]
                    output = context.agent.rollout(carry=start, bootstrap_value=bootstrap, **part.inputs())
                with scope("losses"):
                    losses = clipped_losses(output, part, target, config, context.remaining)
                descent = context.optimise.descend(losses, part, start, mean=True, condition=self._condition(goes_on))
                descents.append(descent)
                counted.append(goes_on & descent.finite)
                # A step that was not finite does not end the epochs; one beyond target_kl does.
                goes_on = goes_on & (descent.made | ~descent.finite)
                columns = torch.arange(batch.batch_size, device=after.device) if index is None else index
                after.index_copy_(0, columns, output.carry.state)
                kept.index_copy_(0, columns, descent.finite.expand(len(columns)))
        return replace(carry, state=after), replace(summary_of(descents, counted), kept=kept)

    def _targets(self, output: RolloutOutput, batch: Rollout[Tensor]) -> Targets:
        config = self._context.config
        targets = targets_of(output, batch, config)
        if not config.normalise_advantage:
            return targets
        return replace(targets, advantage=normalised(targets.advantage, self._context.collective))

    def _minibatches(self, batch_size: int, device: torch.device) -> Iterator[Tensor | None]:
        """The columns of each minibatch of an epoch, shuffled; None for all of them."""
        count = self._context.config.num_minibatches
        if count == 1:
            yield None
        else:
            yield from torch.rand(batch_size, device=device).argsort().tensor_split(count)

    def _condition(self, goes_on: Tensor) -> StepCondition:
        limit = self._context.config.target_kl
        return lambda losses: goes_on if limit == "none" else goes_on & (losses[_KL] <= 1.5 * limit)
