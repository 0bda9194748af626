"""The cores that ``--core`` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from r2ac.agents.config import AgentConfig
from r2ac.agents.core import Core
from r2ac.agents.feedforward import FeedForward
from r2ac.agents.recurrent import ELSTM, Recurrent
from r2ac.kernels import CELLS


def _recurrent(cell: str, input_size: int, config: AgentConfig) -> Core:
    return Recurrent(cell, input_size, config.hidden_size, config.gradient, config.chrono_steps)


CORES: dict[str, Callable[[int, AgentConfig], Core]] = {
    **{cell: partial(_recurrent, cell) for cell in CELLS},
    "elstm": lambda size, config: ELSTM(size, config.hidden_size, config.gradient, config.chrono_steps),
    "feedforward": lambda size, config: FeedForward(size, config.hidden_size),
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
