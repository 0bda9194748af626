"""Agents of different cores with as many parameters."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from functools import partial

import torch

from r2ac.agents.agent import Agent, ObservationSpec
from r2ac.agents.config import AgentConfig

_MOST_UNITS = 2**16


def matched_size(spec: ObservationSpec, config: AgentConfig) -> int:
    """The ``hidden_size`` with which the agent has as many parameters, as nearly as can be, as it would have with the
    core ``config.match_parameters`` and ``config.hidden_size``.

    Raises:
        ValueError: for settings of which there can be no agent.
    """
    assert config.match_parameters is not None
    plain = replace(config, chrono_steps=0, time_scales="uniform", input_scale=None, recurrent_scale=None)
    # Sensitivities across layers have a bound that sizes on the way would break.
    plain = replace(plain, layer_gradient=AgentConfig.layer_gradient)
    count, other = partial(_count, spec, plain), replace(plain, core=config.match_parameters, output_gate=None)
    wanted = _count(spec, other, config.hidden_size)
    # A mixed core has a unit of each of its cells.
    sizes = range(1 + config.core.count("+"), _MOST_UNITS)
    place = bisect_left(sizes, wanted, key=count)
    return min(sizes[max(place - 1, 0) : place + 1], key=lambda size: abs(count(size) - wanted))


def _count(spec: ObservationSpec, config: AgentConfig, hidden_size: int) -> int:
    # There, tensors have shapes and no memory.
    with torch.device("meta"):
        return Agent(spec, replace(config, hidden_size=hidden_size)).parameter_count()
