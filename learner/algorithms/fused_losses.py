"""The losses of V-trace and PPO where actions are discrete, on a CPU, each with its gradient by one kernel.

The readable references are :meth:`ActorCritic.losses` and :func:`clipped_losses`. Why: for a small agent their dozens
of operations, and those of their backward pass, take longer than its matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from r2ac.agents import DiscreteActions, RolloutOutput
from r2ac.kernels import is_traced, kernels_for
from r2ac.kernels.native_losses import LossGradients
from r2ac.learner.algorithms.algorithm import Losses


def fits(output: RolloutOutput) -> bool:
    """Whether the kernels compute the losses of what the agent computed."""
    logits = output.logits
    discrete = isinstance(output.actions, DiscreteActions)
    return discrete and kernels_for(logits).name == "native" and not is_traced(logits)


@torch.no_grad()
def fused(kernel: Callable[..., LossGradients], output: RolloutOutput, metrics: Sequence[str], *given: Any) -> Losses:
    """The losses that a kernel of :mod:`r2ac.kernels.native_losses` computes of logits, values and what else is
    ``given``; ``metrics`` names its sums after the first."""
    found = kernel(output.logits, output.values, *given)
    total, *parts = found.sums.unbind()
    return Losses(total, dict(zip(metrics, parts, strict=False)), partial(_backward, output, found))


def _backward(output: RolloutOutput, found: LossGradients, scale: float) -> Tensor | None:
    by_logits, by_values = found.by_logits, found.by_values
    if scale != 1:
        by_logits, by_values = by_logits * scale, by_values * scale
    if output.pullback is not None:
        return output.pullback(by_logits, by_values)
    torch.autograd.backward((output.logits, output.values), (by_logits, by_values))
    return None
