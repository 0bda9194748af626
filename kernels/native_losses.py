"""The kernels of returns and losses for discrete actions on CPUs, whose readable forms are in
:mod:`r2ac.learner.algorithms`. As in :mod:`r2ac.kernels.native`, bad arguments raise ValueError, and no gradients are
recorded. Steps are the axes before the last of the logits, [..., P]: one or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from r2ac.kernels.native import call, check_type, ready


class LossGradients(NamedTuple):
    """Losses and their gradients."""

    sums: Tensor
    """Over all steps: the loss, the losses of policy and baseline, the entropy, Schulman's estimate of KL(old || new)
    and the number of clipped ratios, [6]."""
    by_logits: Tensor
    by_values: Tensor


def vtrace(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    settings: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Targets and advantages, [T, B], of :func:`r2ac.learner.algorithms.vtrace.vtrace`; ``settings``: its clip_rho,
    clip_pg_rho, clip_c and lambda_."""
    check_type(values)
    (steps, batch), dtype = values.shape, values.dtype
    given = (
        ready("log_rhos", log_rhos, values.shape, dtype),
        ready("discounts", discounts, values.shape, dtype),
        ready("rewards", rewards, values.shape, dtype),
        values.contiguous(),
        ready("bootstrap_value", bootstrap_value, (batch,), dtype),
        _numbers("settings", settings, 4, dtype),
    )
    results = torch.empty_like(given[1]), torch.empty_like(given[1])
    call("vtrace", (*given, *results), (steps, batch), work=0)
    return results


def vtrace_losses(
    logits: Tensor,
    values: Tensor,
    action: Tensor,
    behaviour_logits: Tensor,
    bootstrap_value: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    settings: Sequence[float],
    costs: Sequence[float],
) -> LossGradients:
    """V-trace's losses of logits, [T, B, P], and values, [T, B]; ``settings``: those of :func:`vtrace`; ``costs``: of
    the baseline and of the entropy."""
    (steps, batch), dtype = values.shape, logits.dtype
    check_type(logits)
    given = (
        ready("logits", logits, (steps, batch, logits.shape[-1]), dtype),
        ready("behaviour_logits", behaviour_logits, logits.shape, dtype),
        _actions(action, logits),
        ready("values", values, (steps, batch), dtype),
        ready("bootstrap_value", bootstrap_value, (batch,), dtype),
        ready("discounts", discounts, (steps, batch), dtype),
        ready("rewards", rewards, (steps, batch), dtype),
        _numbers("settings and costs", (*settings, *costs, inf, inf), 8, dtype),
    )
    return _call("vtrace_losses", given, (steps, batch, logits.shape[-1]))


def actor_critic_losses(
    logits: Tensor,
    values: Tensor,
    action: Tensor,
    advantages: Tensor,
    targets: Tensor,
    costs: Sequence[float],
    behaviour_logits: Tensor | None = None,
    old_values: Tensor | None = None,
) -> LossGradients:
    """The losses of logits, [..., P], and values, [...], as V-trace has them, or PPO's where ``behaviour_logits`` are
    given; ``costs``: of the baseline and of the entropy, and PPO's bounds of ratio and value; the last counts with
    ``old_values`` alone."""
    check_type(logits)
    shape, dtype = values.shape, logits.dtype
    given = (
        logits.contiguous(),
        None if behaviour_logits is None else ready("behaviour_logits", behaviour_logits, logits.shape, dtype),
        _actions(action, logits),
        ready("values", values, logits.shape[:-1], dtype),
        None if old_values is None else ready("old_values", old_values, shape, dtype),
        ready("advantages", advantages, shape, dtype),
        ready("targets", targets, shape, dtype),
        _numbers("costs", costs, 4, dtype),
    )
    return _call("actor_critic_losses", given, (values.numel(), logits.shape[-1]))


def _call(name: str, given: Sequence[Any], sizes: Sequence[int]) -> LossGradients:
    """Of arrays that begin with logits, behaviour logits, actions and values."""
    logits, _, _, values, *_ = given
    found = LossGradients(logits.new_empty(6), torch.empty_like(logits), torch.empty_like(values))
    call(name, (*given, found.by_logits, found.by_values, found.sums), sizes, work=0)
    return found


def _numbers(name: str, values: Sequence[float], count: int, dtype: torch.dtype) -> Tensor:
    if len(values) != count:
        raise ValueError(f"{name} must be {count} numbers, not {len(values)}")
    return torch.tensor(values, dtype=dtype, device="cpu")


def _actions(action: Tensor, logits: Tensor) -> Tensor:
    """The same, if each is one of the P."""
    least, most = torch.aminmax(action) if action.numel() else (0, 0)
    if least < 0 or most >= logits.shape[-1]:
        raise ValueError(f"actions must lie in 0 to {logits.shape[-1] - 1}, not {int(least)} to {int(most)}")
    return ready("action", action, logits.shape[:-1], torch.int64)
