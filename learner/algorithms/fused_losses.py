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
from torch.autograd.function import once_differentiable

from r2ac.agents import DiscreteActions, RolloutOutput
from r2ac.kernels import is_traced, kernels_for
from r2ac.kernels.native_losses import LossGradients
from r2ac.learner.algorithms.algorithm import Losses


def fits(output: RolloutOutput) -> bool:
    """Whether the kernels compute the losses of what the agent computed."""
    logits = output.logits
    discrete = isinstance(output.actions, DiscreteActions)
    return discrete and kernels_for(logits).name == "native" and not is_traced(logits)


def fused(kernel: Callable[..., LossGradients], output: RolloutOutput, metrics: Sequence[str], *given: Any) -> Losses:
    """The losses that a kernel of :mod:`r2ac.kernels.native_losses` computes of logits, values and what else is
    ``given``; ``metrics`` names its sums after the first."""
    if output.pullback is None:
        total, sums = _Losses.apply(kernel, output.logits, output.values, *given)
        return Losses(total, dict(zip(metrics, sums[1:].unbind(), strict=False)))
    found = kernel(output.logits, output.values, *given)
    total, *parts = found.sums.unbind()
    return Losses(total, dict(zip(metrics, parts, strict=False)), partial(_pull_back, output.pullback, found))


def _pull_back(pullback: Callable[[Tensor, Tensor], Tensor], found: LossGradients, scale: float) -> Tensor:
    if scale == 1:
        return pullback(found.by_logits, found.by_values)
    return pullback(found.by_logits * scale, found.by_values * scale)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Callable[..., LossGradients], *given: Any) -> tuple[Tensor, Tensor]:
        found = kernel(*given)
        ctx.save_for_backward(found.by_logits, found.by_values)
        ctx.mark_non_differentiable(found.sums)
        ctx.others = len(given) - 2
        return found.sums[0].clone(), found.sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        by_logits, by_values = ctx.saved_tensors
        return None, by_logits * by_total, by_values * by_total, *[None] * ctx.others
