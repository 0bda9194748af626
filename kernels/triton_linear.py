# mypy: allow-untyped-defs
"""The scans of any cell, :func:`r2ac.kernels.scan.linear_forward_scan` and
:func:`r2ac.kernels.scan.linear_reverse_scan`, as Triton kernels in float32.

A program is one warp that walks over the steps of 32 units of one stream, and loads ahead, as in
:mod:`r2ac.kernels.triton_scan`, whose names hold here, too. All blocks are [rows, units]: one row, or as many as there
are gates or own parameters, padded to a power of two. What does not differ between steps and streams is given once: its
rows, one a step and stream, are then 0 numbers apart.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from r2ac.kernels.cells import Linearisation
from r2ac.kernels.scan import ReverseScan
from r2ac.kernels.triton_scan import _tanh

BLOCK = 32


def linear_forward_scan(
    factor: Tensor, added: Tensor, state: Tensor, is_first: Tensor, squashed: bool = False
) -> Tensor:
    """:func:`r2ac.kernels.scan.linear_forward_scan` in one launch."""
    steps, batch, *pair, units = added.shape
    states = torch.empty_like(added, memory_format=torch.contiguous_format)
    factor, stride = _rows(factor)
    operands = factor, added.contiguous(), state.contiguous(), is_first.contiguous()
    with torch.cuda.device_of(added):
        _forward_kernel[batch, triton.cdiv(units, BLOCK)](
            *operands, states, stride, steps, batch, units, len(pair) + 1, squashed, BLOCK, num_warps=1
        )
    return states


def linear_reverse_scan(direct: Tensor, linear: Linearisation, is_first: Tensor, jump: bool) -> ReverseScan:
    """:func:`r2ac.kernels.scan.linear_reverse_scan` in one launch and one sum over the streams."""
    steps, batch, *pair, units = direct.shape
    gates, own, new = linear.by_gates.shape[-2], linear.by_own.shape[-2], direct.new_empty
    by_projection, by_vectors = new(steps, batch, gates, units), new(batch, own + gates, units)
    boundary, decay, weighted, gained = new(batch, *pair, units), new(0), new(0), new(0)
    if jump:
        decay, weighted = new(batch, *pair, *pair, units), new(steps, batch, *pair, gates, units)
        gained = new(batch, *pair, own + gates, units)
    arrays, strides = zip(*map(_rows, linear), strict=True)
    operands = direct.contiguous(), *arrays, is_first.contiguous()
    results = by_projection, by_vectors, boundary, decay, weighted, gained
    with torch.cuda.device_of(direct):
        _reverse_kernel[batch, triton.cdiv(units, BLOCK)](
            *operands, *results, *strides, steps, batch, units, **reverse_constants(len(pair) + 1, gates, own, jump),
            num_warps=1,
        )  # fmt: skip
    return ReverseScan(by_projection, by_vectors.sum(0), boundary, decay, weighted, gained)


def reverse_constants(parts: int, gates: int, own: int, jump: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    padded = [triton.next_power_of_2(max(1, number)) for number in (gates, own)]
    sizes = {"PARTS": parts, "K": gates, "L": own, "K_ROWS": padded[0], "L_ROWS": padded[1]}
    return {**sizes, "JUMP": jump, "BLOCK": BLOCK}


def _rows(tensor: Tensor) -> tuple[Tensor, int]:
    """The tensor, [T, B, ...], as the kernels read it, and the numbers from one step and stream to the next."""
    if tensor.stride()[:2] == (0, 0):
        return tensor[0, 0].contiguous(), 0
    return tensor.contiguous(), tensor[0, 0].numel()


@triton.jit
def _load_forward(operands, t, T, i_row, factor_stride, N, o_unit, b_mask, PARTS: tl.constexpr):
    """a and b of step t; zeros after the last. The second parts are those of a pair."""
    p_factor, p_added, p_first = operands
    b_inside = b_mask & (t < T)
    p_a = p_factor + i_row * factor_stride + o_unit
    p_b = p_added + i_row * (PARTS * N) + o_unit
    b_a, b_b = tl.load(p_a, b_inside, 0.0), tl.load(p_b, b_inside, 0.0)
    b_a_1, b_b_1 = b_a, b_b
    if PARTS == 2:
        b_a_1, b_b_1 = tl.load(p_a + N, b_inside, 0.0), tl.load(p_b + N, b_inside, 0.0)
    return b_a, b_a_1, b_b, b_b_1, tl.load(p_first + i_row, mask=t < T, other=0)


@triton.jit(do_not_specialize=["factor_stride", "T", "B", "N"])
def _forward_kernel(
    p_factor, p_added, p_state, p_first, p_states, factor_stride, T, B, N,
    PARTS: tl.constexpr, SQUASHED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    o_unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b_mask = o_unit < N
    rows = B.to(tl.int64)
    p_start = p_state + i_b * (PARTS * N) + o_unit
    b_state = tl.load(p_start, b_mask, 0.0)
    b_state_1 = b_state
    if PARTS == 2:
        b_state_1 = tl.load(p_start + N, b_mask, 0.0)
    operands = (p_factor, p_added, p_first)
    now = _load_forward(operands, 0, T, i_b, factor_stride, N, o_unit, b_mask, PARTS)
    next_1 = _load_forward(operands, 1, T, i_b + rows, factor_stride, N, o_unit, b_mask, PARTS)
    next_2 = _load_forward(operands, 2, T, i_b + rows * 2, factor_stride, N, o_unit, b_mask, PARTS)
    next_3 = _load_forward(operands, 3, T, i_b + rows * 3, factor_stride, N, o_unit, b_mask, PARTS)
    for t in range(T):
        i_row = i_b + rows * t
        next_4 = _load_forward(operands, t + 4, T, i_row + rows * 4, factor_stride, N, o_unit, b_mask, PARTS)
        b_a, b_a_1, b_b, b_b_1, first = now
        b_before = tl.where(first, 0.0, b_state)
        p_after = p_states + i_row * (PARTS * N) + o_unit
        if PARTS == 1:
            b_state = b_a * b_before + b_b
            if SQUASHED:
                b_state = _tanh(b_state)
        else:
            b_before_1 = tl.where(first, 0.0, b_state_1)
            b_state = b_a * b_before - b_a_1 * b_before_1 + b_b
            b_state_1 = b_a_1 * b_before + b_a * b_before_1 + b_b_1
            if SQUASHED:
                b_state, b_state_1 = _tanh(b_state), _tanh(b_state_1)
            tl.store(p_after + N, b_state_1, b_mask)
        tl.store(p_after, b_state, b_mask)
        now, next_1, next_2, next_3 = next_1, next_2, next_3, next_4


@triton.jit
def _load_vectors(p_vectors, i_row, stride, N, o_unit, b_inside, COUNT: tl.constexpr, ROWS: tl.constexpr,
                  PARTS: tl.constexpr):  # fmt: skip
    """The derivatives by some gates or own parameters, of each part of the state."""
    o_row = tl.arange(0, ROWS)[:, None]
    b_mask = b_inside & (o_row < COUNT)
    p_row = p_vectors + i_row * stride + o_row * N + o_unit
    b_vectors = tl.load(p_row, b_mask, 0.0)
    b_vectors_1 = b_vectors
    if PARTS == 2:
        b_vectors_1 = tl.load(p_row + COUNT * N, b_mask, 0.0)
    return b_vectors, b_vectors_1


@triton.jit
def _load_reverse(operands, strides, t, i_row, N, o_unit, b_mask, PARTS: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
                  K_ROWS: tl.constexpr, L_ROWS: tl.constexpr):  # fmt: skip
    """What the reverse scan reads at step t; zeros before the first."""
    p_direct, p_jacobian, p_by_gates, p_by_own, p_first = operands
    b_inside = b_mask & (t >= 0)
    p_e, p_a = p_direct + i_row * (PARTS * N) + o_unit, p_jacobian + i_row * strides[0] + o_unit
    b_e, b_a = tl.load(p_e, b_inside, 0.0), tl.load(p_a, b_inside, 0.0)
    b_e_1, b_a_01, b_a_10, b_a_11 = b_e, b_a, b_a, b_a
    if PARTS == 2:
        b_e_1, b_a_01 = tl.load(p_e + N, b_inside, 0.0), tl.load(p_a + N, b_inside, 0.0)
        b_a_10, b_a_11 = tl.load(p_a + 2 * N, b_inside, 0.0), tl.load(p_a + 3 * N, b_inside, 0.0)
    by_gates = _load_vectors(p_by_gates, i_row, strides[1], N, o_unit, b_inside, K, K_ROWS, PARTS)
    by_own = _load_vectors(p_by_own, i_row, strides[2], N, o_unit, b_inside, L, L_ROWS, PARTS)
    first = tl.load(p_first + i_row, mask=t >= 0, other=0)
    return (b_e, b_e_1), (b_a, b_a_01, b_a_10, b_a_11), by_gates, by_own, first


@triton.jit
def _contract(left, right, PARTS: tl.constexpr):
    """The product of two numbers, or the inner one of two pairs."""
    b_sum = left[0] * right[0]
    if PARTS == 2:
        b_sum += left[1] * right[1]
    return b_sum


@triton.jit
def _store_vectors(p_vectors, b_gates, b_own, N, o_unit, b_mask, K: tl.constexpr, L: tl.constexpr,
                   K_ROWS: tl.constexpr, L_ROWS: tl.constexpr):  # fmt: skip
    """The own parameters' rows, then the gates'."""
    o_own, o_gate = tl.arange(0, L_ROWS)[:, None], tl.arange(0, K_ROWS)[:, None]
    tl.store(p_vectors + o_own * N + o_unit, b_own, b_mask & (o_own < L))
    tl.store(p_vectors + (L + o_gate) * N + o_unit, b_gates, b_mask & (o_gate < K))


@triton.jit(do_not_specialize=["jacobian_stride", "gates_stride", "own_stride", "T", "B", "N"])
def _reverse_kernel(
    p_direct, p_jacobian, p_by_gates, p_by_own, p_first,
    p_by_projection, p_by_vectors, p_boundary, p_decay, p_weighted, p_gained,
    jacobian_stride, gates_stride, own_stride, T, B, N,
    PARTS: tl.constexpr, K: tl.constexpr, L: tl.constexpr, K_ROWS: tl.constexpr, L_ROWS: tl.constexpr,
    JUMP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    rows = B.to(tl.int64)
    o_unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    o_gate = tl.arange(0, K_ROWS)[:, None]
    b_mask = o_unit < N
    b_gate_mask = b_mask & (o_gate < K)
    b_zero = tl.zeros([1, BLOCK], tl.float32)
    b_later, b_later_1 = b_zero, b_zero
    b_after_00, b_after_01, b_after_10, b_after_11 = b_zero + 1.0, b_zero, b_zero, b_zero + 1.0
    b_gates_sum, b_own_sum = tl.zeros([K_ROWS, BLOCK], tl.float32), tl.zeros([L_ROWS, BLOCK], tl.float32)
    b_gates_gain, b_own_gain, b_gates_gain_1, b_own_gain_1 = b_gates_sum, b_own_sum, b_gates_sum, b_own_sum
    operands = (p_direct, p_jacobian, p_by_gates, p_by_own, p_first)
    strides = (jacobian_stride, gates_stride, own_stride)
    i_row = i_b + rows * (T - 1)
    now = _load_reverse(operands, strides, T - 1, i_row, N, o_unit, b_mask, PARTS, K, L, K_ROWS, L_ROWS)
    next_1 = _load_reverse(operands, strides, T - 2, i_row - rows, N, o_unit, b_mask, PARTS, K, L, K_ROWS, L_ROWS)
    for i_step in range(T):
        t = T - 1 - i_step
        i_row = i_b + rows * t
        next_2 = _load_reverse(
            operands, strides, t - 2, i_row - rows * 2, N, o_unit, b_mask, PARTS, K, L, K_ROWS, L_ROWS
        )
        directs, jacobians, by_gates, by_own, first = now
        b_a, b_a_01, b_a_10, b_a_11 = jacobians
        b_total, b_total_1 = directs[0] + b_later, directs[1] + b_later_1
        b_by = _contract((b_total, b_total_1), by_gates, PARTS)
        tl.store(p_by_projection + i_row * (K * N) + o_gate * N + o_unit, b_by, b_gate_mask)
        b_gates_sum += b_by
        b_own_sum += _contract((b_total, b_total_1), by_own, PARTS)
        b_later = tl.where(first, 0.0, _contract((b_total, b_total_1), (b_a, b_a_10), PARTS))
        if PARTS == 2:
            b_later_1 = tl.where(first, 0.0, b_total * b_a_01 + b_total_1 * b_a_11)
        if JUMP:
            p_weights = p_weighted + i_row * (PARTS * K * N) + o_gate * N + o_unit
            b_row, b_row_1 = b_after_00, b_after_01
            b_weight = _contract((b_row, b_row_1), by_gates, PARTS)
            tl.store(p_weights, b_weight, b_gate_mask)
            b_gates_gain += b_weight
            b_own_gain += _contract((b_row, b_row_1), by_own, PARTS)
            b_after_00 = tl.where(first, 0.0, _contract((b_row, b_row_1), (b_a, b_a_10), PARTS))
            if PARTS == 2:
                b_after_01 = tl.where(first, 0.0, b_row * b_a_01 + b_row_1 * b_a_11)
                b_row, b_row_1 = b_after_10, b_after_11
                b_weight = _contract((b_row, b_row_1), by_gates, PARTS)
                tl.store(p_weights + K * N, b_weight, b_gate_mask)
                b_gates_gain_1 += b_weight
                b_own_gain_1 += _contract((b_row, b_row_1), by_own, PARTS)
                b_after_10 = tl.where(first, 0.0, b_row * b_a + b_row_1 * b_a_10)
                b_after_11 = tl.where(first, 0.0, b_row * b_a_01 + b_row_1 * b_a_11)
        now, next_1 = next_1, next_2
    V: tl.constexpr = K + L
    p_state = p_boundary + i_b * (PARTS * N) + o_unit
    tl.store(p_state, b_later, b_mask)
    _store_vectors(p_by_vectors + i_b * (V * N), b_gates_sum, b_own_sum, N, o_unit, b_mask, K, L, K_ROWS, L_ROWS)
    if PARTS == 2:
        tl.store(p_state + N, b_later_1, b_mask)
    if JUMP:
        p_product, p_gain = p_decay + i_b * (PARTS * PARTS * N) + o_unit, p_gained + i_b * (PARTS * V * N)
        tl.store(p_product, b_after_00, b_mask)
        _store_vectors(p_gain, b_gates_gain, b_own_gain, N, o_unit, b_mask, K, L, K_ROWS, L_ROWS)
        if PARTS == 2:
            tl.store(p_product + N, b_after_01, b_mask)
            tl.store(p_product + 2 * N, b_after_10, b_mask)
            tl.store(p_product + 3 * N, b_after_11, b_mask)
            p_gain += V * N
            _store_vectors(p_gain, b_gates_gain_1, b_own_gain_1, N, o_unit, b_mask, K, L, K_ROWS, L_ROWS)
