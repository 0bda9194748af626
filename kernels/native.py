"""The kernels for CPUs: a small C++ library, compiled at first use, that does each scan in one loop over the steps.

The functions have the arguments and results of their readable references (:mod:`r2ac.kernels.scan`,
:mod:`r2ac.kernels.sensitivity`), for float32 and float64 tensors on the CPU, and record no gradients. Their results do
not depend on the number of threads. They raise ValueError for tensors of another dtype, device or shape, and
RuntimeError where there is no library: ask :func:`r2ac.kernels.native_library.missing_reason` first.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from r2ac.kernels import block, sensitivity
from r2ac.kernels.cells import CELLS, Linearisation
from r2ac.kernels.native_library import CELLS_WITH_SCANS, TYPES, functions
from r2ac.kernels.scan import ReverseScan

# Below so many numbers a second thread costs more than it saves.
GRAIN = 2**14
_GATES_NUMBERS_PAIR = {name: (CELLS[name].gates, CELLS[name].numbers, CELLS[name].pair) for name in CELLS_WITH_SCANS}


def cell_forward(cell: str, projection: Tensor, own: Tensor, bias: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
    """The states, [T, B, (2,) N], of one of ``CELLS_WITH_SCANS``: see :func:`r2ac.kernels.scan.forward_scan`."""
    rollout, (steps, batch, _, units) = _rollout(cell, projection, own, bias, state, is_first), projection.shape
    states = projection.new_empty(steps, *state.shape)
    call(f"{cell}_forward", (*rollout, states), (steps, batch, units), work=states.numel())
    return states


def cell_backward(
    cell: str,
    direct: Tensor,
    projection: Tensor,
    own: Tensor,
    bias: Tensor,
    states: Tensor,
    state: Tensor,
    is_first: Tensor,
    jump: bool,
) -> ReverseScan:
    """All that gradient and sensitivities need of the rollout: see :func:`r2ac.kernels.scan.reverse_scan`."""
    projection, own, bias, state, is_first = _rollout(cell, projection, own, bias, state, is_first)
    (steps, batch, _, units), (_, *pair, _) = projection.shape, state.shape
    direct = ready("direct", direct, (steps, *state.shape), projection.dtype)
    states = ready("states", states, (steps, *state.shape), projection.dtype)
    scan, results = _empty_scan(projection, pair, len(own), jump)
    given = direct, projection, own, bias, states, state, is_first
    call(f"{cell}_backward", (*given, *results), (steps, batch, units), work=states.numel())
    return scan


def backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """d_t = e_t + a_{t+1} d_{t+1} for tensors [T, ...]: see :func:`r2ac.kernels.scan.backward_scan`."""
    check_type(direct)
    if direct.dim() < 1 or direct.shape[0] < 1:
        raise ValueError(f"direct must be [T >= 1, ...], not {list(direct.shape)}")
    jacobian = ready("jacobian", jacobian, direct.shape, direct.dtype)
    direct = direct.contiguous()
    total = torch.empty_like(direct)
    sizes = len(direct), direct[0].numel()
    call("backward_scan", (direct, jacobian, total), sizes, work=direct.numel())
    return total


def linear_forward_scan(
    factor: Tensor, added: Tensor, state: Tensor, is_first: Tensor, squashed: bool = False
) -> Tensor:
    """c_t = a_t c_{t-1} + b_t, or tanh of it: see :func:`r2ac.kernels.scan.linear_forward_scan`."""
    check_type(added)
    if added.dim() not in (3, 4) or added.shape[0] < 1:
        raise ValueError(f"added must be [T >= 1, B, (2,) N], not {list(added.shape)}")
    steps, batch, *pair, units = added.shape
    added, dtype = added.contiguous(), added.dtype
    factor, stride = _constant_or_ready("factor", factor, added.shape, dtype)
    state = ready("state", state, (batch, *pair, units), dtype)
    is_first = ready("is_first", is_first, (steps, batch), torch.bool)
    states = torch.empty_like(added)
    sizes = stride, squashed, len(pair) + 1, steps, batch, units
    call("linear_forward", (factor, added, state, is_first, states), sizes, work=states.numel())
    return states


def linear_reverse_scan(direct: Tensor, linear: Linearisation, is_first: Tensor, jump: bool) -> ReverseScan:
    """All that follows from a cell's derivatives: see :func:`r2ac.kernels.scan.linear_reverse_scan`."""
    check_type(direct)
    if direct.dim() not in (3, 4) or direct.shape[0] < 1 or linear.by_gates.dim() != direct.dim() + 1:
        shapes = f"{list(direct.shape)} and {list(linear.by_gates.shape)}"
        raise ValueError(f"direct and by_gates must be [T >= 1, B, (2,) N] and [T, B, (2,) K, N], not {shapes}")
    steps, batch, *pair, units = direct.shape
    gates, own, dtype = linear.by_gates.shape[-2], linear.by_own.shape[-2], direct.dtype
    outer = steps, batch, *pair
    jacobian, jacobian_stride = _constant_or_ready("jacobian", linear.jacobian, (*outer, *pair, units), dtype)
    by_gates, gates_stride = _constant_or_ready("by_gates", linear.by_gates, (*outer, gates, units), dtype)
    by_own, own_stride = _constant_or_ready("by_own", linear.by_own, (*outer, own, units), dtype)
    is_first = ready("is_first", is_first, (steps, batch), torch.bool)
    scan, results = _empty_scan(direct.new_empty(steps, batch, gates, units), pair, own, jump)
    given = direct.contiguous(), jacobian, by_gates, by_own, is_first
    strides = jacobian_stride, gates_stride, own_stride
    sizes = *strides, len(pair) + 1, steps, batch, gates, own, units
    call("linear_reverse", (*given, *results), sizes, work=direct.numel())
    return scan


def sensitivity_pass_(
    matrix: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, weighted: Tensor, inputs: Tensor
) -> Tensor:
    """Boundary contraction and jump, in place: see :func:`r2ac.kernels.sensitivity.sensitivity_pass_`, and for pairs
    :func:`r2ac.kernels.block.block_sensitivity_pass_`.

    ``matrix`` must be contiguous. One that is stored in bfloat16 takes the readable form.
    """
    if weighted.dim() not in (4, 5) or inputs.dim() != 3:
        shapes = f"{list(weighted.shape)} and {list(inputs.shape)}"
        raise ValueError(f"weighted and inputs must be [T, B, (2,) K, N] and [T, B, D], not {shapes}")
    if matrix.dtype == torch.bfloat16:
        readable = sensitivity.sensitivity_pass_ if weighted.dim() == 4 else block.block_sensitivity_pass_
        return readable(matrix, streams, fresh, boundary, decay, weighted, inputs)
    check_type(inputs)
    steps, batch, *pair, gates, units = weighted.shape
    width, dtype = inputs.shape[-1], inputs.dtype
    if not matrix.is_contiguous():
        raise ValueError("matrix is changed in place and must be contiguous")
    ready("matrix", matrix, (*(matrix.shape[:1] or (0,)), *pair, gates, units, width), dtype)
    weighted = ready("weighted", weighted, (steps, batch, *pair, gates, units), dtype)
    inputs = ready("inputs", inputs, (steps, batch, width), dtype)
    boundary = ready("boundary", boundary, (batch, *pair, units), dtype)
    decay = ready("decay", decay, (batch, *pair, *pair, units), dtype)
    streams, fresh = different_rows(streams, len(matrix), batch), ready("fresh", fresh, (batch,), torch.bool)
    term = inputs.new_zeros(gates, units, width)
    given = streams, fresh, boundary, decay, weighted, inputs
    sizes = len(pair) + 1, steps, batch, gates, units, width
    call("sensitivity_pass", (matrix, term, *given), sizes, work=batch * term.numel())
    return term


block_sensitivity_pass_ = sensitivity_pass_


def vector_pass_(
    vectors: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, gained: Tensor
) -> Tensor:
    """The same for the vectors, in place: see :func:`r2ac.kernels.sensitivity.vector_pass_`."""
    if gained.dim() not in (3, 4):
        raise ValueError(f"gained must be [B, (2,) L + K, N], not {list(gained.shape)}")
    check_type(gained)
    batch, *pair, rows, units = gained.shape
    dtype = gained.dtype
    gained = gained.contiguous()
    if not vectors.is_contiguous():
        raise ValueError("vectors is changed in place and must be contiguous")
    ready("vectors", vectors, (*(vectors.shape[:1] or (0,)), *pair, rows, units), dtype)
    boundary = ready("boundary", boundary, (batch, *pair, units), dtype)
    decay = ready("decay", decay, (batch, *pair, *pair, units), dtype)
    streams, fresh = different_rows(streams, len(vectors), batch), ready("fresh", fresh, (batch,), torch.bool)
    term = gained.new_empty(rows, units)
    given = streams, fresh, boundary, decay, gained
    call("vector_pass", (vectors, term, *given), (len(pair) + 1, batch, rows, units), work=0)
    return term


def different_rows(streams: Tensor, count: int, batch: int) -> Tensor:
    """The same, if these are different rows of ``count``."""
    streams = ready("streams", streams, (batch,), torch.int64)
    rows = streams.tolist()
    if len({*rows}) < batch or (rows and not (min(rows) >= 0 and max(rows) < count)):
        raise ValueError(f"streams must be different rows of the {count} that are kept, not {rows}")
    return streams


def _empty_scan(like: Tensor, pair: Sequence[int], own: int, jump: bool) -> tuple[ReverseScan, list[Tensor | None]]:
    """Room for a reverse scan of a projection [T, B, K, N] like this, and the same as C++ takes it."""
    (steps, batch, gates, units), new = like.shape, like.new_empty
    vectors = own + gates
    by_projection, by_vectors, boundary = torch.empty_like(like), new(vectors, units), new(batch, *pair, units)
    results: list[Tensor | None] = [by_projection, by_vectors, new(batch, vectors, units), boundary]
    of_jump = [new(0), new(0), new(0)]
    if jump:
        weighted = new(steps, batch, *pair, gates, units)
        of_jump = [new(batch, *pair, *pair, units), weighted, new(batch, *pair, vectors, units)]
    return ReverseScan(by_projection, by_vectors, boundary, *of_jump), results + (of_jump if jump else [None] * 3)


def _rollout(
    name: str, projection: Tensor, own: Tensor, bias: Tensor, state: Tensor, is_first: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same of a cell, checked and contiguous."""
    gates, numbers, pair = _GATES_NUMBERS_PAIR[name]
    check_type(projection)
    if projection.dim() != 4 or projection.shape[0] < 1 or projection.shape[2] != gates:
        raise ValueError(f"projection must be [T >= 1, B, {gates}, N], not {list(projection.shape)}")
    (steps, batch, _, units), dtype = projection.shape, projection.dtype
    return (
        projection.contiguous(),
        ready("own", own, (numbers, units), dtype),
        ready("bias", bias, (gates, units), dtype),
        ready("state", state, (batch, *pair, units), dtype),
        ready("is_first", is_first, (steps, batch), torch.bool),
    )


def check_type(tensor: Tensor) -> None:
    if tensor.dtype not in TYPES or not tensor.is_cpu:
        raise ValueError(f"float32 or float64 on the CPU is needed, not {tensor.dtype} on {tensor.device}")


def ready(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor, contiguous, if C++ may take its address."""
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
        found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise ValueError(f"{name} must be {dtype} {list(shape)} on the CPU, not {found}")
    return tensor.contiguous()


def _constant_or_ready(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    """The tensor as C++ may read it, and the numbers from one of its rows, of a step and stream, to the next: 0 where
    one row is that of all."""
    if tensor.shape == shape and tensor.stride()[:2] == (0, 0):
        return ready(name, tensor[0, 0], shape[2:], dtype), 0
    return ready(name, tensor, shape, dtype), math.prod(shape[2:])


def call(
    name: str, arrays: Sequence[Tensor | None], sizes: Sequence[int], work: int, layers: Sequence[Tensor | None] = ()
) -> None:
    """Call a function of native.cpp for the dtype of the first array; None is given as a null pointer. ``layers`` come
    before the arrays, as one array of pointers."""
    assert arrays[0] is not None
    given: list[Any] = [None if array is None else array.data_ptr() for array in arrays]
    if layers:
        given.insert(0, pointers(layers))
    function(name, arrays[0].dtype, work)(*given, *sizes)


def pointers(arrays: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Their addresses, null for None."""
    addresses = [None if array is None else array.data_ptr() for array in arrays]
    return (ctypes.c_void_p * len(arrays))(*addresses)


def function(name: str, dtype: torch.dtype, work: int) -> Callable[..., None]:
    """A function of native.cpp that has all arguments but the number of threads; ``work``: the numbers that a call
    computes."""
    found = functions(dtype)
    if isinstance(found, str):
        raise RuntimeError(f"no native kernels: {found}")
    threads, of_dtype = torch.get_num_threads() if work > GRAIN else 1, found[name]
    return lambda *arguments: of_dtype(*arguments, threads)
