"""A rollout of a small agent on a CPU, forward and backward, and a step of those who act, each by one kernel.

The readable references are :meth:`Agent.forward`, with autograd, and :meth:`Agent.act`. Why: a small agent's matrix
products take less time than PyTorch's dispatch of the hundred operations around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from r2ac.agents.actions import ActionSpec, BoxActions, DiscreteActions, PolicyHead, masked
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


class Pullback:
    """The way back of the gradient through a rollout; see :attr:`RolloutOutput.pullback`."""

    def __init__(
        self,
        agent: native_agent.RolloutAgent,
        is_first: Tensor,
        state: Tensor,
        action_mask: Tensor | None,
        saved: Tensor,
    ) -> None:
        self._agent, self._is_first, self._state, self._mask = agent, is_first, state, action_mask
        self._saved: Tensor | None = saved

    def __call__(self, by_logits: Tensor, by_values: Tensor) -> Tensor:
        saved, self._saved = self._saved, None
        if saved is None:
            raise RuntimeError("the gradient of a rollout is taken once: then the sensitivities have crossed it")
        if self._mask is not None:
            by_logits = by_logits.masked_fill(~self._mask, 0)
        weights = self._agent.parameters
        with scope("agent backward"):
            gradient = native_agent.backward(self._agent, by_logits, by_values, self._is_first, self._state, saved)
        for weight, part in zip(weights, gradient.split([each.numel() for each in weights]), strict=True):
            weight.grad = part.view_as(weight)
        return gradient


def kernel_agent(agent: AgentLayers, carry: Carry, steps: int) -> native_agent.RolloutAgent | None:
    """The agent as the kernels take it, for so many steps of all streams together; None where they do not know all of
    its layers or tensors, or where it is large."""
    core, readout, state = agent.core, agent.readout, carry.state
    if not isinstance(agent.encoder, NoEncoder) or agent.instruction_encoder is not None:
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
        readout.layer_norm,
    )
    weights = sum(each.numel() for each in found.parameters)
    if weights > MOST_WEIGHTS or steps * weights > MOST_WORK:
        return None
    fit = (each.dtype == state.dtype and each.is_cpu and each.is_contiguous() for each in found.parameters)
    return found if all(fit) else None


@torch.no_grad()
def rollout(
    agent: AgentLayers,
    observation: Tensor,
    reward: Tensor,
    is_first: Tensor,
    carry: Carry,
    instruction: Tensor | None = None,
    final_observation: Tensor | None = None,
    action_mask: Tensor | None = None,
    bootstrap_value: Tensor | None = None,
) -> dict[str, Any] | None:
    """The fields of :meth:`Agent.rollout`'s result by their names, where a kernel computes them; None elsewhere, where
    the readable form would raise, and for actions whose losses have no kernel."""
    if instruction is not None or final_observation is not None or not isinstance(agent.actions, DiscreteActions):
        return None
    if len(carry.traces) != sum(cell.uses_rtrl for cell in _cells(agent.core)):
        return None
    known = kernel_agent(agent, carry, reward.numel())
    if known is None or not all(each.requires_grad for each in known.parameters):
        return None
    steps, dtype, beyond = reward.shape[0] - 1, carry.state.dtype, bootstrap_value is None
    shown = observation.to(dtype), reward.to(dtype), is_first
    if not beyond:
        shown = observation[:steps].to(dtype), reward[:steps].to(dtype), is_first[:steps]
    mask = None if action_mask is None else action_mask[:steps]
    with scope("agent"):
        found = native_agent.forward(known, *shown, carry.state, beyond)
        return {
            "logits": masked(found.logits, mask),
            "values": found.values,
            "bootstrap_value": found.last_value if bootstrap_value is None else bootstrap_value,
            "carry": Carry(found.state, tuple(replace(each, fresh=None) for each in carry.traces)),
            "core_input": found.core_input,
            "pullback": Pullback(known, shown[2], carry.state, mask, found.saved),
        }


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
        seen, dtype = (inputs["observation"], inputs["reward"], inputs["is_first"]), state.dtype
        fit = all(each.dtype == dtype for each in (*seen[:2], logits)) and not is_traced(state)
        if self._kernel is None or not fit or not self._kernel.fits(dtype):
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


def _cells(core: Core) -> list[Core]:
    return core.cores() if type(core) is Mixed else [core]


def _layer(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return linear.weight, linear.bias
