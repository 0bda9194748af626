"""The fully online actor-critic: one update after each step, by eligibility traces of exact gradients.

For each stream, with the gradient by all parameters of what is wanted of step t,

    g_t = grad (log pi(a_t) + baseline_cost V_t + sign(delta_t) entropy_cost H_t)
    z_t = discount trace_lambda z_{t-1} + g_t          (z = 0 before an episode)
    delta_t = r_t + discount V_{t+1} - V_t

the weights go by learning_rate delta_t z_t, in the mean over the streams (Sutton and Barto 2018, section 13.6, and
Elsayed et al. 2024, "Streaming deep reinforcement learning finally works", algorithm 3, whose two networks are one
here). The gradient reaches to the first step: inside the step by autograd, and before it by the sensitivities,
(dg/dc_{t-1}) S_{t-1}.

With ``step_bound`` kappa the step of a stream is divided by max(1, learning_rate kappa max(|delta|, 1) |z|_1), so that
it does not overshoot; with plain gradient descent that is their ObGD (algorithm 3, line 9). An optimiser with moments
gets - delta z as its gradient. As in every algorithm, a gradient longer than max_gradient_norm is shortened. Their
sparse start is not built.

A gap in a stream empties its traces as the end of an episode does: what follows a gap begins an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2ac.agents import Carry, ClosedForm, OnlineAgent, RolloutOutput, StepOutput
from r2ac.agents.scopes import scope
from r2ac.kernels import native_online
from r2ac.learner.algorithms.actor_critic import ActorCritic
from r2ac.learner.algorithms.algorithm import Descent, Losses, UpdateContext
from r2ac.learner.config import LearnerConfig
from r2ac.learner.rollout import Rollout


@dataclass(frozen=True)
class _Step:
    """The result of a step of all streams."""

    sums: Tensor
    """Over the streams: 0.5 delta^2, |delta|, the entropy, the scale of the step, [4]."""
    carry: Carry
    """After the step."""


class Stream:
    """Steps of an actor-critic by eligibility traces."""

    metrics: tuple[str, ...] = ("loss/td_error", "loss/entropy", "learner/step_scale")
    descends = False

    def __init__(self, context: UpdateContext) -> None:
        self._context = context
        self._parameters = [each for each in context.agent.parameters() if each.requires_grad]
        sizes = [each.numel() for each in self._parameters]
        # One vector a stream: a step is then a few operations, not some for each parameter.
        self._traces = self._parameters[0].new_zeros(context.num_streams, sum(sizes))
        self._gradient = self._parameters[0].new_zeros(sum(sizes))
        parts = zip(self._traces.split(sizes, dim=1), self._parameters, strict=True)
        self.traces: Sequence[Tensor] = [part.unflatten(1, each.shape) for part, each in parts]
        self.costs = 1.0, context.config.baseline_cost, context.config.entropy_cost
        """The weights of log probability, value and entropy in what is wanted of a step."""
        agent = context.agent
        self._closed_form = ClosedForm(agent) if ClosedForm.fits(agent) else None
        fits = context.config.sensitivity_storage == "float32" and OnlineAgent.fits(agent)
        self._kernels = OnlineAgent(agent) if fits else None
        core = agent.core
        recurrent = core.recurrent_parameters if core.uses_rtrl else ()
        self._recurrent = [next(i for i, own in enumerate(self._parameters) if own is each) for each in recurrent]

    @staticmethod
    def losses(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Losses:
        """Of a whole rollout, as the actor-critic has them: what `inspect` takes the gradient of."""
        return ActorCritic.losses(output, batch, config)

    def objective(self, output: StepOutput, action: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        """What is wanted of a step, whose gradient the traces gather, and the policy's entropy: [B] each."""
        policy_cost, baseline_cost, entropy_cost = self.costs
        entropy = output.actions.entropy(output.logits)
        wanted = policy_cost * output.actions.log_prob(output.logits, action) + baseline_cost * output.value
        return wanted + entropy_cost * sign * entropy, entropy

    def update(self, batch: Rollout[Tensor], carry: Carry) -> tuple[Carry, Descent]:
        """An update by one step of each stream. Raises ValueError for rollouts of more than one step."""
        if batch.length != 1:
            raise ValueError(f"this algorithm learns after each step: rollout_length must be 1, not {batch.length}")
        # The state that the actor had: with one step a rollout it is the learner's own, but for a stream that is new.
        carry = Carry(batch.first_state.to(carry.state.dtype), carry.traces)
        take = self._by_autograd if self._closed_form is None else self._in_closed_form
        step = (take if self._kernels is None else self._by_kernel)(batch, carry)
        sums = dict(zip(("loss/total", *self.metrics), step.sums.unbind(), strict=True))
        if self._parameters[0].grad is None:
            parts = self._gradient.split([each.numel() for each in self._parameters])
            for parameter, part in zip(self._parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        descent = self._context.optimise.apply(sums, batch.batch_size, gradients=[self._gradient])
        self._forget_unless(descent.finite, batch.stream)
        return step.carry, descent

    @torch.no_grad()
    def _td_error(self, batch: Rollout[Tensor], output: StepOutput) -> Tensor:
        """delta [B]. Where a time limit ended the episode, what follows is the value of the final observation."""
        agent, discount = self._context.agent, self._context.config.discount
        after = output.state.detach()
        following = agent.step(state=after, **batch.inputs_at(1)).value.masked_fill(batch.is_first[1], 0)
        if batch.final_observation is not None and batch.truncated is not None:
            never = torch.zeros_like(batch.is_first[1])
            words = None if batch.instruction is None else batch.instruction[0]
            final = agent.step(batch.final_observation[0], batch.reward[1], never, after, words).value
            following = torch.where(batch.truncated[0], final, following)
        return agent.rewards(batch.reward[1]).to(after.dtype) + discount * following - output.value.detach()

    def _by_autograd(self, batch: Rollout[Tensor], carry: Carry) -> _Step:
        """The reference, for any agent."""
        core, state = self._context.agent.core, carry.state.requires_grad_()
        output = self._context.agent.transition(state=state, **batch.inputs_at(0))
        error = self._td_error(batch, output)
        wanted, entropy = self.objective(output, batch.action[0], error.sign())
        inputs, streams = [*self._parameters, state], len(wanted)
        with scope("backward"):
            if streams == 1:
                found = torch.autograd.grad(wanted.sum(), inputs, materialize_grads=True)
                gradients, by_state = [gradient.unsqueeze(0) for gradient in found[:-1]], found[-1]
            else:
                # The streams meet nowhere in a step: a backward pass for each, all at once.
                each = torch.eye(streams, dtype=wanted.dtype, device=wanted.device)
                found = torch.autograd.grad(wanted, inputs, each, is_grads_batched=True, materialize_grads=True)
                gradients, by_state = list(found[:-1]), found[-1].diagonal().mT
            vector = self._with_boundary(gradients, by_state, carry)
        carry = core.advance(output.core_input.detach()[None], replace(carry, state=state.detach()), batch.is_first[:1])
        return _Step(self._gather(batch, vector, error, entropy.detach()), carry)

    def _in_closed_form(self, batch: Rollout[Tensor], carry: Carry) -> _Step:
        """The same by formulas of the agent's layers; autograd has the distribution of the actions alone."""
        assert self._closed_form is not None
        output = self._context.agent.step(state=carry.state, **batch.inputs_at(0))
        error = self._td_error(batch, output)
        heads = output.logits.requires_grad_(), output.value.requires_grad_()
        wanted, entropy = self.objective(output, batch.action[0], error.sign())
        with scope("backward"):
            by_heads = torch.autograd.grad(wanted.sum(), heads, materialize_grads=True)
            found = self._closed_form.gradients(output, carry.state, batch.is_first[0], *by_heads)
            gradients = [found.by_parameters[each] for each in self._parameters]
            vector = self._with_boundary(gradients, found.by_state, carry)
        core = self._closed_form.core
        carry = core.advance_by(found.linear, output.core_input, carry, output.state)
        return _Step(self._gather(batch, vector, error, entropy.detach()), carry)

    @torch.no_grad()
    def _by_kernel(self, batch: Rollout[Tensor], carry: Carry) -> _Step:
        """The same by one kernel, from what the core is given to the gradients."""
        assert self._kernels is not None
        agent, config, kernels = self._context.agent, self._context.config, self._kernels
        dtype, final = carry.state.dtype, batch.final_observation
        # Without final observations such an end is like any other, as in `_td_error`.
        truncated = None if final is None else batch.truncated
        decays = config.discount, config.discount * config.trace_lambda
        bound = config.step_bound * float(self._learning_rate())
        with scope("agent"):
            state, sums = native_online.learn(
                kernels.layers,
                kernels.skip,
                carry.state.new_tensor((*decays, *self.costs, bound, self._context.collective.size)),
                kernels.action_sizes,
                batch.observation.to(dtype),
                None if final is None else final[0].to(dtype),
                carry.state,
                batch.is_first,
                batch.reward.to(dtype),
                batch.action[0],
                None if batch.action_mask is None else batch.action_mask[0],
                None if truncated is None else truncated[0],
                self._traces,
                agent.policy.weight.requires_grad,
                carry.traces[0] if carry.traces else None,
                batch.stream,
                self._gradient,
            )
        return _Step(sums, Carry(state, carry.traces))

    def _with_boundary(self, gradients: list[Tensor], by_state: Tensor, carry: Carry) -> Tensor:
        """The gradients of the streams, [B, ...] of each parameter, with what came before the step: as one, [B, P]."""
        boundary = self._context.agent.core.boundary_by_stream(by_state, carry)
        for place, before in zip(self._recurrent, boundary, strict=False):
            gradients[place] = gradients[place] + before
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)

    @torch.no_grad()
    def _gather(self, batch: Rollout[Tensor], gradients: Tensor, error: Tensor, entropy: Tensor) -> Tensor:
        """Add the gradients of the streams, [B, P], to the traces, and compute the parameters' gradient from these;
        returns the sums that `_Step` has."""
        config, streams = self._context.config, batch.stream
        fade = config.discount * config.trace_lambda * (~batch.is_first[0]).to(error.dtype)
        traces = torch.addcmul(gradients, self._traces[streams], fade.unsqueeze(1))
        self._traces[streams] = traces
        size = torch.linalg.vector_norm(traces, 1, dim=1)
        bound = config.step_bound * self._learning_rate() * error.abs().clamp_min(1) * size
        scale = 1 / bound.clamp_min(1)
        shares = -scale * error / (len(error) * self._context.collective.size)
        torch.mv(traces.mT, shares, out=self._gradient)
        return torch.stack((0.5 * error.square(), error.abs(), entropy, scale)).sum(1)

    def _learning_rate(self) -> Tensor | float:
        config = self._context.config
        return config.learning_rate * (self._context.remaining if config.learning_rate_schedule == "linear" else 1.0)

    def _forget_unless(self, finite: Tensor, streams: Tensor) -> None:
        """Empty the traces of these streams where the update was skipped: they may hold what is not finite."""
        if finite.device.type == "cpu" and finite:
            return
        traces = self._traces[streams]
        self._traces[streams] = torch.where(finite, traces, torch.zeros_like(traces))
