# mypy: allow-untyped-defs
"""The scans of the eLSTM and :func:`r2ac.kernels.scan.backward_scan` as Triton kernels, in float32.

A program is one warp: it owns 32 units of one stream and walks over the T steps by itself, so that a rollout costs one
launch, every tensor is read or written once, and no program waits for another. What such a walk waits for is memory. No
load depends on the recurrence, but a compiler may not move one across the stores of earlier steps, so that each loop
asks for its operands four steps before it needs them (``now``, ``next_1``, …).

Names: ``p_`` a pointer, ``b_`` a block of values, ``i_`` an index, ``o_`` an offset. A pair is that of the two gates.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from r2ac.kernels.scan import ReverseScan

BLOCK = 32
"""Units of a program, one for each thread of its warp: small programs, because a rollout has few of them."""


def elstm_forward(
    projection: Tensor, recurrent_weight: Tensor, bias: Tensor, state: Tensor, is_first: Tensor
) -> Tensor:
    """The eLSTM's :func:`r2ac.kernels.scan.forward_scan` in one launch."""
    steps, batch, _, hidden = projection.shape
    states = projection.new_empty(steps, batch, hidden)
    operands = _contiguous(projection, recurrent_weight, bias, state, is_first)
    with torch.cuda.device_of(projection):
        _forward_kernel[batch, triton.cdiv(hidden, BLOCK)](*operands, states, steps, batch, hidden, BLOCK, num_warps=1)
    return states


def elstm_backward(
    direct: Tensor,
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    states: Tensor,
    state: Tensor,
    is_first: Tensor,
    jump: bool,
) -> ReverseScan:
    """The eLSTM's :func:`r2ac.kernels.scan.reverse_scan` in one launch and one sum over the streams."""
    steps, batch, gates, hidden = projection.shape
    new = projection.new_empty
    by_projection, by_vectors, boundary = new(projection.shape), new(batch, 2 * gates, hidden), new(batch, hidden)
    decay, weighted, gained = new(0), new(0), new(0)
    if jump:
        decay, weighted, gained = new(batch, hidden), new(projection.shape), new(batch, 2 * gates, hidden)
    operands = _contiguous(direct, projection, recurrent_weight, bias, states, state, is_first)
    results = by_projection, by_vectors, boundary, decay, weighted, gained
    sizes = steps, batch, hidden
    with torch.cuda.device_of(projection):
        _backward_kernel[batch, triton.cdiv(hidden, BLOCK)](*operands, *results, *sizes, jump, BLOCK, num_warps=1)
    # Atomic additions would be one launch less, but add in another order each time.
    return ReverseScan(by_projection, by_vectors.sum(0), boundary, decay, weighted, gained)


def backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """:func:`r2ac.kernels.scan.backward_scan` in one launch, whatever stands behind T in the shapes."""
    direct, jacobian = _contiguous(direct, jacobian)
    total = torch.empty_like(direct)
    steps, width = direct.shape[0], direct[0].numel()
    with torch.cuda.device_of(direct):
        _scan_kernel[(triton.cdiv(width, BLOCK),)](direct, jacobian, total, steps, width, BLOCK, num_warps=1)
    return total


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The kernels know their strides from the shapes; a gradient, for one, often comes as an expanded scalar."""
    return tuple(tensor.contiguous() for tensor in tensors)


@triton.jit
def _tanh(x):
    """tanh to a relative error of a few 2^-24: (1 - exp(-2|x|)) / (1 + exp(-2|x|)) alone would lose it near zero.

    There it is x + x^3 P(x^2), with the P whose largest relative error on |x| <= 0.55 is the least (4e-8). No power
    overflows, so that only a NaN gives a NaN. (libdevice's tanh is as good, but Triton's interpreter lacks it.)
    """
    b_square = x * x
    b_fit = ((0.016437581 * b_square - 0.05267181) * b_square + 0.13320725) * b_square - 0.33332947
    # exp(-2|x|), with the factor that exp2 needs folded in: this is on the recurrence's critical path.
    b_power = tl.exp2(-2.8853900817779268 * tl.abs(x))
    b_large = (1.0 - b_power) / (1.0 + b_power)
    return tl.where(tl.abs(x) < 0.55, x + x * b_square * b_fit, tl.where(x < 0, -b_large, b_large))


@triton.jit
def _gates(projections, weights, biases, b_previous):
    """f and z of one step."""
    b_forget = tl.sigmoid((projections[0] + biases[0]) + weights[0] * b_previous)
    b_candidate = _tanh((projections[1] + biases[1]) + weights[1] * b_previous)
    return b_forget, b_candidate


@triton.jit
def _load_both(p_gates, i_row, N, o_unit, b_mask):
    """The values of both gates in one row of [rows, K, N]."""
    p_row = p_gates + i_row * 2 * N + o_unit
    return tl.load(p_row, mask=b_mask, other=0.0), tl.load(p_row + N, mask=b_mask, other=0.0)


@triton.jit
def _store_both(p_gates, by_gates, i_row, N, o_unit, b_mask):
    """The same place, written."""
    p_row = p_gates + i_row * 2 * N + o_unit
    tl.store(p_row, by_gates[0], mask=b_mask)
    tl.store(p_row + N, by_gates[1], mask=b_mask)


@triton.jit
def _load_forward(operands, t, T, i_row, N, o_unit, b_mask):
    """What the forward scan reads at step t; zeros after the last."""
    p_projection, p_first = operands
    inside = t < T
    first = tl.load(p_first + i_row, mask=inside, other=0)
    return _load_both(p_projection, i_row, N, o_unit, b_mask & inside), first


@triton.jit(do_not_specialize=["T", "B", "N"])
def _forward_kernel(p_projection, p_weight, p_bias, p_cell, p_first, p_cells, T, B, N, BLOCK: tl.constexpr):
    i_b = tl.program_id(0).to(tl.int64)
    o_unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b_mask = o_unit < N
    weights = _load_both(p_weight, 0, N, o_unit, b_mask)
    biases = _load_both(p_bias, 0, N, o_unit, b_mask)
    b_cell = tl.load(p_cell + i_b * N + o_unit, mask=b_mask, other=0.0)
    rows = B.to(tl.int64)
    operands = (p_projection, p_first)
    now = _load_forward(operands, 0, T, i_b, N, o_unit, b_mask)
    next_1 = _load_forward(operands, 1, T, i_b + rows, N, o_unit, b_mask)
    next_2 = _load_forward(operands, 2, T, i_b + rows * 2, N, o_unit, b_mask)
    next_3 = _load_forward(operands, 3, T, i_b + rows * 3, N, o_unit, b_mask)
    for t in range(T):
        i_row = i_b + rows * t
        next_4 = _load_forward(operands, t + 4, T, i_row + rows * 4, N, o_unit, b_mask)
        projections, first = now
        b_previous = tl.where(first, 0.0, b_cell)
        b_forget, b_candidate = _gates(projections, weights, biases, b_previous)
        b_cell = b_forget * b_previous + (1.0 - b_forget) * b_candidate
        tl.store(p_cells + i_row * N + o_unit, b_cell, mask=b_mask)
        now, next_1, next_2, next_3 = next_1, next_2, next_3, next_4


@triton.jit
def _load_backward(operands, t, i_row, rows, N, o_unit, b_mask):
    """What the backward scan reads at step t >= 0, with c_{t-1} as the step saw it; zeros before the rollout."""
    p_direct, p_projection, p_cells, p_first, b_cell = operands
    inside = t >= 0
    first = tl.load(p_first + i_row, mask=inside, other=0)
    b_direct = tl.load(p_direct + i_row * N + o_unit, mask=b_mask & inside, other=0.0)
    b_previous = tl.load(p_cells + (i_row - rows) * N + o_unit, mask=b_mask & (t > 0), other=b_cell)
    projections = _load_both(p_projection, i_row, N, o_unit, b_mask & inside)
    return projections, b_direct, b_previous, first


@triton.jit
def _add_step(sums, by_gates, b_previous):
    """The sums over the steps of both gates' values times c', and of the values themselves."""
    b_0, b_1 = by_gates
    return sums[0] + b_0 * b_previous, sums[1] + b_1 * b_previous, sums[2] + b_0, sums[3] + b_1


@triton.jit(do_not_specialize=["T", "B", "N"])
def _backward_kernel(
    p_direct, p_projection, p_weight, p_bias, p_cells, p_cell, p_first,
    p_by_projection, p_by_vectors, p_boundary, p_decay, p_weighted, p_gained, T, B, N,
    JUMP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    rows = B.to(tl.int64)
    o_unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b_mask = o_unit < N
    weights = _load_both(p_weight, 0, N, o_unit, b_mask)
    biases = _load_both(p_bias, 0, N, o_unit, b_mask)
    b_cell = tl.load(p_cell + i_b * N + o_unit, mask=b_mask, other=0.0)
    b_zero = tl.zeros([BLOCK], tl.float32)
    b_later, b_after = b_zero, b_zero + 1.0
    sums = (b_zero, b_zero, b_zero, b_zero)
    gains = (b_zero, b_zero, b_zero, b_zero)
    operands = (p_direct, p_projection, p_cells, p_first, b_cell)
    i_last = i_b + rows * (T - 1)
    now = _load_backward(operands, T - 1, i_last, rows, N, o_unit, b_mask)
    next_1 = _load_backward(operands, T - 2, i_last - rows, rows, N, o_unit, b_mask)
    next_2 = _load_backward(operands, T - 3, i_last - rows * 2, rows, N, o_unit, b_mask)
    next_3 = _load_backward(operands, T - 4, i_last - rows * 3, rows, N, o_unit, b_mask)
    for i_step in range(T):
        t = T - 1 - i_step
        i_row = i_b + rows * t
        next_4 = _load_backward(operands, t - 4, i_row - rows * 4, rows, N, o_unit, b_mask)
        projections, b_direct, b_previous, first = now
        b_previous = tl.where(first, 0.0, b_previous)
        b_forget, b_candidate = _gates(projections, weights, biases, b_previous)
        b_keep = 1.0 - b_forget
        b_immediate_0 = (b_previous - b_candidate) * b_forget * b_keep
        b_immediate_1 = b_keep * (1.0 - b_candidate * b_candidate)
        b_jacobian = b_forget + weights[1] * b_immediate_1 + weights[0] * b_immediate_0
        b_total = b_direct + b_later
        b_later = tl.where(first, 0.0, b_jacobian * b_total)
        by_gates = (b_total * b_immediate_0, b_total * b_immediate_1)
        _store_both(p_by_projection, by_gates, i_row, N, o_unit, b_mask)
        sums = _add_step(sums, by_gates, b_previous)
        if JUMP:
            by_gates = (b_after * b_immediate_0, b_after * b_immediate_1)
            b_after = tl.where(first, 0.0, b_jacobian * b_after)
            _store_both(p_weighted, by_gates, i_row, N, o_unit, b_mask)
            gains = _add_step(gains, by_gates, b_previous)
        now, next_1, next_2, next_3 = next_1, next_2, next_3, next_4
    tl.store(p_boundary + i_b * N + o_unit, b_later, mask=b_mask)
    _store_both(p_by_vectors, (sums[0], sums[1]), 2 * i_b, N, o_unit, b_mask)
    _store_both(p_by_vectors, (sums[2], sums[3]), 2 * i_b + 1, N, o_unit, b_mask)
    if JUMP:
        tl.store(p_decay + i_b * N + o_unit, b_after, mask=b_mask)
        _store_both(p_gained, (gains[0], gains[1]), 2 * i_b, N, o_unit, b_mask)
        _store_both(p_gained, (gains[2], gains[3]), 2 * i_b + 1, N, o_unit, b_mask)


@triton.jit
def _load_scan(operands, t, N, o_unit, b_mask):
    """What the generic scan reads at step t, e_t and a_t; zeros before the first."""
    p_direct, p_jacobian = operands
    o_value = N.to(tl.int64) * t + o_unit
    b_inside = b_mask & (t >= 0)
    b_direct = tl.load(p_direct + o_value, mask=b_inside, other=0.0)
    return b_direct, tl.load(p_jacobian + o_value, mask=b_inside, other=0.0)


@triton.jit(do_not_specialize=["T", "N"])
def _scan_kernel(p_direct, p_jacobian, p_total, T, N, BLOCK: tl.constexpr):
    o_unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_mask = o_unit < N
    b_later = tl.zeros([BLOCK], tl.float32)
    operands = (p_direct, p_jacobian)
    now = _load_scan(operands, T - 1, N, o_unit, b_mask)
    next_1 = _load_scan(operands, T - 2, N, o_unit, b_mask)
    next_2 = _load_scan(operands, T - 3, N, o_unit, b_mask)
    next_3 = _load_scan(operands, T - 4, N, o_unit, b_mask)
    for i_step in range(T):
        t = T - 1 - i_step
        next_4 = _load_scan(operands, t - 4, N, o_unit, b_mask)
        b_total = now[0] + b_later
        tl.store(p_total + N.to(tl.int64) * t + o_unit, b_total, mask=b_mask)
        b_later = now[1] * b_total
        now, next_1, next_2, next_3 = next_1, next_2, next_3, next_4
