"""The gradient of one step, stream by stream, written out: what autograd gives, in fewer and larger operations.

In a step the streams meet nowhere. The gradient of a linear layer is for each stream the product of its output's
gradient and its input; that of a cell follows from its derivatives (`Cell.linearise`), which also take RTRL's
sensitivities across the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from r2ac.agents.agent import Agent, StepOutput
from r2ac.agents.recurrent import Recurrent
from r2ac.kernels import Linearisation

Gradients = dict[Tensor, Tensor]
"""By parameter, [B, ...] each."""


@dataclass(frozen=True)
class StepGradients:
    """Of one step of B streams."""

    by_parameters: Gradients
    by_state: Tensor
    """By the core's state before the step, [B, S]."""
    linear: Linearisation
    """The derivatives of the core's cell; those by the state are 0 where an episode begins."""


class ClosedForm:
    """The gradients of an agent whose core is one layer of a cell. Use it where :meth:`fits`."""

    def __init__(self, agent: Agent) -> None:
        assert isinstance(agent.core, Recurrent)
        self._agent, self.core = agent, agent.core

    @staticmethod
    def fits(agent: Agent) -> bool:
        """Whether all that the agent learns has a form here: no encoder, no layer norm, discrete actions."""
        core, readout = agent.core, agent.readout
        if not isinstance(core, Recurrent) or readout.layer_norm or not agent.actions.sizes:
            return False
        modules = (core.output_gate, readout.hidden, agent.policy, agent.value)
        known = {*core.recurrent_parameters, *(each for part in modules if part for each in part.parameters())}
        return all(each in known for each in agent.parameters() if each.requires_grad)

    @torch.no_grad()
    def gradients(
        self, output: StepOutput, state: Tensor, is_first: Tensor, by_logits: Tensor, by_value: Tensor
    ) -> StepGradients:
        """Of a function of logits and value, whose gradients by these are [B, P] and [B].

        Args:
            output: what `Agent.step` returned.
            state, is_first: its arguments, [B, S] and [B].
        """
        agent, core, readout = self._agent, self.core, self._agent.readout
        x, after, gate = output.core_input, output.state, core.output_gate
        # Forwards: what the layers were given.
        h = after
        if gate is not None:
            given = torch.cat((x, after), dim=1)
            opening = torch.sigmoid(gate(given))
            h = opening * after
        read = torch.cat((h, x), dim=1) if readout.skip else h
        features = read if readout.hidden is None else torch.relu(readout.hidden(read))
        # Backwards.
        by_value = by_value.unsqueeze(1)
        found = _of_linear(agent.policy, features, by_logits) | _of_linear(agent.value, features, by_value)
        by_read = torch.addcmul(by_logits @ agent.policy.weight, by_value, agent.value.weight)
        if readout.hidden is not None:
            by_hidden = by_read.masked_fill(features == 0, 0)
            found |= _of_linear(readout.hidden, read, by_hidden)
            by_read = by_hidden @ readout.hidden.weight
        by_after = by_h = by_read[:, : h.shape[1]]
        if gate is not None:
            by_opening = by_h * h * (1 - opening)
            found |= _of_linear(gate, given, by_opening)
            by_after = torch.addmm(by_h * opening, by_opening, gate.weight[:, x.shape[1] :])
        linear = core.linearised(x, state, is_first)
        by_state, by_own, by_gates = core.pull(by_after, linear)
        recurrent = by_gates.unsqueeze(-1) * x[:, None, None], *by_own, by_gates
        found |= zip(core.recurrent_parameters, recurrent, strict=True)
        return StepGradients(found, by_state, linear)


def _of_linear(layer: nn.Linear, given: Tensor, by_output: Tensor) -> Gradients:
    """The gradients of a layer by its input [B, I] and the gradient by its output [B, O]."""
    found = {layer.weight: by_output.unsqueeze(2) * given.unsqueeze(1)}
    return found if layer.bias is None else found | {layer.bias: by_output}
