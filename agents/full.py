"""Layers with the exact gradient across them, for small sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r2ac.agents.composite import Method, Stack
from r2ac.agents.core import Carry, Core
from r2ac.kernels import Traces
from r2ac.kernels.sensitivity import zero_rows

MOST_BYTES = 64_000_000
"""What the sensitivities of one stream may take, in the dtype of the weights at the start."""

Rollout = tuple[Tensor, Tensor, Tensor]
"""Inputs [T, B, D], the state before them [B, S], is_first [T, B]."""


class FullStack(Stack):
    """Layers one above the other, trained by exact RTRL of the whole (Williams and Zipser 1989).

        S = dc/dθ, [S, P] of a stream: the states of all layers by all parameters that they depend on

    As with one layer (docs/rtrl.md, section 4), the gradient over a rollout is TBPTT's, here through all layers, and
    (dL/dc_0) S_0. S crosses the rollout at once: S_T = (dc_T/dc_0) S_0 + dc_T/dθ, both factors by autograd. For each
    stream that is S P numbers to keep, and S^2 P products in a rollout.

    The carry has one `Traces`; its weight is S, [R, S, P], its vectors are empty. There are no notes.

    Args:
        layers: trained by TBPTT. Inside a rollout their gradients are the stack's.

    Raises:
        ValueError: where S of a stream takes more than `MOST_BYTES`.
    """

    def __init__(self, layers: Sequence[Core]) -> None:
        super().__init__(layers, "full")
        self.uses_rtrl = True
        nbytes = self.state_size * sum(weight.nbytes for weight in self.recurrent_parameters)
        if nbytes > MOST_BYTES:
            raise ValueError(
                f"layer_gradient is full, but the sensitivities of {len(layers)} layers of {layers[0].hidden_size} "
                f"units take {nbytes / 1e6:,.0f} MB for each stream, and at most {MOST_BYTES / 1e6:.0f} MB are "
                "allowed: lower hidden_size or layers, or take layer_gradient rollout or local"
            )
        self._at_once = MOST_BYTES // nbytes

    @property
    def recurrent_parameters(self) -> tuple[nn.Parameter, ...]:
        *below, top = self.cores()
        return *(weight for layer in below for weight in layer.parameters()), *top.recurrent_parameters

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        state = super().initial_carry(batch_size, device, dtype).state
        size = sum(weight.numel() for weight in self.recurrent_parameters)
        weight = zero_rows((batch_size, self.state_size, size), state.device, state.dtype)
        return Carry(state, (Traces(weight, state.new_zeros(batch_size, 0)),))

    def with_notes(self, carry: Carry, through: Sequence[Tensor], parts: bool = True) -> Carry:
        return carry

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        if not carry.traces:
            raise ValueError("layer_gradient 'full' needs a carry with traces: begin with initial_carry()")
        (traces,) = carry.traces
        if traces.streams is not None and traces.advance and not torch.is_grad_enabled():
            raise ValueError("a carry with streams is advanced by the backward pass, but gradients are disabled")
        state = _Boundary.apply(
            self, traces, x.detach(), carry.state, is_first, traces.weight, *self.recurrent_parameters
        )
        h, states, after = super().unroll(x, Carry(state), is_first)
        if traces.streams is None:
            return h, states, self.advance(x, carry, is_first)
        return h, states, replace(after, traces=(replace(traces, fresh=None),))

    @torch.no_grad()
    def advance(self, x: Tensor, carry: Carry, is_first: Tensor) -> Carry:
        (traces,), state = carry.traces, carry.state
        if traces.streams is None:
            traces = replace(traces, weight=traces.weight.clone())
        self.visit(traces, torch.zeros_like(state), (x, state, is_first))
        return replace(super().advance(x, Carry(state), is_first), traces=(traces,))

    def boundary_by_stream(self, by_state: Tensor, carry: Carry) -> tuple[Tensor, ...]:
        return self.visit(carry.traces[0], by_state)

    def visit(self, traces: Traces, by_state: Tensor, rollout: Rollout | None = None) -> tuple[Tensor, ...]:
        """(dL/dc_0) S_0 of each stream, [B, ...] for each parameter, with dL/dc_0, [B, S]. Then S of the streams
        crosses a ``rollout``, if one is given, in place."""
        terms = []
        for some in torch.arange(len(by_state), device=by_state.device).split(self._at_once):
            rows = some if traces.streams is None else traces.streams[some]
            before = traces.weight[rows].to(by_state.dtype)
            if traces.fresh is not None:
                before = before.masked_fill(traces.fresh[some, None, None], 0)
            terms.append(torch.einsum("bs,bsp->bp", by_state[some], before))
            if rollout is not None:
                x, state, is_first = rollout
                by_parameters, by_first_state = self._derivatives(x[:, some], state[some], is_first[:, some])
                traces.weight[rows] = torch.baddbmm(by_parameters, by_first_state, before).to(traces.weight.dtype)
        split = torch.cat(terms).split([weight.numel() for weight in self.recurrent_parameters], dim=1)
        return tuple(
            term.view(-1, *weight.shape) for term, weight in zip(split, self.recurrent_parameters, strict=True)
        )

    def _derivatives(self, *rollout: Tensor) -> tuple[Tensor, Tensor]:
        """dc_T/dθ, [B, S, P], and dc_T/dc_0, [B, S, S], of each stream."""
        names = {weight: f"core.{name}" for name, weight in self.named_parameters()}
        parameters = {names[weight]: weight.detach() for weight in self.recurrent_parameters}
        module = Method(self, self._last_state)

        def last_state(parameters: dict[str, Tensor], state: Tensor, x: Tensor, is_first: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(module, parameters, (x, state, is_first))
            return found

        x, state, is_first = rollout
        of_each = torch.vmap(torch.func.jacrev(last_state, argnums=(0, 1)), in_dims=(None, 0, 1, 1))
        by_parameters, by_state = of_each(parameters, state, x, is_first)
        return torch.cat([each.flatten(2) for each in by_parameters.values()], dim=2), by_state

    def _last_state(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """c_T, [S], of one stream: x [T, D], state [S], is_first [T]."""
        state = state.unsqueeze(0)
        for x_t, first in zip(x.unsqueeze(1), is_first.unsqueeze(1), strict=True):
            _, state = self.transition(x_t, state, first)
        return state.squeeze(0)


class _Boundary(torch.autograd.Function):
    """The state before a rollout. Its backward pass adds the boundary term to the gradients of the parameters, and
    takes S across the rollout where it is to advance."""

    @staticmethod
    def forward(ctx: Any, core: FullStack, traces: Traces, *tensors: Tensor) -> Tensor:
        x, state, is_first, weight, *_ = tensors
        ctx.core, ctx.traces = core, traces
        # S, too: a second backward pass after S has changed raises.
        ctx.save_for_backward(x, state, is_first, weight)
        return state.view_as(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_states: Tensor) -> tuple[Tensor | None, ...]:
        core, traces, (by_state,) = ctx.core, ctx.traces, by_states
        *rollout, _ = ctx.saved_tensors
        moves = traces.streams is not None and traces.advance
        terms = core.visit(traces, by_state, rollout if moves else None)
        return None, None, None, by_state, None, None, *(term.sum(0) for term in terms)
