"""The recurrence of any cell over a rollout, with the gradient of TBPTT or of RTRL.

The backward pass of :func:`recurrence` gives TBPTT's gradient and, where the sensitivities of the streams are handed
in, adds the boundary term and takes the sensitivities across the rollout: RTRL is TBPTT plus that (Irie et al. 2024,
section 3; the rearrangement is Schmidhuber's of 1992).

Operators are there for compilers, profilers and tensor subclasses; without any of these, :func:`recurrence` calls the
kernels through a ``torch.autograd.Function``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version

from r2ac.kernels import operators
from r2ac.kernels.cells import CELLS, Linearisation
from r2ac.kernels.choice import kernels_for
from r2ac.kernels.operators import needs_operators
from r2ac.kernels.scan import ReverseScan
from r2ac.kernels.sensitivity import Traces, boundary_terms, horizon_pass_


@dataclass(frozen=True)
class Notes:
    """What the backward pass of a rollout changes and fills for RTRL's metrics: the first alone, or all."""

    through: Tensor
    """V of all streams, [R, N], taken across the rollout by :func:`r2ac.kernels.sensitivity.horizon_pass_`."""
    before: Tensor | None = None
    """V of the batch before the rollout, [B, N], which the backward pass does not need."""
    by_state: Tensor | None = None
    """a_1 d_1, the loss's gradient by the state before the rollout, [B, (2,) N]."""
    boundary: Tensor | None = None
    """The boundary term of the gradient by input weights, own parameters and biases, flattened: [KND + LN + KN]."""

    def tensors(self) -> list[Tensor]:
        """What the backward pass changes and fills, in the order of the fields."""
        return [tensor for tensor in (self.through, self.by_state, self.boundary) if tensor is not None]


_OWN = "Tensor projection, Tensor own, Tensor bias"


def _forward(cell: str, projection: Tensor, *others: Any) -> Tensor:
    own, bias, state, is_first, *_ = others
    return kernels_for(projection).scans(cell).forward(projection, own, bias, state, is_first)


def _reverse(cell: str, direct: Tensor, projection: Tensor, *others: Any) -> tuple[Tensor, ...]:
    scan = kernels_for(projection).scans(cell).reverse(direct, projection, *others)
    # The fake operator below promises contiguous tensors.
    return tuple(tensor.contiguous() for tensor in scan)


_reverse_operator = torch.library.custom_op(
    "r2ac::recurrence_backward",
    _reverse,
    mutates_args=(),
    schema=f"(str cell, Tensor direct, {_OWN}, Tensor states, Tensor state, Tensor is_first, bool jump) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
recurrence_operator = torch.library.custom_op(
    "r2ac::recurrence",
    _forward,
    mutates_args=(),
    schema=f"(str cell, {_OWN}, Tensor state, Tensor is_first, Tensor? weight, Tensor? inputs, bool advance, "
    "Tensor[] traces, Tensor[] notes) -> Tensor",
)


@recurrence_operator.register_fake
def _(cell: str, projection: Tensor, *others: Any) -> Tensor:
    steps, batch, _, hidden = projection.shape
    return projection.new_empty(steps, batch, *CELLS[cell].pair, hidden)


@_reverse_operator.register_fake
def _(cell: str, direct: Tensor, projection: Tensor, own: Tensor, *others: Any) -> tuple[Tensor, ...]:
    steps, batch, gates, hidden = projection.shape
    new, pair, vectors = projection.new_empty, CELLS[cell].pair, len(own) + gates
    gradient = new(projection.shape), new(vectors, hidden), new(batch, *pair, hidden)
    if not others[-1]:
        return *gradient, new(0), new(0), new(0)
    jump = new(steps, batch, *pair, gates, hidden), new(batch, *pair, vectors, hidden)
    return *gradient, new(batch, *pair, *pair, hidden), *jump


def _reverse_scan(*arguments: Any) -> ReverseScan:
    return ReverseScan(*_reverse_operator(*arguments))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.cell, projection, own, bias, state, is_first, _, x, ctx.advance, traces, notes = inputs
    ctx.save_for_backward(projection, own, bias, output, state, is_first, x, *traces, *notes)
    ctx.traces, ctx.notes = len(traces), len(notes)
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, direct: Tensor | None, reverse: Callable[..., ReverseScan], passes: Any
) -> tuple[Tensor | None, ...]:
    """The gradients by the arguments of the recurrence, without its two lists.

    Args:
        direct: e_t, the loss's direct gradient by c_t; None where no gradient comes.
        reverse: the reverse scan of the cell, called as `Scans.reverse`.
        passes: has the sensitivity passes by their names: the operators, or one implementation of the kernels.
    """
    if direct is None:
        return (None,) * 9
    saved = ctx.saved_tensors
    *given, x = saved[:7]
    traces, notes = saved[7 : 7 + ctx.traces], saved[7 + ctx.traces :]
    scan = reverse(direct, *given, len(traces) == 4 and ctx.advance)
    by_weight, by_vectors = None, scan.by_vectors
    if traces:
        if len(traces) == 4 and ctx.advance:
            by_weight, of_vectors = _advance(traces, scan, x, passes)
        elif len(traces) == 4:
            by_weight, of_vectors = _advance(traces, _of_no_steps(scan), x[:0], passes)
        else:
            by_weight, of_vectors = boundary_terms(scan.boundary, Traces(*traces))
        by_vectors = by_vectors + of_vectors
        if notes:
            _, _, streams, fresh = traces
            horizon_pass_(notes[0], streams, fresh, scan.decay, len(direct))
        if len(notes) == 3:
            notes[1].copy_(scan.boundary)
            torch.cat((by_weight.flatten(), of_vectors.flatten()), out=notes[2])
    own = len(given[1])
    by_state = scan.boundary if ctx.needs_input_grad[4] else None
    return None, scan.by_projection, by_vectors[:own], by_vectors[own:], by_state, None, by_weight, None, None


def _of_no_steps(scan: ReverseScan) -> ReverseScan:
    """The scan with the jump of a rollout of no steps: a pass with it gives the boundary term, and S stays."""
    boundary = scan.boundary
    batch, *pair, hidden = boundary.shape
    decay = torch.ones_like(boundary)
    if pair:
        decay = torch.eye(2, dtype=boundary.dtype, device=boundary.device).view(1, 2, 2, 1).repeat(batch, 1, 1, hidden)
    return scan._replace(
        decay=decay,
        weighted=boundary.new_empty(0, batch, *pair, scan.by_projection.shape[2], hidden),
        gained=boundary.new_zeros(batch, *pair, len(scan.by_vectors), hidden),
    )


def _advance(traces: Any, scan: ReverseScan, x: Tensor, passes: Any) -> tuple[Tensor, Tensor]:
    """Take S of the streams across the rollout by the passes of a module or of kernels; returns the boundary terms by
    the input weights and by the vectors."""
    weight, vectors, *streams = traces
    common = *streams, scan.boundary, scan.decay
    over_weight = passes.sensitivity_pass_ if scan.boundary.dim() == 2 else passes.block_sensitivity_pass_
    of_weight = over_weight(weight, *common, scan.weighted, x)
    return of_weight, passes.vector_pass_(vectors, *common, scan.gained)


def _operator_gradients(ctx: Any, direct: Tensor | None) -> tuple[Any, ...]:
    gradients = _gradients(ctx, direct, partial(_reverse_scan, ctx.cell), operators)
    return *gradients, [None] * ctx.traces, [None] * ctx.notes


recurrence_operator.register_autograd(_operator_gradients, setup_context=_save)


class _Recurrence(torch.autograd.Function):
    """The recurrence without the operators."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        cell, projection, *given = inputs[:6]
        states: Tensor = kernels_for(projection).scans(cell).forward(projection, *given)
        _save(ctx, inputs, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *directs: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        kernels = kernels_for(saved[0])
        gradients = _gradients(ctx, directs[0], kernels.scans(ctx.cell).reverse, kernels)
        if ctx.traces == 4 and directs[0] is not None:
            # Autograd does not see what the kernels write: with this a second backward pass raises.
            increment_version(saved[7:9])
        return *gradients, None, None


def recurrence(
    cell: str,
    projection: Tensor,
    own: Tensor,
    bias: Tensor,
    state: Tensor,
    is_first: Tensor,
    weight: Tensor | None = None,
    inputs: Tensor | None = None,
    traces: Traces | None = None,
    notes: Notes | None = None,
) -> Tensor:
    """The states of a cell over a rollout, with the gradient of TBPTT or of RTRL.

    Args:
        cell: its name among the cells.
        projection: W x_t of all gates, [T, B, K, N]; the gradient inside the rollout flows through it.
        own: the cell's own parameters, [L, N].
        bias: [K, N].
        state: the state before the rollout, [B, (2,) N].
        is_first: [T, B] bool, true where a step begins an episode.
        weight: W, [K, N, D], which gets the boundary term. This and all that follow are RTRL's.
        inputs: x_t, [T, B, D]; no gradient flows through it here.
        traces: their rows ``streams`` are taken across the rollout by the backward pass, in place, if they ``advance``.
        notes: beside ``streams`` that advance, written by the backward pass.

    Returns:
        c_t, [T, B, (2,) N].
    """
    compute: Callable[..., Tensor] = recurrence_operator if needs_operators(projection) else _Recurrence.apply
    lists = traces.tensors() if traces is not None else [], notes.tensors() if notes is not None else []
    advance = traces is not None and traces.advance
    return compute(cell, projection, own, bias, state, is_first, weight, inputs, advance, *lists)


@torch.no_grad()
def traces_after(traces: Traces, inputs: Tensor, cell: str, *given: Tensor) -> Traces:
    """The sensitivities after a rollout: rows ``streams`` in place, or else those of a batch in new tensors.

    Args:
        given: projection, own, bias, the states that :func:`recurrence` returned, state and is_first.
    """
    *_, states, state, _ = given
    reverse: Callable[..., ReverseScan] = partial(_reverse_scan, cell)
    passes: Any = operators
    if not needs_operators(inputs):
        kernels = kernels_for(inputs)
        reverse, passes = kernels.scans(cell).reverse, kernels
    scan = reverse(torch.zeros_like(states), *given, True)
    if traces.streams is not None:
        _advance(traces.tensors(), scan, inputs, passes)
        return traces
    after = Traces(traces.weight.clone(), traces.vectors.clone())
    streams = torch.arange(len(state), device=state.device)
    _advance((*after.tensors(), streams, torch.zeros_like(streams, dtype=torch.bool)), scan, inputs, passes)
    return after


@torch.no_grad()
def traces_after_step(traces: Traces, inputs: Tensor, linear: Linearisation) -> None:
    """The sensitivities after one step of the rows ``streams``, in place, by its inputs, [B, D], and derivatives."""
    jacobian, by_gates, by_own = linear
    scan = ReverseScan(
        by_projection=by_gates,
        by_vectors=by_own,
        boundary=torch.zeros_like(by_gates[..., 0, :]),
        decay=jacobian,
        weighted=by_gates.unsqueeze(0),
        gained=torch.cat((by_own, by_gates), dim=-2),
    )
    passes: Any = operators if needs_operators(inputs) else kernels_for(inputs)
    _advance(traces.tensors(), scan, inputs.unsqueeze(0), passes)
