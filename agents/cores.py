"""The cores that ``--core`` names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from r2ac.agents.composite import Mixed, Stack
from r2ac.agents.config import AgentConfig, gradient_of
from r2ac.agents.core import Core
from r2ac.agents.feedforward import FeedForward
from r2ac.agents.full import FullStack
from r2ac.agents.lstm import GRU, LSTM
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


def _fully_recurrent(kind: type[LSTM] | type[GRU], input_size: int, config: AgentConfig) -> Core:
    refuse_settings(config, "output_gate")
    return kind(
        input_size,
        config.hidden_size,
        config.chrono_steps,
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
            allowed = f"{default} for the core {config.core}, which does not use it"
            raise ValueError(f"{name} is {value}, but it must be {allowed}")


CORES: dict[str, Callable[[int, AgentConfig], Core]] = {
    **{cell: partial(_recurrent, cell) for cell in CELLS},
    "lstm": partial(_fully_recurrent, LSTM),
    "gru": partial(_fully_recurrent, GRU),
    "feedforward": _feedforward,
}
"""Makes a core from the size of its input and the agent's settings: every cell by its name, and what is no cell."""

MIXED = "mixed:"
"""Before the names of cells, with + between them: units of each side by side."""


def is_core(name: str) -> bool:
    """Whether `make_core` knows the name."""
    return name in CORES or len(_cells_of(name)) > 1


CORE_NAMES = (
    f"{', '.join(CELLS)}, several of these as {MIXED}a+b, or {', '.join(name for name in CORES if name not in CELLS)}"
)
"""What `is_core` allows, in words."""


def make_core(input_size: int, config: AgentConfig) -> Core:
    """The core that ``config`` names, of its ``layers``.

    Raises:
        ValueError: for an unknown name, layers below 1, or settings that the core refuses.
    """
    full = config.layer_gradient == "full"
    if full and gradient_of(config.core, config.gradient, config.freeze_core) != "rtrl":
        raise ValueError(
            "layer_gradient is full, but it must be rollout or local with an agent that is trained without "
            f"sensitivities ({config.label})"
        )
    if config.freeze_core:
        learning = replace(config, freeze_core=False, gradient="tbptt")
        return make_core(input_size, learning).requires_grad_(False)
    if not is_core(config.core):
        raise ValueError(f"core must be one of {CORE_NAMES}, not {config.core!r}")
    if config.layers < 1:
        raise ValueError(f"layers must be at least 1, not {config.layers}")
    make = CORES.get(config.core, _mixed)
    if config.layers == 1:
        if config.layer_gradient != AgentConfig.layer_gradient:
            raise ValueError(f"layer_gradient is {config.layer_gradient}, but layers is 1: there is no layer below")
        return make(input_size, config)
    # Sensitivities of the whole stand in for those of its layers.
    layer = replace(config, gradient="tbptt") if full else config
    layers = [make(input_size, layer)]
    while len(layers) < config.layers:
        layers.append(make(layers[-1].output_size, layer))
    return FullStack(layers) if full else Stack(layers, config.layer_gradient)


def _cells_of(core: str) -> list[str]:
    """The cells of a mixed core, none where it is no such name."""
    cells = core.removeprefix(MIXED).split("+") if core.startswith(MIXED) else []
    return cells if all(cell in CELLS for cell in cells) else []


def _mixed(input_size: int, config: AgentConfig) -> Core:
    """The units are dealt out evenly; a scale of recurrent weights goes to the cells that have such weights."""
    cells, core = _cells_of(config.core), config.core
    sizes = [(config.hidden_size + k) // len(cells) for k in reversed(range(len(cells)))]
    if min(sizes) < 1:
        raise ValueError(f"hidden_size must be at least {len(cells)} for the core {core}, not {config.hidden_size}")
    recurrent = [cell for cell in cells if "recurrent_weight" in CELLS[cell].own]
    if not recurrent:
        refuse_settings(config, "recurrent_scale")
    parts = []
    for cell, size in zip(cells, sizes, strict=True):
        scale = config.recurrent_scale if cell in recurrent else None
        parts.append(_recurrent(cell, input_size, replace(config, hidden_size=size, recurrent_scale=scale)))
    return Mixed(parts)
