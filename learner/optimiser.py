"""The optimiser, its learning-rate schedule and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

OPTIMISERS = ("rmsprop", "adam")


def make_optimiser(
    parameters: Iterable[Tensor],
    name: str,
    learning_rate: float,
    *,
    rmsprop_alpha: float = 0.99,
    rmsprop_momentum: float = 0.0,
    rmsprop_eps: float = 0.01,
) -> torch.optim.Optimizer:
    """RMSProp as the paper used it, or Adam with PyTorch's defaults.

    RMSProp, with g the gradient: v <- alpha v + (1 - alpha) g^2,  theta <- theta - learning_rate g / (sqrt(v) + eps).

    PyTorch adds eps outside the square root, TensorFlow, and with it the first IMPALA, inside: g / sqrt(v + eps).
    With an eps as large as 0.01 the two differ much: where v is small, 0.01 outside acts as 0.0001 inside does. The
    settings of Irie et al. 2024 (alpha 0.99, momentum 0, eps 0.01) were used with PyTorch's.

    Args:
        parameters: what to optimise.
        name: "rmsprop" or "adam".
        learning_rate: the learning rate before any decay.
        rmsprop_alpha: decay of the mean of squared gradients; read by RMSProp only, like the next two.
        rmsprop_momentum: momentum.
        rmsprop_eps: eps.

    Raises:
        ValueError: on another name.
    """
    if name == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=learning_rate, alpha=rmsprop_alpha, momentum=rmsprop_momentum, eps=rmsprop_eps
        )
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    raise ValueError(f"unknown optimiser {name!r}: must be one of {', '.join(OPTIMISERS)}")


def linear_decay(step: float, total_steps: float) -> float:
    """1 - step / total_steps, kept between 0 and 1: the factor of the learning rate after ``step`` steps.

    Raises:
        ValueError: when ``total_steps`` is not positive.
    """
    if not total_steps > 0:
        raise ValueError(f"total_steps must be greater than 0, got {total_steps}")
    return min(1.0, max(0.0, 1.0 - step / total_steps))


def clip_gradient_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / norm) in place, with norm the L2 norm of all of them as one vector.

    Nothing waits for the device: the norm comes back as a tensor, for the caller to read when convenient.

    Args:
        parameters: those whose ``grad`` is None are passed over.
        max_norm: the largest norm allowed.

    Returns:
        The norm before clipping, a scalar tensor on the device of the gradients.

    Raises:
        ValueError: when ``max_norm`` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be greater than 0, got {max_norm}")
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
