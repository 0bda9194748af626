"""The optimiser, its learning-rate schedule and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from r2ac.learner.vectors import copy_vector_, to_vector

OPTIMISERS = ("rmsprop", "adam", "sgd")
_OF_THE_DEVICE = ("lr", "capturable", "foreach", "fused")
"""Settings that are no part of what was learned."""


def make_optimiser(
    parameters: Iterable[Tensor], name: str, learning_rate: float, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """RMSProp as the paper used it, or Adam with PyTorch's defaults.

    RMSProp, with g the gradient: v <- alpha v + (1 - alpha) g^2,  theta <- theta - learning_rate g / (sqrt(v) + eps).

    PyTorch adds eps outside the square root, TensorFlow, and with it the first IMPALA, inside: g / sqrt(v + eps).
    With an eps as large as 0.01 the two differ much: where v is small, 0.01 outside acts as 0.0001 inside does. The
    settings of Irie et al. 2024 (alpha 0.99, momentum 0, eps 0.01) were used with PyTorch's.

    Args:
        capturable: let a CUDA graph hold the step; the learning rate is then a tensor on the parameters' device.

    Raises:
        ValueError: for another name.
    """
    parameters = list(parameters)
    # The form of the step that takes parameters one by one would read a learning rate on the device from the host.
    foreach = True if capturable else None
    if name == "rmsprop":
        optimiser: torch.optim.Optimizer = _eager(torch.optim.RMSprop)(
            parameters, learning_rate, alpha=0.99, eps=0.01, capturable=capturable, foreach=foreach
        )
    elif name == "adam" and parameters[0].device.type == "cpu":
        optimiser = _eager(_AdamOnCPU)(parameters, learning_rate, fused=True)
    elif name == "adam":
        optimiser = _eager(torch.optim.Adam)(parameters, learning_rate, capturable=capturable, foreach=foreach)
    elif name == "sgd":
        optimiser = _eager(_GradientDescent)(parameters, {"lr": learning_rate})
    else:
        raise ValueError(f"unknown optimiser {name!r}: must be one of {', '.join(OPTIMISERS)}")
    if capturable:
        # Only now, because the optimiser's own check of a learning rate would wait for the device.
        for group in optimiser.param_groups:
            group["lr"] = torch.tensor(learning_rate, device=parameters[0].device)
    _make_state(optimiser)
    return optimiser


@cache
def _eager(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """The optimiser ``kind`` without the decorators of its methods, which do nothing but import torch.compile: that
    takes longer than all of torch."""
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: unwrap(getattr(kind, name)) for name in methods}
    step: Any = torch.no_grad()(unwrap(kind.step))
    # Else PyTorch wraps it for hooks, in as much time as a step of a small agent takes.
    step.hooked = True
    return type(kind.__name__, (kind,), {**plain, "step": step})


class _AdamOnCPU(torch.optim.Adam):
    """PyTorch's Adam in one call for all parameters. Why: for a small agent the checks and lists of PyTorch's own step
    take longer than its arithmetic."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if not self.state:
            unwrap(torch.optim.Adam.step)(self)  # makes the state
            return
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            states = [self.state[weight] for weight in weights]
            averages, squares, steps = ([each[name] for each in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            torch._foreach_add_(steps, 1)
            (beta1, beta2), gradients = group["betas"], [weight.grad for weight in weights]
            settings: Any = {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "eps": group["eps"]}
            settings |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
            torch._fused_adam_(weights, gradients, averages, squares, [], steps, **settings)


class _GradientDescent(torch.optim.Optimizer):
    """w <- w - lr g. PyTorch's own would bring a learning rate on the device to the host, and wait."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients, rate = [weight.grad for weight in weights], group["lr"]
            if isinstance(rate, Tensor):
                torch._foreach_add_(weights, torch._foreach_mul(gradients, -rate))
            else:
                torch._foreach_add_(weights, gradients, alpha=-rate)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def step_where(optimiser: torch.optim.Optimizer, condition: Tensor, may_branch: bool) -> None:
    """One step of the optimiser where ``condition`` (bool scalar) holds; else weights and state stay to the bit. Where
    the host may not read the condition (``may_branch``), as on a GPU, the step is made and its outcome selected."""
    if may_branch:
        if condition:
            optimiser.step()
        return
    tensors = _all_tensors(optimiser)
    before = to_vector(tensors)
    optimiser.step()
    copy_vector_(tensors, torch.where(condition, to_vector(tensors), before))


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Bring the optimiser, before its first step, to a ``state_dict`` that may have been saved on another device."""
    own = [{name: group[name] for name in _OF_THE_DEVICE if name in group} for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, settings in zip(optimiser.param_groups, own, strict=True):
        rate = float(group["lr"])
        group.update(settings)
        if group.get("capturable"):
            for parameter in group["params"]:
                step = optimiser.state[parameter]["step"]
                optimiser.state[parameter]["step"] = step.to(parameter.device)
    set_learning_rate(optimiser, rate)


def _make_state(optimiser: torch.optim.Optimizer) -> None:
    """Let the state exist before the first step: one with zero gradients leaves zeros and moves no weight."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    for parameter in parameters:
        if "step" in optimiser.state[parameter]:
            optimiser.state[parameter]["step"].zero_()


def _all_tensors(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Every parameter and every tensor of its state."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state = [value for parameter in parameters for value in optimiser.state[parameter].values()]
    return parameters + [value for value in state if isinstance(value, Tensor)]


def linear_decay(step: float, total_steps: float) -> float:
    """1 - step / total_steps, kept between 0 and 1: the factor of the learning rate after ``step`` steps.

    Raises:
        ValueError: when ``total_steps`` is not positive.
    """
    if not total_steps > 0:
        raise ValueError(f"total_steps must be greater than 0, got {total_steps}")
    return min(1.0, max(0.0, 1.0 - step / total_steps))


@torch.no_grad()
def clip_gradient_norm(gradients: list[Tensor], max_norm: float, may_branch: bool = False) -> Tensor:
    """Scale gradients by min(1, max_norm / norm) in place, with norm the L2 norm of all of them as one vector.

    Returns the norm before clipping, a scalar tensor on the device of the gradients, which is not waited for.

    Raises:
        ValueError: when ``max_norm`` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be greater than 0, got {max_norm}")
    norms = torch._foreach_norm(gradients)
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    # Where the host may read it (``may_branch``), a norm that is small enough saves the rest.
    if not may_branch or not norm + 1e-6 < max_norm:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
