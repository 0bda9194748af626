"""Makes the optimiser, and brings it to a saved state."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from r2ac.learner.optimiser import AdamOnCPU, GradientDescent, RMSpropOnCPU, set_learning_rate

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
    on_cpu = parameters[0].device.type == "cpu"
    if name == "rmsprop":
        optimiser: torch.optim.Optimizer = _eager(RMSpropOnCPU if on_cpu else torch.optim.RMSprop)(
            parameters, learning_rate, alpha=0.99, eps=0.01, capturable=capturable, foreach=foreach
        )
    elif name == "adam" and on_cpu:
        optimiser = _eager(AdamOnCPU)(parameters, learning_rate, fused=True)
    elif name == "adam":
        optimiser = _eager(torch.optim.Adam)(parameters, learning_rate, capturable=capturable, foreach=foreach)
    elif name == "sgd":
        optimiser = _eager(GradientDescent)(parameters, {"lr": learning_rate})
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
