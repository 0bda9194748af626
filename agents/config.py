"""The settings of an agent, in a module without torch: the command line reads it to show its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gradient = Literal["rtrl", "tbptt"]
EncoderName = Literal["auto", "impala", "nature", "patch", "mlp", "none"]
ReadoutName = Literal["linear", "mlp"]
TimeScales = Literal["uniform", "log-uniform"]
LayerGradient = Literal["rollout", "local", "full"]
FIXED_GRADIENTS: dict[str, Gradient | None] = {"feedforward": None, "lstm": "tbptt", "gru": "tbptt"}
"""The gradient through time of every core that RTRL cannot train; None: it has no memory, and so no such gradient."""


@dataclass(frozen=True)
class AgentConfig:
    """What the agent is made of."""

    gradient: Gradient = "rtrl"
    """How the recurrent core is trained: exactly (rtrl), or truncated at the rollout's start (tbptt)."""
    core: str = "elstm"
    """The core: a recurrent cell by its name, such as elstm, mingru or lru (a name that is unknown lists all), or units
    of several cells side by side (mixed:elstm+lru); PyTorch's lstm or gru, fully recurrent, which only TBPTT can train;
    or the feed-forward one of the eLSTM's capacity that cannot remember (feedforward)."""
    freeze_core: bool = False
    """Keep the whole core, with its output gate, as it was drawn: a reservoir that read-out and heads learn to read.
    There are no sensitivities; an encoder below it learns by TBPTT."""
    hidden_size: int = 256
    """Units of the core (N), of all its cells together; with several layers, of each."""
    layers: int = 1
    """Cores one above the other; each reads the output of the one below."""
    layer_gradient: LayerGradient = "rollout"
    """With several layers, what reaches a lower one from those above: the gradient through their time inside the
    rollout (rollout), inside each step only (local), or the exact one from the first step on, for small sizes (full).
    Within each layer it is that of --gradient."""
    match_parameters: str | None = None
    """Choose --hidden-size so that the agent has as many parameters, as nearly as can be, as it would have with this
    core and the --hidden-size given; the run's settings hold the size that was chosen."""
    encoder: EncoderName = "auto"
    """What stands below the core: for images IMPALA's network, or the small one of DQN (nature), or for pictures under
    36x36 one layer of patches (patch); for vectors an MLP, or none; auto takes the first."""
    encoder_features: int = 256
    """Features that the encoder hands to the core, beside the last reward."""
    chrono_steps: int = 0
    """Longest time scale, in steps, over which the forget gates are spread at the start; 0: biases start at zero."""
    time_scales: TimeScales = "uniform"
    """How the time scales u in [1, --chrono-steps] are spread over the units: u uniform, or log u (log-uniform), which
    gives as many units to 1 to 10 steps as to 10 to 100."""
    input_scale: float | None = None
    """Standard deviation of the core's input weights at the start; None: the paper's 0.1, which is small for inputs of
    zeros and ones (of lstm and gru: PyTorch's start)."""
    recurrent_scale: float | None = None
    """Standard deviation of the core's recurrent weights at the start; None: the paper's 0.1 (of lstm and gru:
    PyTorch's start). Refused for cells that have none."""
    output_gate: bool | None = None
    """Scale the core's output by a gate that reads the core's input and its state, outside the recurrence; None: as the
    core has it, which is yes for elstm and feedforward, no for the others."""
    layer_norm: bool = False
    """Bring the core's output h, at each step, to mean 0 and variance 1 over its own numbers before the read-out; no
    weights. The state is left as it is."""
    readout: ReadoutName = "linear"
    """What stands between the core and the linear heads of policy and value: nothing, or a layer of ReLUs (mlp)."""
    readout_size: int = 64
    """Units of the layer, with --readout mlp."""
    readout_skip: bool = False
    """Let the read-out see the core's input beside its output."""
    reward_clip: float | Literal["none"] = 1.0
    """Bound that rewards are clipped to, in the losses and in the core's input; none: as the environment gives them."""
    normalise_rewards: bool = False
    """Divide rewards, before they are clipped, by the running deviation of the discounted return."""
    normalise_observations: bool = False
    """Subtract the running mean from observations that are vectors, divide them by the running deviation, and clip them
    at 10; images stay as they are."""
    action_deviation: Literal["state-independent", "state-dependent"] = "state-independent"
    """The deviations of continuous actions: one parameter each, or computed by the network in every step."""
    squash_actions: bool = False
    """Squash continuous actions by tanh and scale them to their bounds, instead of clipping them."""

    @property
    def label(self) -> str:
        """The agent in a few words: its layers where there are several, the core where it is not the eLSTM, and what
        trains it."""
        return agent_label(self.core, self.gradient, self.freeze_core, self.layers)


def only_gradient(agent: AgentConfig) -> Gradient | None:
    """The one value that ``gradient`` can have with the agent's other settings; None: any."""
    return FIXED_GRADIENTS.get(agent.core, "tbptt" if agent.freeze_core else None)


def gradient_of(core: str | None, gradient: str | None, frozen: bool | None = None) -> str | None:
    """What trains a core where ``gradient`` is asked for; "frozen": nothing."""
    return "frozen" if frozen else FIXED_GRADIENTS.get(core or "", gradient)


def agent_label(core: str | None, gradient: str | None, frozen: bool | None = None, layers: int | None = None) -> str:
    """:attr:`AgentConfig.label` from settings of which old runs may lack some."""
    depth = f"{layers}-layer" if layers is not None and layers > 1 else None
    names = (depth, core if core != "elstm" else None, gradient_of(core, gradient, frozen))
    return " ".join(name for name in names if name)
