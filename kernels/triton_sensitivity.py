# mypy: allow-untyped-defs
"""The pass over the sensitivities, of :mod:`r2ac.kernels.sensitivity` and :mod:`r2ac.kernels.block`, in Triton.

    term = sum_b boundary_b S_b      S_b <- decay_b S_b + sum_t weighted_{t,b} (x) x_{t,b}

The pass is bound by memory: S is read once and written once, 2*4*K*B*N*D bytes in float32. S of a stream is a matrix
of K*N rows and D columns. A program owns a tile of it, [rows, inputs], and walks over streams: it asks for the tile of
a stream, forms the sum over t while that is on its way, and writes the tile in the same visit. ``term`` never leaves
its registers, and every sum has a fixed order. The sums' operands come from the L2 cache, 4*T*(rows + inputs) bytes a
visit beside the tile's own 8*rows*inputs.

S is stored in float32 or bfloat16; all arithmetic is in float32. Its rows may be further apart than D: where they begin
at multiples of 8 numbers, a thread loads 4 neighbours at once, whose addresses take few registers. Only the sum over t
goes to the tensor cores, in the precision of ``torch.get_float32_matmul_precision()``:

    "highest"         tf32x3. An operand is v = v1 + v2 + r with v1 its rounding to tf32's 11 bits, by arithmetic on
                      its bits, and v2 the rest v - v1, which is exact, cut to 11 bits by the unit, so that
                      |v2| <= 2^-11 |v| and |r| <= 2^-21 |v|. Three products leave out v2 w2 and what has an r in it,
                      (2^-22 + 2 * 2^-21) |v w| < 1.2e-6 |v w|: near what float32 sums lose themselves. What is not
                      finite stays so; finite numbers above (2 - 2^-11) 2^127 round to infinity.
    "high", "medium"  tf32. The unit cuts both operands to 11 bits: an error up to 2 * 2^-10 |v w|, in the norm some
                      5e-4, and toward zero.

Rollouts of less than 16 steps take outer products in plain float32 whatever the setting.

Names: ``p_`` a pointer, ``b_`` a block of values, ``i_`` an index, ``o_`` an offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

_PRODUCT = 16
"""The fewest steps that are worth a product of the tensor cores, which take them in eights and sixteens."""
_TALLEST = 128
"""Rows of a tile at most, so that its operands leave room in shared memory for another program's."""
_LINE = 32
"""Units of a program over the vectors, which takes as many streams at a time."""


@dataclass(frozen=True)
class Tiles:
    """How a pass is cut into programs. Sizes are powers of two; a warp has 32 threads."""

    rows: int
    """Rows (k, n) of a tile."""
    inputs: int
    """Columns d of a tile, 16 at least."""
    steps: int
    """Steps in one product of the tensor cores, 16 at least; 1 takes outer products, a step at a time, instead."""
    splits: int
    """Groups of streams, each with a program for every tile and a partial sum of the term."""
    warps: int
    stages: int
    """Products whose operands are on their way at a time."""


def tiles(batch: int, rows: int, inputs: int, steps: int, parts: int = 1) -> Tiles:
    """The tiles of a pass, from its shapes alone: the same sums in the same order on every run and machine.

    A tile of 64 x 64 and four warps is 32 numbers a thread, of each of: the tile, the term, the product, and its next
    part. That is what 255 registers hold, and two such programs fit on a multiprocessor, so that one moves bytes while
    the other multiplies. Outer products need no parts and few operands: smaller tiles, more programs. A block pass
    holds both halves of a pair, at half the rows.

    There are seldom enough tiles to fill the 132 multiprocessors of a Hopper GPU; more programs share out the streams.
    With ``splits`` groups the pass takes ceil(programs / slots) rounds of ceil(batch / splits) visits; what a program
    costs beside its visits, partial sums above all, is about one more.

    Args:
        batch, rows, inputs, steps: B, K*N, D and T.
        parts: 1, or 2 for the pass over 2x2 blocks.
    """
    product = steps >= _PRODUCT
    whole = Tiles(64 // parts, 64, _PRODUCT, 1, 4, 2) if product else Tiles(32 // parts, 64, 1, 1, 4, 3)
    programs, slots = _programs(rows, inputs, whole), (2 if product else 4) * 132

    def visits(splits: int) -> int:
        return triton.cdiv(programs * splits, slots) * (triton.cdiv(batch, splits) + 1)

    streams = triton.cdiv(batch, min(range(1, min(batch, 16) + 1), key=visits))
    return replace(whole, splits=triton.cdiv(batch, streams))


def sensitivity_pass_(matrix: Tensor, *operands: Tensor, tiles: Tiles | None = None) -> Tensor:
    """:func:`r2ac.kernels.sensitivity.sensitivity_pass_` in one launch, and one sum where streams are split.

    ``matrix`` is float32 or bfloat16, all else float32. Its rows lie at equal distances, D numbers or more; what lies
    between them is neither read nor written. Compiled once for each K, N, D and distance, and for ``tiles``, which
    :func:`tiles` chooses if they are not given; not for each T or B.

    Raises:
        ValueError: if the rows of ``matrix`` lie otherwise.
    """
    return _launch(1, tiles, matrix, *operands)


def block_sensitivity_pass_(matrix: Tensor, *operands: Tensor, tiles: Tiles | None = None) -> Tensor:
    """:func:`r2ac.kernels.block.block_sensitivity_pass_` in one launch; otherwise as :func:`sensitivity_pass_`."""
    return _launch(2, tiles, matrix, *operands)


def vector_pass_(
    vectors: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, gained: Tensor
) -> Tensor:
    """:func:`r2ac.kernels.sensitivity.vector_pass_` in one launch."""
    if gained.dim() == 4:
        # For pairs the vectors are weights of an input that is always one, in a single step.
        ones = gained.new_ones(1, len(gained), 1)
        weighted = gained.unsqueeze(0)
        return block_sensitivity_pass_(vectors.unsqueeze(-1), streams, fresh, boundary, decay, weighted, ones).squeeze(
            -1
        )
    if not vectors.is_contiguous():
        raise ValueError("the sensitivities are changed in place and have to be contiguous")
    batch, rows, hidden = gained.shape
    term = gained.new_empty(rows, hidden)
    operands = (tensor.contiguous() for tensor in (streams, fresh, boundary, decay, gained))
    with torch.cuda.device_of(gained):
        _vector_kernel[(triton.cdiv(rows * hidden, _LINE),)](
            vectors, *operands, term, batch, hidden, rows * hidden, _LINE
        )
    return term


def _launch(parts: int, chosen: Tiles | None, matrix: Tensor, *operands: Tensor) -> Tensor:
    gates, hidden, width = matrix.shape[-3:]
    steps, batch, _ = operands[-1].shape
    cut = chosen or tiles(batch, gates * hidden, width, steps, parts)
    partial = operands[-1].new_empty(cut.splits, gates, hidden, width)
    contiguous = (tensor.contiguous() for tensor in operands)
    constants = pass_constants(gates, hidden, width, _row_stride(matrix), parts, cut, _precision())
    grid = (_programs(gates * hidden, width, cut), cut.splits)
    sizes = steps, batch, triton.cdiv(batch, cut.splits)
    options = {"num_warps": cut.warps, "num_stages": cut.stages}
    with torch.cuda.device_of(matrix):
        _pass_kernel[grid](matrix, *contiguous, partial, *sizes, **constants, **options)
    return partial[0] if cut.splits == 1 else partial.sum(0)


def _row_stride(matrix: Tensor) -> int:
    """Numbers from one row of D to the next."""
    width = matrix.shape[-1]
    line = width if matrix.is_contiguous() else matrix.stride(-2)
    rows = torch.empty(*matrix.shape[:-1], line, device="meta")[..., :width]
    if line < width or not (matrix.is_contiguous() or matrix.stride() == rows.stride()):
        raise ValueError(
            "the sensitivities are changed in place and have to be contiguous, but for what lies between two rows: "
            f"not of shape {list(matrix.shape)} and strides {list(matrix.stride())}"
        )
    return line


def pass_constants(
    gates: int, hidden: int, inputs: int, line: int, parts: int, cut: Tiles, precision: str
) -> dict[str, object]:
    """What the kernel is compiled for; ``line`` numbers lie between two rows of S."""
    sizes = {"N": hidden, "ROWS": gates * hidden, "D": inputs, "LINE": line, "PARTS": parts}
    tail = _tail(inputs, cut)
    return {
        **sizes,
        "TILE": _shape(cut.rows, cut.inputs, cut.warps),
        "TAIL": _shape(*tail, cut.warps) if tail else None,
        "STEPS": cut.steps,
        "PRECISION": precision,
    }


def _precision() -> str:
    # Not torch.get_float32_matmul_precision, which raises where the newer switch was used; this one reads both.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def _tail(inputs: int, cut: Tiles) -> tuple[int, int] | None:
    """Rows and columns of the tiles over the last columns, which do not fill a whole tile: narrower and taller."""
    remainder = inputs % cut.inputs
    if remainder == 0:
        return None
    width = max(16, triton.next_power_of_2(remainder))
    return max(cut.rows, min(_TALLEST, cut.rows * cut.inputs // width)), width


def _programs(rows: int, inputs: int, cut: Tiles) -> int:
    """Tiles of one group of streams: all whole ones, then those of the tail."""
    tail = _tail(inputs, cut)
    return triton.cdiv(rows, cut.rows) * (inputs // cut.inputs) + (triton.cdiv(rows, tail[0]) if tail else 0)


def _shape(rows: int, inputs: int, warps: int) -> tuple[int, int, int, int]:
    """A tile as [chunks, groups, lines, lanes]: column chunk * lanes + lane, row group * lines + line.

    Triton lays the threads along the last two axes, so that these are what differs between threads and the first two
    what differs between the numbers of one thread. All numbers of a thread then lie at constant distances, which cost
    no registers, and a thread meets few different rows. A plain [rows, inputs] tile spilled hundreds of bytes.
    """
    lanes = min(32, inputs)
    lines = min(rows, 32 * warps // lanes)
    return inputs // lanes, rows // lines, lines, lanes


@triton.jit
def _from_step(p_operand, t, SIZE: tl.constexpr, B, i_b):
    """The row of step t and stream i_b in [T, B, SIZE], which can be further off than 32 bits reach."""
    return p_operand + (B.to(tl.int64) * t + i_b) * SIZE


@triton.jit
def _rounded(b_value):
    """float32 values rounded to tf32's 11 bits, halves away from zero; the rest, b_value less this, is exact."""
    return ((b_value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _gained(
    p_weighted, p_inputs, T, B, i_b, i_row, i_input,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr,
    STEPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sum_t weighted_t (x) x_t of one stream, as a tile; ``WIDTH`` numbers lie between two streams' weights."""
    HEIGHT: tl.constexpr = TILE[1] * TILE[2]
    EVEN: tl.constexpr = ROWS % HEIGHT == 0
    p_weighted += i_row
    p_inputs += i_input
    if STEPS == 1:
        o_row = tl.arange(0, TILE[1])[:, None] * TILE[2] + tl.arange(0, TILE[2])[None, :]
        o_input = tl.arange(0, TILE[0])[:, None] * TILE[3] + tl.arange(0, TILE[3])[None, :]
        b_gained = tl.zeros(TILE, tl.float32)
        for t in range(T):
            b_row = tl.load(_from_step(p_weighted, t, WIDTH, B, i_b) + o_row, (i_row + o_row < ROWS) | EVEN, 0.0)
            b_input = tl.load(_from_step(p_inputs, t, D, B, i_b) + o_input, (i_input + o_input < D) | WHOLE, 0.0)
            b_gained += b_row[None, :, :, None] * b_input[:, None, None, :]
    else:
        o_row = tl.arange(0, HEIGHT)[None, :]
        o_step = tl.arange(0, STEPS)[:, None]
        o_chunk_step = tl.arange(0, STEPS)[None, :, None]
        o_input = tl.arange(0, TILE[0])[:, None, None] * TILE[3] + tl.arange(0, TILE[3])[None, None, :]
        # Transposed: Hopper's product wants 64 numbers or more along its first axis, and tiles may have fewer rows.
        b_product = tl.zeros([TILE[0] * TILE[3], HEIGHT], tl.float32)
        for t in tl.range(0, T, STEPS, disable_licm=True):
            b_mask = (o_step < T - t) & ((i_row + o_row < ROWS) | EVEN)
            b_row = tl.load(_from_step(p_weighted, t, WIDTH, B, i_b) + o_step * (B * WIDTH) + o_row, b_mask, 0.0)
            b_mask = (o_chunk_step < T - t) & ((i_input + o_input < D) | WHOLE)
            b_input = tl.load(_from_step(p_inputs, t, D, B, i_b) + o_chunk_step * (B * D) + o_input, b_mask, 0.0)
            b_input = tl.reshape(tl.permute(b_input, 0, 2, 1), [TILE[0] * TILE[3], STEPS])
            if PRECISION == "tf32x3":
                # A sum of its own, small parts first: the unit cuts what it adds up, additions round to the nearest.
                b_input_high, b_row_high = _rounded(b_input), _rounded(b_row)
                b_part = tl.dot(b_input - b_input_high, b_row_high, input_precision="tf32")
                b_part = tl.dot(b_input_high, b_row - b_row_high, b_part, input_precision="tf32")
                b_product += tl.dot(b_input_high, b_row_high, b_part, input_precision="tf32")
            else:
                b_product = tl.dot(b_input, b_row, b_product, input_precision=PRECISION)
        b_gained = tl.permute(tl.reshape(b_product, [TILE[0], TILE[3], TILE[1], TILE[2]]), 0, 2, 3, 1)
    return b_gained


@triton.jit
def _visit(
    pointers, T, B, i_first, i_last, i_row, i_input,
    N: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, LINE: tl.constexpr, PARTS: tl.constexpr,
    TILE: tl.constexpr, WHOLE: tl.constexpr, STEPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the streams from ``i_first`` to ``i_last``; ``WHOLE`` where no column lies outside."""
    p_matrix, p_streams, p_fresh, p_boundary, p_decay, p_weighted, p_inputs, p_term = pointers
    EVEN: tl.constexpr = ROWS % (TILE[1] * TILE[2]) == 0
    SIZE: tl.constexpr = ROWS * LINE
    o_row = tl.arange(0, TILE[1])[None, :, None, None] * TILE[2] + tl.arange(0, TILE[2])[None, None, :, None]
    o_input = tl.arange(0, TILE[0])[:, None, None, None] * TILE[3] + tl.arange(0, TILE[3])[None, None, None, :]
    b_inside_row = (i_row + o_row < ROWS) | EVEN
    b_inside = b_inside_row & ((i_input + o_input < D) | WHOLE)
    o_unit = (i_row + o_row) % N
    # In 64 bits, where sums do not wrap, the compiler finds the constant distances between a thread's numbers.
    o_tile = o_row.to(tl.int64) * LINE + o_input.to(tl.int64)
    o_first = i_row * LINE + i_input
    b_term = tl.zeros(TILE, tl.float32)
    # Addresses that are kept from one stream to the next would take the registers of the tile.
    for i_b in tl.range(i_first, i_last, disable_licm=True):
        p_tile = p_matrix + tl.load(p_streams + i_b) * (PARTS * SIZE) + o_first + o_tile
        b_kept = b_inside & (tl.load(p_fresh + i_b) == 0)
        p_boundaries = p_boundary + i_b * (PARTS * N) + o_unit
        p_decays = p_decay + i_b * (PARTS * PARTS * N) + o_unit
        b_before = tl.load(p_tile, b_kept, 0.0).to(tl.float32)
        if PARTS == 1:
            b_boundary, b_decay = tl.load(p_boundaries, b_inside_row, 0.0), tl.load(p_decays, b_inside_row, 0.0)
            b_gained = _gained(
                p_weighted, p_inputs, T, B, i_b, i_row, i_input, ROWS, ROWS, D, TILE, WHOLE, STEPS, PRECISION
            )
            b_term += b_boundary * b_before
            b_after = b_decay * b_before + b_gained
            tl.store(p_tile, b_after.to(p_matrix.dtype.element_ty), b_inside)
        else:
            b_other = tl.load(p_tile + SIZE, b_kept, 0.0).to(tl.float32)
            for i in tl.static_range(2):
                b_gained = _gained(
                    p_weighted + i * ROWS, p_inputs, T, B, i_b, i_row, i_input,
                    2 * ROWS, ROWS, D, TILE, WHOLE, STEPS, PRECISION,
                )  # fmt: skip
                b_after = tl.load(p_decays + 2 * i * N, b_inside_row, 0.0) * b_before + b_gained
                b_after += tl.load(p_decays + (2 * i + 1) * N, b_inside_row, 0.0) * b_other
                tl.store(p_tile + i * SIZE, b_after.to(p_matrix.dtype.element_ty), b_inside)
            b_term += tl.load(p_boundaries, b_inside_row, 0.0) * b_before
            b_term += tl.load(p_boundaries + N, b_inside_row, 0.0) * b_other
    o_tile = o_row.to(tl.int64) * D + o_input.to(tl.int64)
    tl.store(p_term + i_row * D + i_input + o_tile, b_term, b_inside)


@triton.jit(do_not_specialize=["T", "B", "streams_each"])
def _pass_kernel(
    p_matrix, p_streams, p_fresh, p_boundary, p_decay, p_weighted, p_inputs, p_term, T, B, streams_each,
    N: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, LINE: tl.constexpr, PARTS: tl.constexpr,
    TILE: tl.constexpr, TAIL: tl.constexpr, STEPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    HEIGHT: tl.constexpr = TILE[1] * TILE[2]
    INPUTS: tl.constexpr = TILE[0] * TILE[3]
    DOWN: tl.constexpr = (ROWS + HEIGHT - 1) // HEIGHT
    ACROSS: tl.constexpr = D // INPUTS
    i_tile, i_split = tl.program_id(0), tl.program_id(1)
    i_first = i_split * streams_each
    i_last = tl.minimum(i_first + streams_each, B)
    p_partial = p_term + i_split.to(tl.int64) * (ROWS * D)
    pointers = (p_matrix, p_streams, p_fresh, p_boundary, p_decay, p_weighted, p_inputs, p_partial)
    if i_tile < DOWN * ACROSS:
        i_row, i_input = i_tile % DOWN * HEIGHT, i_tile // DOWN * INPUTS
        _visit(pointers, T, B, i_first, i_last, i_row, i_input, N, ROWS, D, LINE, PARTS, TILE, True, STEPS, PRECISION)
    elif TAIL is not None:
        i_row, i_input = (i_tile - DOWN * ACROSS) * (TAIL[1] * TAIL[2]), ACROSS * INPUTS
        _visit(pointers, T, B, i_first, i_last, i_row, i_input, N, ROWS, D, LINE, PARTS, TAIL, False, STEPS, PRECISION)


@triton.jit(do_not_specialize=["B", "N", "ROWS"])
def _vector_kernel(
    p_vectors, p_streams, p_fresh, p_boundary, p_decay, p_gained, p_term, B, N, ROWS,
    LINE: tl.constexpr,
):  # fmt: skip
    o_row = tl.program_id(0) * LINE + tl.arange(0, LINE)
    o_unit = o_row % N
    b_term = tl.zeros([LINE], tl.float32)
    for i_b in range(0, B, LINE):
        o_b = i_b + tl.arange(0, LINE)
        b_mask = (o_b < B)[:, None] & (o_row < ROWS)[None, :]
        o_stream = tl.load(p_streams + o_b, o_b < B, 0)
        b_kept = b_mask & (tl.load(p_fresh + o_b, o_b < B, 0) == 0)[:, None]
        p_kept = p_vectors + o_stream[:, None] * ROWS + o_row[None, :]
        o_cell = o_b[:, None] * N + o_unit[None, :]
        b_before = tl.load(p_kept, b_kept, 0.0)
        b_gained = tl.load(p_gained + o_b[:, None].to(tl.int64) * ROWS + o_row[None, :], b_mask, 0.0)
        b_term += tl.sum(tl.load(p_boundary + o_cell, b_mask, 0.0) * b_before, 0)
        tl.store(p_kept, tl.load(p_decay + o_cell, b_mask, 0.0) * b_before + b_gained, b_mask)
    tl.store(p_term + o_row, b_term, o_row < ROWS)
