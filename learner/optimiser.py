"""A step of the optimiser, its learning-rate schedule and gradient clipping."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from r2ac.learner.vectors import copy_vector_, to_vector


def _lists_of(optimiser: torch.optim.Optimizer, group: dict[str, Any], *names: str) -> list[list[Tensor]]:
    """The parameters of a group that have a gradient, their gradients, and the parts of their state by their names."""
    weights = [weight for weight in group["params"] if weight.grad is not None]
    states = [optimiser.state[weight] for weight in weights]
    return [weights, [weight.grad for weight in weights], *([each[name] for each in states] for name in names)]


class RMSpropOnCPU(torch.optim.RMSprop):
    """PyTorch's RMSProp, the same to the bit, in one call for each operation on all parameters. Why: for a small agent
    the checks and lists of PyTorch's own step take longer than its arithmetic."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if not self.state:
            unwrap(torch.optim.RMSprop.step)(self)  # makes the state
            return
        for group in self.param_groups:
            weights, gradients, squares, steps = _lists_of(self, group, "square_avg", "step")
            torch._foreach_add_(steps, 1)
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["alpha"])
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_addcdiv_(weights, gradients, roots, -group["lr"])


class AdamOnCPU(torch.optim.Adam):
    """PyTorch's Adam in one call for all parameters, for the same reason."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if not self.state:
            unwrap(torch.optim.Adam.step)(self)  # makes the state
            return
        for group in self.param_groups:
            weights, gradients, averages, squares, steps = _lists_of(self, group, "exp_avg", "exp_avg_sq", "step")
            torch._foreach_add_(steps, 1)
            beta1, beta2 = group["betas"]
            settings: Any = {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "eps": group["eps"]}
            settings |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
            torch._fused_adam_(weights, gradients, averages, squares, [], steps, **settings)


class GradientDescent(torch.optim.Optimizer):
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
