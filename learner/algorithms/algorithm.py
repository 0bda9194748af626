"""The interface between the learner and an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from r2ac.agents import Agent, Carry, RolloutOutput
from r2ac.learner.collective import Collective
from r2ac.learner.config import LearnerConfig
from r2ac.learner.rollout import Rollout


@dataclass(frozen=True)
class Losses:
    """Losses of T steps of B streams, scalar tensors summed over T and B."""

    total: Tensor
    """What is minimised."""
    parts: dict[str, Tensor]
    """What is reported beside it, by names of :attr:`Algorithm.metrics`; detached."""
    kernel_backward: Callable[[float], Tensor | None] | None = None
    """What :meth:`backward` does where a kernel computed the losses; None where autograd has recorded them."""

    def backward(self, scale: float = 1.0) -> Tensor | None:
        """Give parameters, which have none, the gradient of ``scale`` times the total. Returns it as one vector whose
        views the gradients are, or None where each has memory of its own."""
        if self.kernel_backward is not None:
            return self.kernel_backward(scale)
        (self.total if scale == 1 else self.total * scale).backward()
        return None


@dataclass(frozen=True)
class Descent:
    """What came of a step of the optimiser."""

    metrics: dict[str, Tensor]
    """Losses per step and the norm of the gradient before clipping, scalar tensors."""
    finite: Tensor
    """Bool scalar; false where the loss or the gradient was not finite and no step was made."""
    made: Tensor
    """Bool scalar: whether the step was made."""

    kept: Tensor | None = None
    """[B] bool, the streams whose traces are sound, where that is not ``finite`` for all of them."""


StepCondition = Callable[[dict[str, Tensor]], Tensor]
"""Whether a step is to be made (bool scalar), from the losses per step of all learners."""


class OptimiserSteps(Protocol):
    """One step of the optimiser, as :class:`~r2ac.learner.learner.Learner` makes it. With several learners gradients
    and losses of all are summed first."""

    def descend(
        self,
        losses: Losses,
        batch: Rollout[Tensor],
        carry: Carry,
        mean: bool = False,
        condition: StepCondition | None = None,
    ) -> Descent:
        """By the gradient of the losses of a batch that began with a carry, summed over its steps, or their mean."""

    def apply(
        self,
        sums: dict[str, Tensor],
        steps: int,
        condition: StepCondition | None = None,
        gradients: list[Tensor] | None = None,
    ) -> Descent:
        """By the gradients that the parameters have. ``sums``: the loss/total and the metrics, over ``steps`` steps;
        ``gradients``: the memory of all gradients, where parameters share one."""


@dataclass(frozen=True)
class UpdateContext:
    """What an algorithm works with."""

    agent: Agent
    config: LearnerConfig
    num_streams: int
    """Of all rollout actors of this learner together."""
    collective: Collective
    optimise: OptimiserSteps
    remaining: Tensor
    """The share of the training that is to come, from 1 to 0, a scalar on the learner's device."""


class Algorithm(Protocol):
    """How a batch becomes an update, of an agent with a policy and a value; what its actions are,
    `RolloutOutput.actions` knows. One is made for each learner:
    ``ALGORITHMS[name](context)``; what it keeps from update to update are its attributes."""

    metrics: tuple[str, ...]
    """The names of what it reports beside loss/total and loss/gradient_norm."""
    descends: bool
    """Whether it makes its updates by :meth:`OptimiserSteps.descend`, whose backward pass RTRL's metrics measure."""
    traces: Sequence[Tensor]
    """Eligibility traces of all streams, [num_streams, ...] for each parameter; none where it has no use for them."""

    def __init__(self, context: UpdateContext) -> None: ...

    @staticmethod
    def losses(output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Losses:
        """Losses of a batch from what the agent computed over it."""

    def update(self, batch: Rollout[Tensor], carry: Carry) -> tuple[Carry, Descent]:
        """Runs the agent over a batch, once or more often, and changes its weights; returns the carry after step T and
        what the update reports. The traces of the batch's streams have then crossed the rollout once. It may be
        captured as a CUDA graph: it neither waits for the device nor branches on its numbers."""
