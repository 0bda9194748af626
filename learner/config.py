"""The settings of a learner, in a module without torch: the command line reads it to show its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearnerConfig:
    """How the agent learns."""

    algorithm: Literal["vtrace"] = "vtrace"
    """What an update makes of a batch: the actor-critic with V-trace's targets."""
    discount: float = 0.99
    """Discount per step (gamma)."""
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp with the paper's settings, or Adam."""
    learning_rate: float = 6e-4
    """Learning rate at the start; it falls linearly to zero over the training's steps."""
    max_gradient_norm: float = 40.0
    """The gradient is scaled down to this global norm."""
    baseline_cost: float = 0.5
    """Weight of the value head's loss (0.5 times the squared error)."""
    entropy_cost: float = 0.01
    """Weight of the entropy bonus."""
    clip_rho: float = 1.0
    """V-trace's clip of the importance weights in the value targets."""
    clip_pg_rho: float = 1.0
    """V-trace's clip of the importance weights in the policy gradient."""
    clip_c: float = 1.0
    """V-trace's clip of the importance weights that cut the traces."""
    max_skipped_updates: int = 10
    """The run stops after so many updates in a row with a loss or gradient that is not finite."""
    matmul_precision: Literal["highest", "high"] = "highest"
    """float32 products and convolutions on a GPU: in float32, or in TF32 (good to three digits)."""
    encoder_precision: Literal["float32", "bfloat16"] = "float32"
    """What the encoder computes in; its weights and all that follows stay float32."""
    sensitivity_storage: Literal["float32", "bfloat16"] = "float32"
    """How sensitivities are stored; bfloat16 halves their memory and makes the gradient inexact."""
    cuda_graph: bool = True
    """On a GPU, run an update as one CUDA graph."""
    rtrl_metrics_every: int = 20
    """Measure what RTRL adds to the gradient in about one update of so many (on a GPU in each); 0: never."""
