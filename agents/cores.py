"""The cores that ``--core`` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from r2ac.agents.config import AgentConfig
from r2ac.agents.core import Core
from r2ac.agents.feedforward import FeedForward
from r2ac.agents.recurrent import Recurrent
from r2ac.kernels import CELLS


def _recurrent(cell: str, input_size: int, config: AgentConfig) -> Core:
    return Recurrent(
        cell,
        input_size,
        config.hidden_size,
        config.gradient,
        config.chrono_steps,
        output_gate=config.output_gate,
        input_scale=config.input_scale,
        recurrent_scale=config.recurrent_scale,
        time_scales=config.time_scales,
    )


def _feedforward(input_size: int, config: AgentConfig) -> Core:
    refuse_settings(config, "recurrent_scale", "time_scales")
    return FeedForward(input_size, config.hidden_size, config.output_gate is not False, config.input_scale)


def refuse_settings(config: AgentConfig, *names: str) -> None:
    """For a core to which these settings mean nothing: raises ValueError for the first that is not the default."""
    for name in names:
        value, default = getattr(config, name), getattr(AgentConfig, name)
        if value != default:
            raise ValueError(f"{name} is {value}, but it must be {default} for the core {config.core}, which has none")


CORES: dict[str, Callable[[int, AgentConfig], Core]] = {
    **{cell: partial(_recurrent, cell) for cell in CELLS},
    "feedforward": _feedforward,
}
"""Makes a core from the size of its input and the agent's settings: every cell by its name, and what is no cell."""


def make_core(input_size: int, config: AgentConfig) -> Core:
    """The core that ``config`` names.

    Raises:
        ValueError: for an unknown name, or settings that the core refuses.
    """
    if config.core not in CORES:
        raise ValueError(f"core must be one of {', '.join(CORES)}, not {config.core!r}")
    return CORES[config.core](input_size, config)
