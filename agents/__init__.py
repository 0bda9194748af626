"""Encoders, recurrent cores, heads: what an agent is."""

from r2ac.agents.agent import Agent, AgentConfig, ObservationSpec, RolloutOutput, StepOutput
from r2ac.agents.elstm import ELSTM, Carry, Gradient
from r2ac.agents.encoders import ImpalaEncoder, MLPEncoder, NatureEncoder
from r2ac.agents.feedforward import FeedForward
from r2ac.agents.instruction import InstructionEncoder

__all__ = [
    "ELSTM",
    "Agent",
    "AgentConfig",
    "Carry",
    "FeedForward",
    "Gradient",
    "ImpalaEncoder",
    "InstructionEncoder",
    "MLPEncoder",
    "NatureEncoder",
    "ObservationSpec",
    "RolloutOutput",
    "StepOutput",
]
