"""A rollout of a small agent on a CPU, forward and backward, and a step of those who act, each by one kernel.

The readable references are :meth:`Agent.forward`, with autograd, and :meth:`Agent.act`. Why: a small agent's matrix
products take less time than PyTorch's dispatch of the hundred operations around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version

from r2ac.agents.actions import ActionSpec, BoxActions, PolicyHead, masked
from r2ac.agents.composite import Mixed
from r2ac.agents.core import Carry, Core
from r2ac.agents.elstm import ELSTM
from r2ac.agents.encoders import NoEncoder
from r2ac.agents.instruction import InstructionEncoder
from r2ac.agents.moments import OBSERVATION_BOUND, ObservationNormaliser
from r2ac.agents.readout import Readout
from r2ac.agents.recurrent import Recurrent
from r2ac.agents.rewards import RewardTransform
from r2ac.agents.scopes import scope
from r2ac.kernels import is_traced, kernels_for, native_agent

MOST_WORK, MOST_WEIGHTS = 50_000_000, 200_000
"""Weights times steps of all streams, and weights. With more, PyTorch's matrix products, which are faster than the
kernel's, save more than is lost around them; the kernels transpose all weights in each call."""


class AgentLayers(Protocol):
    """What is read of an :class:`Agent`."""

    observations: ObservationNormaliser | None
    encoder: nn.Module
    instruction_encoder: InstructionEncoder | None
    core: Core
    readout: Readout
    actions: ActionSpec
    policy: PolicyHead
    value: nn.Linear
    rewards: RewardTransform

    def act(self, action_mask: Tensor | None = None, **inputs: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class FusedRollout:
    """What :class:`RolloutOutput` has of the same names."""

    logits: Tensor
    values: Tensor
    bootstrap_value: Tensor
    carry: Carry
    core_input: Tensor


def kernel_agent(agent: AgentLayers, carry: Carry, steps: int) -> native_agent.RolloutAgent | None:
    """The agent as the kernels take it, for so many steps of all streams together; None where they do not know all of
    its layers or tensors, or where it is large."""
    core, readout, state = agent.core, agent.readout, carry.state
    if not isinstance(agent.encoder, NoEncoder) or agent.instruction_encoder is not None or readout.layer_norm:
        return None
    kernels = kernels_for(state)
    if kernels.name != "native" or is_traced(state) or torch.is_autocast_enabled("cpu"):
        return None
    if isinstance(agent.actions, BoxActions):
        return None
    parts, carries = [], core.split(carry) if type(core) is Mixed else [carry]
    for cell, own in zip(_cells(core), carries, strict=True):
        # A subclass may compute something else.
        if (
            not isinstance(cell, Recurrent)
            or type(cell) not in (Recurrent, ELSTM)
            or cell.cell_name not in kernels.fused
        ):
            return None
        traces, notes = own.traces[0] if own.traces else None, own.notes[0] if own.notes else None
        if traces is not None and (traces.streams is None or traces.weight.dtype != state.dtype):
            return None
        weight, *numbers, bias = cell.recurrent_parameters
        gate = None if cell.output_gate is None else _layer(cell.output_gate)
        parts.append(native_agent.Part(cell.cell_name, weight, numbers, bias, gate, traces, notes))
    observations, rewards = agent.observations, agent.rewards
    moments = (None, None) if observations is None else (observations.mean, observations.deviation)
    bounds = inf if rewards.clip == "none" else rewards.clip, OBSERVATION_BOUND
    found = native_agent.RolloutAgent(
        parts,
        None if readout.hidden is None else _layer(readout.hidden),
        _layer(agent.policy),
        _layer(agent.value),
        (*moments, rewards.deviation, state.new_tensor(bounds)),
        readout.skip,
    )
    weights = sum(each.numel() for each in found.parameters)
    if weights > MOST_WEIGHTS or steps * weights > MOST_WORK:
        return None
    fit = (each.dtype == state.dtype and each.is_cpu and each.is_contiguous() for each in found.parameters)
    return found if all(fit) else None


def rollout(
    agent: AgentLayers,
    observation: Tensor,
    reward: Tensor,
    is_first: Tensor,
    carry: Carry,
    action_mask: Tensor | None,
    bootstrap_value: Tensor | None,
) -> FusedRollout | None:
    """:meth:`Agent.forward` of observations [T+1, B, size], where a kernel has it; None elsewhere, where the readable
    form would raise, and where a gradient by what is given is wanted."""
    if len(carry.traces) != sum(cell.uses_rtrl for cell in _cells(agent.core)):
        return None
    if any(traces.advance for traces in carry.traces) and not torch.is_grad_enabled():
        return None
    known = kernel_agent(agent, carry, reward.numel())
    if known is None or not all(each.requires_grad for each in known.parameters):
        return None
    if observation.requires_grad or reward.requires_grad or carry.state.requires_grad:
        return None
    steps, dtype, beyond = reward.shape[0] - 1, carry.state.dtype, bootstrap_value is None
    shown = observation.to(dtype), reward.to(dtype), is_first
    if not beyond:
        shown = observation[:steps].to(dtype), reward[:steps].to(dtype), is_first[:steps]
    with scope("agent"):
        logits, values, last, state, core_input = _Rollout.apply(known, *shown, carry.state, beyond, *known.parameters)
        logits = masked(logits, None if action_mask is None else action_mask[:steps])
    return FusedRollout(
        logits=logits,
        values=values,
        bootstrap_value=last if bootstrap_value is None else bootstrap_value,
        carry=Carry(state, tuple(replace(each, fresh=None) for each in carry.traces)),
        core_input=core_input,
    )


class FusedActor:
    """Draws actions by an agent whose parameters stay the same objects, by a kernel where one has it for ``streams``.

    The readable reference is :meth:`Agent.act` with :meth:`ActionSpec.choose`.
    """

    def __init__(self, agent: AgentLayers, streams: int) -> None:
        state = agent.value.weight.new_zeros(1, agent.core.state_size)
        known = kernel_agent(agent, Carry(state), streams)
        self._agent, self._kernel = agent, None if known is None else native_agent.Actor(known, agent.actions.sizes)

    def over(
        self, inputs: Mapping[str, Tensor], uniforms: Tensor, state: Tensor, logits: Tensor, action: Tensor
    ) -> Callable[[int], None]:
        """A function of t that makes step t, by the weights of now: of the ``inputs``, [T, B, ...] by their names in
        :meth:`Agent.act`, and of uniform numbers, [T, B, *shape] float64. It writes into logits[t] of [T, B, P] and
        action[t] of [T, B, *shape], and changes the core's state, [B, S]."""
        seen, dtype = (inputs["observation"], inputs["reward"], inputs["is_first"]), self._agent.value.weight.dtype
        fit = all(each.dtype == dtype for each in (*seen[:2], state, logits))
        if self._kernel is None or is_traced(state) or not fit:
            return partial(self._step, inputs, uniforms, state, logits, action)
        if action.dim() == 2:
            uniforms, action = uniforms.unsqueeze(-1), action.unsqueeze(-1)
        return self._kernel.over(*seen, inputs.get("action_mask"), uniforms, state, logits, action)

    def _step(
        self, inputs: Mapping[str, Tensor], uniforms: Tensor, state: Tensor, logits: Tensor, action: Tensor, t: int
    ) -> None:
        of_step = {name: each[t].to(state.device) for name, each in inputs.items()}
        found, after = self._agent.act(state=state, **of_step)
        logits[t].copy_(found)
        state.copy_(after)
        action[t].numpy()[...] = self._agent.actions.choose(logits[t].numpy(), uniforms[t].numpy())


class _Rollout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        agent: native_agent.RolloutAgent,
        observation: Tensor,
        reward: Tensor,
        is_first: Tensor,
        state: Tensor,
        bootstrap: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        found = native_agent.forward(agent, observation, reward, is_first, state, bootstrap)
        ctx.agent = agent
        ctx.save_for_backward(is_first, state, found.saved, *_sensitivities(agent), *weights)
        others = found.last_value, found.state, found.core_input
        ctx.mark_non_differentiable(*others)
        return found.logits, found.values, *others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logits: Tensor, by_values: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        is_first, state, saved, *_ = ctx.saved_tensors
        agent: native_agent.RolloutAgent = ctx.agent
        gradient = native_agent.backward(agent, by_logits, by_values, is_first, state, saved)
        if any(part.traces is not None and part.traces.advance for part in agent.parts):
            # Autograd does not see what the kernels write: with this a second backward pass raises.
            increment_version(_sensitivities(agent))
        weights = agent.parameters
        of_each = gradient.split([weight.numel() for weight in weights])
        return *[None] * 6, *(each.view_as(weight) for each, weight in zip(of_each, weights, strict=True))


def _cells(core: Core) -> list[Core]:
    return core.cores() if type(core) is Mixed else [core]


def _layer(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return linear.weight, linear.bias


def _sensitivities(agent: native_agent.RolloutAgent) -> list[Tensor]:
    return [each for part in agent.parts if part.traces for each in (part.traces.weight, part.traces.vectors)]
