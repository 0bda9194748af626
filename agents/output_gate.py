"""The output gate of a recurrent core: h = sigmoid(O [x; c] + b) c."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def gated(gate: nn.Linear, x: Tensor, states: Tensor) -> Tensor:
    """h [..., B, S] from inputs [..., B, D] and states [..., B, S]; of a rollout its gradient is written out."""
    if states.dim() == 3 and type(states) is Tensor and not torch.compiler.is_compiling():
        h: Tensor = _OutputGate.apply(x, states, gate.weight, gate.bias)
        return h
    return torch.sigmoid(gate(torch.cat((x, states), dim=-1))) * states


class _OutputGate(torch.autograd.Function):
    """Where x needs no gradient, its columns of the product with O are left out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = torch.cat((x, states), dim=-1)
        opening = torch.sigmoid(nn.functional.linear(given, weight, bias))
        ctx.save_for_backward(given, states, weight, opening)
        return opening * states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Tensor | None, ...]:
        given, states, weight, opening = ctx.saved_tensors
        by_h, size = by_output[0], states.shape[-1]
        by_gate = torch.ops.aten.sigmoid_backward(by_h * states, opening).flatten(0, 1)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x, by_given = (by_gate @ weight).view_as(given).split([given.shape[-1] - size, size], dim=-1)
        else:
            by_given = (by_gate @ weight[:, -size:]).view_as(states)
        by_weight = (given.flatten(0, 1).t() @ by_gate).t()
        return by_x, by_given + by_h * opening, by_weight, by_gate.sum(0)
