"""The interface between the learner and an algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from r2ac.agents import Agent, Carry, RolloutOutput
from r2ac.learner.config import LearnerConfig
from r2ac.learner.rollout import Rollout


@dataclass(frozen=True)
class Losses:
    """Losses of T steps of B streams, scalar tensors summed over T and B."""

    total: Tensor
    """What is minimised."""
    parts: dict[str, Tensor]
    """What is reported beside it, by the names in :attr:`Algorithm.metrics`; detached."""


@dataclass(frozen=True)
class Descent:
    """A step of the optimiser."""

    metrics: dict[str, Tensor]
    """Losses per step and the norm of the gradient before clipping, scalar tensors."""
    finite: Tensor
    """Bool scalar; false where the loss or the gradient was not finite and no step was made."""


Descend = Callable[[Losses, Rollout[Tensor], Carry], Descent]
"""`Learner._descend`: one step of the optimiser, by the gradient of the losses of a batch that began with a carry. With
several learners the gradients and losses of all are summed first."""


@dataclass(frozen=True)
class Algorithm:
    """How a batch becomes an update. The agent's heads are a policy over discrete actions and a value."""

    metrics: tuple[str, ...]
    """The names of :attr:`Losses.parts`."""
    losses: Callable[[RolloutOutput, Rollout[Tensor], LearnerConfig], Losses]
    """Losses of a batch from what the agent computed over it."""
    update: Callable[[Agent, Rollout[Tensor], Carry, LearnerConfig, Descend], tuple[Carry, Descent]]
    """Runs the agent over a batch, once or more often, and descends; returns the carry after step T and what the
    update reports. It may be captured as a CUDA graph: it neither waits for the device nor branches on its numbers."""
