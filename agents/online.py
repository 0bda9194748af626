"""An agent that learns online, as the kernel of its steps takes it.

The readable reference is :mod:`r2ac.learner.algorithms.stream` with :class:`ClosedForm`.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from r2ac.agents.agent import Agent
from r2ac.agents.closed_form import ClosedForm
from r2ac.agents.encoders import NoEncoder
from r2ac.agents.moments import OBSERVATION_BOUND
from r2ac.agents.recurrent import Recurrent
from r2ac.kernels import kernels_for


class OnlineAgent:
    """An agent around an eLSTM, as the kernels for CPUs take it. Use it where :meth:`fits`."""

    def __init__(self, agent: Agent) -> None:
        core, readout = agent.core, agent.readout
        assert isinstance(core, Recurrent)
        self.skip = readout.skip
        self.layers: list[Tensor | None] = list(core.recurrent_parameters)
        for layer in (core.output_gate, readout.hidden, agent.policy, agent.value):
            self.layers += (None, None) if layer is None else (layer.weight, layer.bias)
        observations, rewards = agent.observations, agent.rewards
        self.layers += (None, None) if observations is None else (observations.mean, observations.deviation)
        bounds = inf if rewards.clip == "none" else rewards.clip, OBSERVATION_BOUND
        self.layers += (rewards.deviation, core.bias.new_tensor(bounds))
        self.action_sizes = torch.tensor(agent.actions.sizes)

    @staticmethod
    def fits(agent: Agent) -> bool:
        """Whether the kernels know all layers, and all are to be learned, but for the policy, which may be frozen: an
        agent for which :class:`ClosedForm` fits, with an eLSTM that reads the observation as it is."""
        core = agent.core
        if not (isinstance(core, Recurrent) and core.cell_name == "elstm" and ClosedForm.fits(agent)):
            return False
        layers = (core, agent.readout, agent.value)
        if not isinstance(agent.encoder, NoEncoder) or agent.instruction_encoder is not None:
            return False
        learned = all(each.requires_grad for layer in layers for each in layer.parameters())
        policy = {each.requires_grad for each in agent.policy.parameters()}
        return learned and len(policy) == 1 and kernels_for(core.bias).name == "native"
