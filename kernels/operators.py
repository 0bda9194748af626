"""The kernels as PyTorch operators: opaque to ``torch.compile``, with shapes for it and with gradients.

``r2ac::elstm_cells`` is the recurrence. Its backward pass gives TBPTT's gradient and, where the sensitivities of the
streams are handed in, adds the boundary term and takes the sensitivities across the rollout: RTRL is TBPTT plus that
(Irie et al. 2024, section 3; the rearrangement is Schmidhuber's of 1992).

An operator costs more than a small kernel does. Where nobody looks, neither a compiler nor a profiler nor a tensor of
another kind, the function ``elstm_cells`` goes by a ``torch.autograd.Function`` straight to the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version

from r2ac.kernels.choice import kernels_for
from r2ac.kernels.elstm import BackwardScan
from r2ac.kernels.sensitivity import Sensitivities, boundary_contraction


@torch.library.custom_op("r2ac::elstm_backward", mutates_args=())
def _elstm_backward(
    direct: Tensor,
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    cells: Tensor,
    cell: Tensor,
    is_first: Tensor,
    jump: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernel = kernels_for(projection).elstm_backward
    by_projection, by_vectors, boundary, decay, weighted, gained = kernel(
        direct, projection, recurrent_weight, bias, cells, cell, is_first, jump
    )
    return by_projection, by_vectors, boundary, decay, weighted, gained


@_elstm_backward.register_fake
def _(
    direct: Tensor,
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    cells: Tensor,
    cell: Tensor,
    is_first: Tensor,
    jump: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _, batch, gates, hidden = projection.shape
    new = direct.new_empty
    by_projection = torch.empty_like(projection)
    by_vectors, boundary = new(2, gates, hidden), new(batch, hidden)
    if not jump:
        return by_projection, by_vectors, boundary, new(0), new(0), new(0)
    return (
        by_projection,
        by_vectors,
        boundary,
        new(batch, hidden),
        torch.empty_like(projection),
        new(2, batch, gates, hidden),
    )


@torch.library.custom_op("r2ac::backward_scan", mutates_args=())
def backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """d_t = e_t + a_{t+1} d_{t+1}: :func:`r2ac.kernels.scan.backward_scan` on the device's kernel; no gradient."""
    return kernels_for(direct).backward_scan(direct, jacobian)


@backward_scan.register_fake
def _(direct: Tensor, jacobian: Tensor) -> Tensor:
    return torch.empty_like(direct)


@torch.library.custom_op("r2ac::sensitivity_pass_", mutates_args=("matrix",))
def sensitivity_pass_(
    matrix: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    weighted: Tensor,
    inputs: Tensor,
) -> Tensor:
    """:func:`r2ac.kernels.sensitivity.sensitivity_pass_` on the device's kernel."""
    return kernels_for(inputs).sensitivity_pass_(matrix, streams, fresh, boundary, decay, weighted, inputs)


@sensitivity_pass_.register_fake
def _(
    matrix: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    weighted: Tensor,
    inputs: Tensor,
) -> Tensor:
    return inputs.new_empty(matrix.shape[1:])


@torch.library.custom_op("r2ac::vector_pass_", mutates_args=("recurrent", "biases"))
def vector_pass_(
    recurrent: Tensor,
    biases: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    gained: Tensor,
) -> Tensor:
    """:func:`r2ac.kernels.sensitivity.vector_pass_` on the device's kernel."""
    return kernels_for(gained).vector_pass_(recurrent, biases, streams, fresh, boundary, decay, gained)


@vector_pass_.register_fake
def _(
    recurrent: Tensor,
    biases: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    gained: Tensor,
) -> Tensor:
    return gained.new_empty(2, *gained.shape[2:])


@torch.library.custom_op("r2ac::block_sensitivity_pass_", mutates_args=("matrix",))
def block_sensitivity_pass_(
    matrix: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    weighted: Tensor,
    inputs: Tensor,
) -> Tensor:
    """:func:`r2ac.kernels.block.block_sensitivity_pass_` on the device's kernel."""
    return kernels_for(inputs).block_sensitivity_pass_(matrix, streams, fresh, boundary, decay, weighted, inputs)


@block_sensitivity_pass_.register_fake
def _(
    matrix: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    weighted: Tensor,
    inputs: Tensor,
) -> Tensor:
    return inputs.new_empty(matrix.shape[2:])


@torch.library.custom_op("r2ac::elstm_cells", mutates_args=())
def elstm_cells_operator(
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    cell: Tensor,
    is_first: Tensor,
    input_weight: Tensor | None = None,
    inputs: Tensor | None = None,
    matrix: Tensor | None = None,
    recurrent: Tensor | None = None,
    biases: Tensor | None = None,
    streams: Tensor | None = None,
    fresh: Tensor | None = None,
    noted: Tensor | None = None,
) -> Tensor:
    """:func:`elstm_cells`, for compilers and profilers."""
    return kernels_for(projection).elstm_forward(projection, recurrent_weight, bias, cell, is_first)


@elstm_cells_operator.register_fake
def _(
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    cell: Tensor,
    is_first: Tensor,
    input_weight: Tensor | None = None,
    inputs: Tensor | None = None,
    matrix: Tensor | None = None,
    recurrent: Tensor | None = None,
    biases: Tensor | None = None,
    streams: Tensor | None = None,
    fresh: Tensor | None = None,
    noted: Tensor | None = None,
) -> Tensor:
    steps, batch, _, hidden = projection.shape
    return projection.new_empty(steps, batch, hidden)


class _Calls(NamedTuple):
    """What the backward pass calls."""

    elstm_backward: Callable[..., tuple[Tensor, ...]]
    sensitivity_pass_: Callable[..., Tensor]
    vector_pass_: Callable[..., Tensor]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    projection, recurrent_weight, bias, cell, is_first, _, x, *sensitivities = inputs
    ctx.save_for_backward(projection, recurrent_weight, bias, output, cell, is_first, x, *sensitivities)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, direct: Tensor | None, calls: _Calls) -> tuple[Tensor | None, ...]:
    projection, recurrent_weight, bias, cells, cell, is_first, x, *sensitivities = ctx.saved_tensors
    if direct is None:
        return (None,) * 13
    matrix, recurrent, biases, streams, fresh, noted = sensitivities
    scan = BackwardScan(
        *calls.elstm_backward(direct, projection, recurrent_weight, bias, cells, cell, is_first, streams is not None)
    )
    by_input_weight, by_vectors = None, scan.by_vectors
    if matrix is not None:
        if streams is None:
            by_input_weight, *terms = boundary_contraction(scan.boundary, Sensitivities(matrix, recurrent, biases))
            by_vectors = by_vectors + torch.stack(terms)
        else:
            common = streams, fresh, scan.boundary, scan.decay
            by_input_weight = calls.sensitivity_pass_(matrix, *common, scan.weighted, x)
            of_vectors = calls.vector_pass_(recurrent, biases, *common, scan.gained)
            by_vectors = by_vectors + of_vectors
            if noted is not None:
                found = scan.decay, scan.boundary, by_input_weight, of_vectors
                some = found[:1] if len(noted) == scan.decay.numel() else found
                torch.cat([tensor.flatten() for tensor in some], out=noted)
    return scan.by_projection, by_vectors[0], by_vectors[1], None, None, by_input_weight, *(None for _ in range(7))


def _operator_gradients(ctx: Any, direct: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, direct, _Calls(_elstm_backward, sensitivity_pass_, vector_pass_))


elstm_cells_operator.register_autograd(_operator_gradients, setup_context=_save)


class _ELSTMCells(torch.autograd.Function):
    """The same without the operators."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        projection, recurrent_weight, bias, cell, is_first, *_ = inputs
        cells = kernels_for(projection).elstm_forward(projection, recurrent_weight, bias, cell, is_first)
        _save(ctx, inputs, cells)
        return cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *directs: Tensor | None) -> tuple[Tensor | None, ...]:
        (direct,) = directs
        *own, matrix, recurrent, biases, streams, _, _ = ctx.saved_tensors
        kernels = kernels_for(own[0])
        calls = _Calls(kernels.elstm_backward, kernels.sensitivity_pass_, kernels.vector_pass_)
        gradients = _gradients(ctx, direct, calls)
        if streams is not None and direct is not None:
            # The kernels write behind PyTorch's back: a second backward pass shall be told that these have changed.
            increment_version((matrix, recurrent, biases))
        return gradients


def elstm_cells(
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    cell: Tensor,
    is_first: Tensor,
    input_weight: Tensor | None = None,
    inputs: Tensor | None = None,
    matrix: Tensor | None = None,
    recurrent: Tensor | None = None,
    biases: Tensor | None = None,
    streams: Tensor | None = None,
    fresh: Tensor | None = None,
    noted: Tensor | None = None,
) -> Tensor:
    """The eLSTM's cell states over a rollout, with the gradient of TBPTT or of RTRL.

    Args:
        projection: W x_t of both gates, [T, B, K, N]; through it flows the gradient inside the rollout.
        recurrent_weight: w_f and w_z, [K, N].
        bias: b_f and b_z, [K, N].
        cell: the cell state before the rollout, [B, N].
        is_first: [T, B] bool.
        input_weight: W, [K, N, D], which gets the boundary term. This and all that follow are RTRL's.
        inputs: x_t, [T, B, D]; no gradient flows through it here.
        matrix, recurrent, biases: the sensitivities of all R streams, [R, K, N, D] and twice [R, K, N]. The backward
            pass takes the rows ``streams`` across the rollout, in place.
        streams: [B] int64, all different; None where the sensitivities are those of the batch and stay as they are.
        fresh: [B] bool; the sensitivities of these streams begin at zero, whatever is kept.
        noted: beside ``streams``, where the backward pass notes what it found: prod_t a_t, [BN], or besides that
            a_1 d_1 and the boundary term of the gradient by input weights, recurrent weights and biases,
            [2BN + KND + 2KN].

    Returns:
        c_t, [T, B, N].
    """
    watched = torch.compiler.is_compiling() or profiler._is_profiler_enabled or type(projection) is not Tensor
    compute = elstm_cells_operator if watched else _ELSTMCells.apply
    rtrl = input_weight, inputs, matrix, recurrent, biases, streams, fresh, noted
    return compute(projection, recurrent_weight, bias, cell, is_first, *rtrl)


@torch.no_grad()
def elstm_jump(
    before: Sensitivities,
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    cells: Tensor,
    cell: Tensor,
    is_first: Tensor,
    inputs: Tensor,
) -> Sensitivities:
    """The sensitivities after a rollout, in new tensors: for those who keep a carry of their own."""
    nothing = torch.zeros_like(cells)
    scan = BackwardScan(*_elstm_backward(nothing, projection, recurrent_weight, bias, cells, cell, is_first, jump=True))
    after = Sensitivities(*(tensor.clone() for tensor in before.tensors()))
    streams = torch.arange(cell.shape[0], device=cell.device)
    fresh = torch.zeros_like(streams, dtype=torch.bool)
    sensitivity_pass_(after.input_weight, streams, fresh, scan.boundary, scan.decay, scan.weighted, inputs)
    vector_pass_(after.recurrent_weight, after.bias, streams, fresh, scan.boundary, scan.decay, scan.gained)
    return after
