"""The settings of a learner, in a module without torch: the command line reads it to show its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ON_POLICY = frozenset({"ppo", "stream", "td"})
"""Algorithms that learn from rollouts made by the newest weights."""
ONE_STEP = frozenset({"stream", "td"})
"""Those of them whose rollouts have one step."""


@dataclass(frozen=True)
class LearnerConfig:
    """How the agent learns."""

    algorithm: Literal["vtrace", "ppo", "stream", "td"] = "vtrace"
    """What an update makes of a batch: one step of the actor-critic with V-trace's targets (vtrace), several epochs of
    clipped steps (ppo), one step of the actor-critic with eligibility traces after each step of the environment
    (stream), or the same of the value alone, of a policy that stays as it is: uniform, where actions are discrete
    (td)."""
    discount: float = 0.99
    """Discount per step (gamma)."""
    optimiser: Literal["rmsprop", "adam", "sgd"] = "rmsprop"
    """RMSProp with the paper's settings, Adam, or plain gradient descent."""
    learning_rate: float = 6e-4
    """Learning rate at the start."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """Whether the learning rate falls linearly to zero over the training's steps."""
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
    vtrace_lambda: float = 1.0
    """V-trace's mixing of returns of all lengths; 1, the paper's, takes the longest."""
    n_epochs: int = 10
    """PPO: passes over a batch."""
    num_minibatches: int = 1
    """PPO: parts, by streams, into which each pass divides the batch, with a step each."""
    gae_lambda: float = 0.95
    """PPO: lambda of generalised advantage estimation (GAE)."""
    clip_range: float = 0.2
    """PPO: how far the ratio of the new to the old probability of an action counts."""
    clip_range_vf: float | Literal["none"] = "none"
    """PPO: bound on how far the value can move from its old one in the loss; none: no bound."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """PPO: whether both clips fall linearly to zero over the training's steps."""
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """PPO: whether the entropy bonus falls linearly to zero over the training's steps."""
    normalise_advantage: bool = True
    """PPO: give the advantages of a batch mean 0 and deviation 1."""
    target_kl: float | Literal["none"] = "none"
    """PPO: no more steps by a batch once the policy is 1.5 times this far (in nats) from the one that acted."""
    trace_lambda: float = 0.8
    """Stream and TD: lambda of the eligibility traces, which fade by discount * lambda in a step."""
    step_bound: float = 2.0
    """Stream and TD: a step is made smaller where it might overshoot, by this factor of safety (kappa); 0: never."""
    refresh_every: int = 0
    """Updates after which the sensitivities of all streams are computed again from their last rollouts, at the present
    parameters; 0: never."""
    refresh_rollouts: int = 16
    """With refresh_every: rollouts of each stream that are kept for it; of what lies before them the credit is lost."""
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

    @property
    def on_policy(self) -> bool:
        """Whether a batch is to hold the rollouts of all streams, made by the newest weights."""
        return self.algorithm in ON_POLICY
