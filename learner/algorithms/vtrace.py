"""V-trace: off-policy corrected value targets and policy-gradient advantages (Espeholt et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2ac.kernels import backward_scan, is_traced, kernels_for, native_losses


@dataclass(frozen=True)
class VTrace:
    """What the losses are computed from; neither tensor carries a gradient."""

    targets: Tensor
    """v_t, the value targets, [T, B]."""
    pg_advantages: Tensor
    """What multiplies the gradient of log pi(a_t), [T, B]."""


@torch.no_grad()
def vtrace(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    *,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
    clip_c: float = 1.0,
    lambda_: float = 1.0,
) -> VTrace:
    """V-trace targets and advantages of T steps of B streams.

    With rho_t = min(clip_rho, exp(log_rho_t)), c_t = lambda min(clip_c, exp(log_rho_t)), V_T the bootstrap value and
    delta_t = rho_t (r_t + discount_t V_{t+1} - V_t), the targets are

        v_t = V_t + sum_{k>=t} (prod_{t<=i<k} discount_i c_i) delta_k          (equation 1)
        v_t - V_t = delta_t + discount_t c_t (v_{t+1} - V_{t+1})               (remark 1; what is computed here)

    and the advantages, with v_T = V_T and v'_t = lambda v_t + (1 - lambda) V_t,

        min(clip_pg_rho, exp(log_rho_t)) (r_t + discount_t v'_{t+1} - V_t)     (section 4.2)

    (Espeholt et al. 2018, "IMPALA", sections 4.1 and 4.2, and remark 2 for lambda). With every log_rho 0 the advantages
    are those of :func:`gae`.

    Args:
        log_rhos: log pi(a_t) - log mu(a_t), target against behaviour policy, [T, B].
        discounts: the discount of the value after step t, 0 where the episode ended there, [T, B].
        rewards: r_t, what followed action a_t, [T, B].
        values: V_t, [T, B].
        bootstrap_value: V_T, [B].
        clip_rho: bound on the weight of a step in the targets; chooses whose value function is learned.
        clip_pg_rho: bound on the weight of a step in the advantages.
        clip_c: bound on the weight of all that comes later; chooses how fast the targets contract.
        lambda_: in [0, 1]; less than 1 trades variance for the values' bias.

    Returns:
        Targets and advantages in the dtype of ``values``, which everything else is converted to.

    Raises:
        ValueError: on a shape other than these, T = 0, a bound that is not positive, a lambda outside [0, 1], or
            values that are neither float32 nor float64.
    """
    _check_shapes(values, bootstrap_value, log_rhos=log_rhos, discounts=discounts, rewards=rewards)
    if not 0 <= lambda_ <= 1:
        raise ValueError(f"lambda_ must lie in 0 to 1, got {lambda_}")
    _check_bounds(clip_rho=clip_rho, clip_pg_rho=clip_pg_rho, clip_c=clip_c)
    log_rhos, discounts, rewards, bootstrap_value = (
        tensor.to(values.dtype) for tensor in (log_rhos, discounts, rewards, bootstrap_value)
    )
    if kernels_for(values).name == "native" and not is_traced(values):
        settings = clip_rho, clip_pg_rho, clip_c, lambda_
        return VTrace(*native_losses.vtrace(log_rhos, discounts, rewards, values, bootstrap_value, settings))
    rhos = log_rhos.exp()
    next_values = torch.cat((values[1:], bootstrap_value.unsqueeze(0)))
    # Bounds are mostly the same, and a small operation costs as much as a large one.
    clipped = {bound: rhos.clamp(max=bound) for bound in {clip_rho, clip_pg_rho, clip_c}}
    deltas = clipped[clip_rho] * (rewards + discounts * next_values - values)
    decays = discounts * (lambda_ * clipped[clip_c])

    # The decay of step t stands at t + 1: the scan multiplies what follows by the factor of the step that follows.
    corrections = backward_scan(deltas, torch.cat((decays[:1], decays[:-1])))
    targets = values + corrections

    mixed = targets[1:] if lambda_ == 1 else lambda_ * targets[1:] + (1 - lambda_) * values[1:]
    next_targets = torch.cat((mixed, bootstrap_value.unsqueeze(0)))
    advantages = clipped[clip_pg_rho] * (rewards + discounts * next_targets - values)
    return VTrace(targets, advantages)


def gae(discounts: Tensor, rewards: Tensor, values: Tensor, bootstrap_value: Tensor, lambda_: float) -> VTrace:
    """Generalised advantages of T steps of B streams, and the targets V_t + A_t (Schulman et al. 2016, equation 16).

        A_t = delta_t + discount_t lambda A_{t+1}      delta_t = r_t + discount_t V_{t+1} - V_t

    which are V-trace's where every step has weight 1. Arguments, results and errors are those of :func:`vtrace`.
    """
    return vtrace(torch.zeros_like(values), discounts, rewards, values, bootstrap_value, lambda_=lambda_)


def _check_shapes(values: Tensor, bootstrap_value: Tensor, **steps: Tensor) -> None:
    shape = list(values.shape)
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(f"values must be [T, B] with T > 0, got {shape}")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"values must be float32 or float64, got {values.dtype}")
    if list(bootstrap_value.shape) != shape[1:]:
        raise ValueError(f"bootstrap_value must be {shape[1:]} to match values, got {list(bootstrap_value.shape)}")
    for name, tensor in steps.items():
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} to match values, got {list(tensor.shape)}")


def _check_bounds(**bounds: float) -> None:
    for name, bound in bounds.items():
        if not bound > 0:
            raise ValueError(f"{name} must be greater than 0, got {bound}")
