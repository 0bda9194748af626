"""Every Triton kernel against its readable form in float64, with guards around what it writes, and run twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_checks.session import Session
from r2ac.kernels import REFERENCE, block, scan, sensitivity
from r2ac.kernels.sensitivity import zero_rows

GUARD = 64
"""Numbers before and behind what a kernel may write."""
FRESH = 0.3
"""Share of the streams that begin again; what they have kept is NaN."""


@dataclass(frozen=True)
class Shape:
    """Of a pass over the sensitivities."""

    parts: int
    gates: int
    hidden: int
    inputs: int
    steps: int
    batch: int
    storage: torch.dtype = torch.float32
    precision: str = "highest"
    bound: float = 1e-5
    """Of the sensitivities' relative error."""

    def __str__(self) -> str:
        sizes = f"K={self.gates}, N={self.hidden}, D={self.inputs}, T={self.steps}, B={self.batch}"
        kind = "2x2 blocks, " if self.parts == 2 else ""
        more = ", S in bfloat16" if self.storage == torch.bfloat16 else ""
        return f"{kind}{sizes}{more}{', TF32' if self.precision == 'high' else ''}"


SCANS = [(1, 1, 1), (600, 3, 33), (100, 32, 512)]
PASSES = [
    Shape(1, 2, 512, 257, 100, 32),
    Shape(1, 2, 512, 257, 10, 32),
    Shape(1, 2, 33, 17, 37, 5),
    Shape(1, 2, 1, 1, 20, 257),
    Shape(2, 2, 70, 129, 33, 3),
    Shape(2, 2, 70, 129, 5, 3),
    Shape(1, 2, 512, 257, 100, 32, torch.bfloat16, bound=1e-2),
    Shape(1, 2, 512, 257, 100, 32, precision="high", bound=2e-3),
]
QUICK_SCANS = [(5, 2, 33)]
QUICK_PASSES = [Shape(1, 2, 5, 17, 17, 3), Shape(2, 2, 3, 5, 3, 2)]


def check_kernels(session: Session) -> None:
    """The scans, the passes and the pass over the vectors."""
    torch.manual_seed(0)
    cases: dict[str, Callable[[], None]] = {}
    for size in QUICK_SCANS if session.quick else SCANS:
        cases[f"scans, T={size[0]}, B={size[1]}, N={size[2]}"] = lambda size=size: _check_scans(session, *size)
    for shape in QUICK_PASSES if session.quick else PASSES:
        cases[f"pass, {shape}"] = lambda shape=shape: _check_pass(session, shape)
    batch = 9 if session.quick else 257
    cases["pass over the vectors"] = lambda: _check_vectors(session, batch, 129)
    for name, check in session.each(cases):
        with session.case(name):
            check()


def _in_double(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors)


def _check_scans(session: Session, steps: int, batch: int, hidden: int) -> None:
    from r2ac.kernels import triton_scan

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=session.device)

    size = f"T={steps}, B={batch}, N={hidden}"
    is_first = torch.rand(steps, batch, device=session.device) < 0.1
    given = normal(steps, batch, 2, hidden), normal(2, hidden), normal(2, hidden), normal(batch, hidden), is_first
    cells = triton_scan.elstm_forward(*given)
    # Random weights: what is rounded grows over the steps, in float32 on a CPU to 1.1e-5 in one of 80 draws.
    session.near(f"forward scan, {size}", cells, REFERENCE.scans("elstm").forward(*_in_double(given)), 5e-5)
    operands = normal(steps, batch, hidden), *given[:3], cells, *given[3:]
    for jump, gradient in ((True, "RTRL"), (False, "TBPTT")):
        found = triton_scan.elstm_backward(*operands, jump)
        expected = REFERENCE.scans("elstm").reverse(*_in_double(operands), jump)
        for name, value in found._asdict().items():
            if value.numel():
                session.near(f"backward scan, {gradient}, {name}, {size}", value, getattr(expected, name), 3e-5)
        again = triton_scan.elstm_backward(*operands, jump)
        same = all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
        session.expect(f"backward scan, {gradient}, {size}: the same to the bit when it is run again", same)
    direct, jacobian = normal(steps, batch, hidden), torch.rand(steps, batch, hidden, device=session.device)
    expected_scan = scan.backward_scan(direct.double(), jacobian.double())
    session.near(f"generic reverse scan, {size}", triton_scan.backward_scan(direct, jacobian), expected_scan, 1e-5)


def _guarded(like: Tensor, storage: torch.dtype) -> tuple[Tensor, Tensor]:
    """NaN everywhere, and a tensor of the same shape and strides in the middle of it."""
    size = like.untyped_storage().nbytes() // like.element_size()
    buffer = torch.full((size + 2 * GUARD,), torch.nan, device=like.device, dtype=storage)
    return buffer, buffer.as_strided(like.shape, like.stride(), GUARD)


def _check_pass(session: Session, shape: Shape) -> None:
    from r2ac.kernels import triton_sensitivity

    device, pair, batch = session.device, (2,) * (shape.parts == 2), shape.batch

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, device=device)

    if shape.parts == 1:
        # As the learner keeps them.
        like = zero_rows((batch + 3, shape.gates, shape.hidden, shape.inputs), device, None)
        run, reference = triton_sensitivity.sensitivity_pass_, sensitivity.sensitivity_pass_
    else:
        like = torch.empty(batch + 3, *pair, shape.gates, shape.hidden, shape.inputs, device=device)
        run, reference = triton_sensitivity.block_sensitivity_pass_, block.block_sensitivity_pass_
    buffer, matrix = _guarded(like, shape.storage)
    matrix.copy_(normal(*matrix.shape))
    streams = torch.randperm(batch + 3, device=device)[:batch]
    others = torch.ones(batch + 3, dtype=torch.bool, device=device)
    others[streams] = False
    fresh = torch.rand(batch, device=device) < FRESH
    matrix[streams[fresh]] = torch.nan
    operands = (
        normal(batch, *pair, shape.hidden),
        normal(batch, *pair, *pair, shape.hidden),
        normal(shape.steps, batch, *pair, shape.gates, shape.hidden),
        normal(shape.steps, batch, shape.inputs),
    )
    before, expected = buffer.clone(), matrix.double()
    expected_term = reference(expected, streams, fresh, *_in_double(operands))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(shape.precision)
    try:
        term = run(matrix, streams, fresh, *operands)
        after = buffer.clone()
        buffer.copy_(before)
        term_again = run(matrix, streams, fresh, *operands)
    finally:
        torch.set_float32_matmul_precision(precision)
    session.near(f"pass, {shape}: term", term, expected_term, 1e-5)
    session.near(f"pass, {shape}: S", matrix[streams], expected[streams], shape.bound)
    same = torch.equal(term, term_again) and _same(buffer, after)
    session.expect(f"pass, {shape}: the same to the bit when it is run again", same)
    kept = before.as_strided(matrix.shape, matrix.stride(), GUARD)
    untouched = _same(matrix[others], kept[others]) and _same(buffer[:GUARD], before[:GUARD])
    untouched = untouched and _same(buffer[-GUARD:], before[-GUARD:])
    session.expect(f"pass, {shape}: nothing else is written", untouched)


def _same(one: Tensor, other: Tensor) -> bool:
    """To the bit, also where both are not a number."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def _check_vectors(session: Session, batch: int, hidden: int) -> None:
    from r2ac.kernels import triton_sensitivity

    device = session.device
    kept = torch.randn(batch + 2, 4, hidden, device=device)
    streams = torch.randperm(batch + 2, device=device)[:batch]
    fresh = torch.rand(batch, device=device) < FRESH
    kept[streams[fresh]] = torch.nan
    operands = (
        torch.randn(batch, hidden, device=device),
        torch.randn(batch, hidden, device=device),
        torch.randn(batch, 4, hidden, device=device),
    )
    expected = kept.double()
    expected_term = sensitivity.vector_pass_(expected, streams, fresh, *_in_double(operands))
    before = kept.clone()
    term = triton_sensitivity.vector_pass_(kept, streams, fresh, *operands)
    session.near("pass over the vectors: term", term, expected_term, 1e-5)
    session.near("pass over the vectors: vectors", kept[streams], expected[streams], 1e-5)
    after = kept.clone()
    kept.copy_(before)
    same = torch.equal(term, triton_sensitivity.vector_pass_(kept, streams, fresh, *operands))
    session.expect("pass over the vectors: the same to the bit when it is run again", same and _same(kept, after))
    others = torch.ones(batch + 2, dtype=torch.bool, device=device)
    others[streams] = False
    session.expect("pass over the vectors: nothing else is written", _same(kept[others], before[others]))
