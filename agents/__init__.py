"""Encoders, recurrent cores, heads: what an agent is. What needs torch is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from r2ac.agents.config import AgentConfig, Gradient

if TYPE_CHECKING:
    from r2ac.agents.actions import ActionSpec, BoxActions, DiscreteActions, MultiDiscreteActions
    from r2ac.agents.agent import Agent, ObservationSpec, RolloutOutput, StepOutput
    from r2ac.agents.closed_form import ClosedForm
    from r2ac.agents.core import Carry, Core
    from r2ac.agents.cores import CORE_NAMES, CORES, is_core
    from r2ac.agents.elstm import ELSTM
    from r2ac.agents.encoders import ImpalaEncoder, MLPEncoder, NatureEncoder, PatchEncoder
    from r2ac.agents.feedforward import FeedForward
    from r2ac.agents.fused import FusedActor
    from r2ac.agents.instruction import InstructionEncoder
    from r2ac.agents.lstm import GRU, LSTM
    from r2ac.agents.online import OnlineAgent
    from r2ac.agents.recurrent import Recurrent
    from r2ac.agents.recurrent_check import check_recurrent

__all__ = [
    "CORES",
    "CORE_NAMES",
    "ELSTM",
    "GRU",
    "LSTM",
    "ActionSpec",
    "Agent",
    "AgentConfig",
    "BoxActions",
    "Carry",
    "ClosedForm",
    "Core",
    "DiscreteActions",
    "FeedForward",
    "FusedActor",
    "Gradient",
    "ImpalaEncoder",
    "InstructionEncoder",
    "MLPEncoder",
    "MultiDiscreteActions",
    "NatureEncoder",
    "ObservationSpec",
    "OnlineAgent",
    "PatchEncoder",
    "Recurrent",
    "RolloutOutput",
    "StepOutput",
    "check_recurrent",
    "is_core",
]

_MODULES = (
    "actions",
    "agent",
    "closed_form",
    "cores",
    "elstm",
    "encoders",
    "fused",
    "online",
    "recurrent",
    "recurrent_check",
)
"""Where all other names are found."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"{__name__}.{module}" for module in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
