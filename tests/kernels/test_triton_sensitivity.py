"""The Triton passes against the float64 reference: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import block, sensitivity

pytest.importorskip("triton", reason="Triton has no build for this machine")

from r2ac.kernels import triton_sensitivity
from r2ac.kernels.sensitivity import row_stride
from r2ac.kernels.triton_sensitivity import Tiles, tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REFERENCE = {1: sensitivity.sensitivity_pass_, 2: block.block_sensitivity_pass_}
TRITON = {1: triton_sensitivity.sensitivity_pass_, 2: triton_sensitivity.block_sensitivity_pass_}
PARTS = pytest.mark.parametrize("parts", [1, 2])


@dataclass(frozen=True)
class Case:
    """The arguments of a pass, float32 on the device; the reference gets the same numbers in float64."""

    matrix: Tensor
    streams: Tensor
    fresh: Tensor
    operands: tuple[Tensor, ...]

    @property
    def parts(self) -> int:
        return self.matrix.dim() - 3

    def triton(self, cut: Tiles | None = None) -> tuple[Tensor, Tensor]:
        """What the kernel makes of a copy of the sensitivities, and the term."""
        matrix = self.matrix.clone()
        return matrix, TRITON[self.parts](matrix, self.streams, self.fresh, *self.operands, tiles=cut)

    def reference(self) -> tuple[Tensor, Tensor]:
        matrix = self.matrix.double()
        term = REFERENCE[self.parts](matrix, self.streams, self.fresh, *(part.double() for part in self.operands))
        return matrix, term

    def others(self) -> list[int]:
        """Rows of the store whose streams are not in the batch."""
        return sorted(set(range(self.matrix.shape[0])) - set(self.streams.tolist()))


def case(
    parts: int, gates: int, hidden: int, inputs: int, steps: int, batch: int, chance: Random, more: int = 2
) -> Case:
    """Random numbers; NaN is kept where a stream is fresh."""
    generator = torch.Generator().manual_seed(chance.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    pair = (2,) if parts == 2 else ()
    streams = torch.tensor(chance.sample(range(batch + more), batch), device=DEVICE)
    fresh = torch.tensor([chance.random() < 0.3 for _ in range(batch)], device=DEVICE)
    matrix = normal(batch + more, *pair, gates, hidden, inputs)
    matrix[streams[fresh]] = torch.nan
    operands = (
        normal(batch, *pair, hidden),
        normal(batch, *pair, *pair, hidden),
        normal(steps, batch, *pair, gates, hidden),
        normal(steps, batch, inputs),
    )
    return Case(matrix, streams, fresh, operands)


def near(actual: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    """In the norm, and (more loosely) in every number."""
    error = (actual.double() - expected).abs()
    assert error.norm() <= tolerance * expected.norm()
    assert error.max() <= 10 * tolerance * expected.abs().max()


SMALL = st.builds(
    Tiles,
    rows=st.sampled_from((16, 32)),
    inputs=st.sampled_from((16, 32, 64)),
    steps=st.sampled_from((1, 16)),
    splits=st.integers(1, 3),
    warps=st.sampled_from((1, 4)),
    stages=st.sampled_from((1, 3)),
)


@given(
    cut=SMALL,
    parts=st.sampled_from((1, 2)),
    sizes=st.tuples(st.integers(1, 3), st.sampled_from((1, 7, 16, 21)), st.sampled_from((1, 5, 16, 32, 33, 70))),
    steps=st.sampled_from((1, 2, 15, 16, 17, 33)),
    batch=st.integers(1, 4),
    chance=st.randoms(use_true_random=False),
)
def test_the_pass_is_the_reference(
    cut: Tiles, parts: int, sizes: tuple[int, int, int], steps: int, batch: int, chance: Random
) -> None:
    """Of any cut; rows of other streams stay to the bit, and what a fresh stream has kept does not matter."""
    drawn = case(parts, *sizes, steps, batch, chance)
    matrix, term = drawn.triton(cut)
    expected, expected_term = drawn.reference()
    assert torch.equal(matrix[drawn.others()], drawn.matrix[drawn.others()])
    near(matrix[drawn.streams], expected[drawn.streams])
    if not drawn.fresh.all():
        near(term, expected_term)
    assert term.shape == expected_term.shape
    assert term.isfinite().all()


@given(
    batch=st.sampled_from((1, 3, 32, 40)),
    gates=st.integers(1, 3),
    hidden=st.sampled_from((1, 7, 32, 33)),
    chance=st.randoms(use_true_random=False),
)
def test_the_pass_over_the_vectors_is_the_reference(batch: int, gates: int, hidden: int, chance: Random) -> None:
    drawn = case(1, gates, hidden, 1, 2, batch, chance)
    kept = drawn.matrix.squeeze(-1)
    given = drawn.streams, drawn.fresh, *drawn.operands[:2], drawn.operands[2].sum(0)
    single, double = kept.clone(), kept.double()
    term = triton_sensitivity.vector_pass_(single, *given)
    expected = sensitivity.vector_pass_(
        double, *(tensor.double() if tensor.is_floating_point() else tensor for tensor in given)
    )
    assert torch.allclose(term.double(), expected, rtol=1e-5, atol=1e-5)
    near(single[drawn.streams], double[drawn.streams])
    assert torch.equal(single[drawn.others()], kept[drawn.others()])


@pytest.fixture(params=("highest", "high", "medium"))
def tolerance(request: pytest.FixtureRequest) -> Iterator[float]:
    """What the matrix products may be wrong by; no other product of the pass is less than float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield 2e-6 if request.param == "highest" else 1e-3
    torch.set_float32_matmul_precision(before)


@PARTS
@pytest.mark.parametrize("steps", [2, 20])
def test_the_tiles_of_the_shapes(parts: int, steps: int, tolerance: float) -> None:
    """The kernel's own cut, with tails everywhere, in every precision."""
    drawn = case(parts, 2, 37, 65, steps, 3, Random(steps))
    matrix, term = drawn.triton()
    expected, expected_term = drawn.reference()
    near(matrix[drawn.streams], expected[drawn.streams], tolerance)
    near(term, expected_term)


@PARTS
def test_streams_in_groups_are_the_same_sum(parts: int) -> None:
    """Of any number of groups, one of them empty; and always the same sum, to the bit."""
    drawn = case(parts, 1, 9, 20, 1, 7, Random(0))
    cut = Tiles(rows=16, inputs=16, steps=1, splits=1, warps=1, stages=1)
    matrix, term = drawn.triton(cut)
    for splits in (2, 5):
        split_matrix, split_term = drawn.triton(replace(cut, splits=splits))
        assert torch.equal(split_matrix[drawn.streams], matrix[drawn.streams])
        near(split_term, term.double())
        assert torch.equal(split_term, drawn.triton(replace(cut, splits=splits))[1])


@PARTS
@pytest.mark.parametrize("steps", [2, 18])
def test_bfloat16_is_only_how_the_sensitivities_are_kept(parts: int, steps: int) -> None:
    """The same as from float32 that holds the same numbers, rounded in the end: to the nearest, where the interpreter
    cuts."""
    drawn = case(parts, 2, 11, 20, steps, 3, Random(1))
    kept = replace(drawn, matrix=drawn.matrix.bfloat16())
    matrix, term = kept.triton()
    wide, wide_term = replace(kept, matrix=kept.matrix.float()).triton()
    assert matrix.dtype == torch.bfloat16
    rounded, exact = matrix[kept.streams].float(), wide[kept.streams]
    assert ((rounded - exact).abs() <= 2**-7 * exact.abs()).all()
    if DEVICE == "cuda":
        assert torch.equal(rounded, exact.bfloat16().float())
    assert torch.equal(matrix[kept.others()], kept.matrix[kept.others()])
    assert term.dtype == torch.float32
    assert torch.equal(term, wide_term)


def test_operands_may_be_views_and_the_sensitivities_may_not() -> None:
    drawn = case(1, 2, 5, 6, 2, 2, Random(2))
    boundary, decay, weighted, inputs = drawn.operands
    views = (boundary[:1].expand(2, -1), decay, weighted, inputs.mT.contiguous().mT)
    plain = (boundary[:1].repeat(2, 1), decay, weighted, inputs)
    viewed, expected = (replace(drawn, operands=operands).triton() for operands in (views, plain))
    assert torch.equal(viewed[0][drawn.streams], expected[0][drawn.streams])
    assert torch.equal(viewed[1], expected[1])
    store = drawn.matrix
    for rows in (store.mT.contiguous().mT, store[..., :1].expand_as(store), torch.cat((store, store), 1)[:, ::2]):
        with pytest.raises(ValueError, match=r"contiguous, .* not of shape \[4, 2, 5, 6\] and strides"):
            triton_sensitivity.sensitivity_pass_(rows, drawn.streams, drawn.fresh, *plain)


@PARTS
@pytest.mark.parametrize("steps", [2, 20])
def test_what_lies_between_two_rows_is_neither_read_nor_written(parts: int, steps: int) -> None:
    """Rows at multiples of 8 numbers, as on a GPU, in a store of NaN."""
    drawn = case(parts, 2, 37, 65, steps, 3, Random(steps))
    matrix, term = drawn.triton()
    streams, *shape, inputs = drawn.matrix.shape
    store = torch.full((streams + 2, *shape, row_stride(inputs, torch.device("cuda"))), torch.nan, device=DEVICE)
    assert store.shape[-1] == 72
    rows = store[1:-1, ..., :inputs].copy_(drawn.matrix)
    assert torch.equal(TRITON[parts](rows, drawn.streams, drawn.fresh, *drawn.operands), term)
    assert torch.equal(rows[drawn.streams], matrix[drawn.streams])
    rows.fill_(torch.nan)
    assert store.isnan().all()


@given(*(st.integers(1, most) for most in (300, 4000, 600, 200)), st.sampled_from((1, 2)))
def test_the_shapes_say_how_a_pass_is_cut(batch: int, rows: int, inputs: int, steps: int, parts: int) -> None:
    cut = tiles(batch, rows, inputs, steps, parts)
    assert cut == tiles(batch, rows, inputs, steps, parts)
    assert (cut.steps == 1) == (steps < 16)
    streams_each = -(-batch // cut.splits)
    assert 0 <= batch - streams_each * (cut.splits - 1) <= streams_each, "a group without a stream"


def test_many_streams_of_few_tiles_are_shared_out() -> None:
    assert tiles(32, 1024, 257, 100).splits > 1
    assert tiles(1, 1024, 257, 100).splits == 1
    assert tiles(32, 100_000, 257, 100).splits < tiles(32, 1024, 257, 100).splits


def bits_of(values: Tensor, bits: int, nearest: bool) -> Tensor:
    """float32 values cut or rounded to so many bits of the significand, as float64."""
    unit = 1 << (24 - bits)
    integers = values.float().view(torch.int32) + (unit // 2 if nearest else 0)
    return (integers & -unit).view(torch.float32).double()


@pytest.mark.parametrize("steps", [16, 100, 500])
def test_what_the_tensor_cores_precisions_lose(steps: int) -> None:
    """Emulated operand by operand, with exact sums: the claims of the module's docstring."""
    rows, inputs = torch.randn(64, steps), torch.rand(steps, 64) * torch.tensor([1, 1e-4]).repeat(32)
    exact, size = rows.double() @ inputs.double(), rows.double().abs() @ inputs.double().abs()
    (a, a_rest), (b, b_rest) = (
        (high := bits_of(values, 11, nearest=True), bits_of(values.double() - high, 11, nearest=False))
        for values in (rows, inputs)
    )
    three = a @ b + a @ b_rest + a_rest @ b
    assert ((three - exact).abs() <= 1.2e-6 * size).all()
    assert (three - exact).norm() <= 2e-7 * exact.norm()
    one = bits_of(rows, 11, nearest=False) @ bits_of(inputs, 11, nearest=False)
    assert ((one - exact).abs() <= 2e-3 * size).all()
    assert 2e-4 * exact.norm() <= (one - exact).norm() <= 1e-3 * exact.norm()


@pytest.fixture
def tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Triton is interpreted, products cut their operands to 11 bits, as the tensor cores do."""
    if DEVICE == "cuda":
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    product = InterpreterBuilder.create_dot

    def cut(self: Any, a: Any, b: Any, *others: Any) -> Any:
        operands = (bits_of(torch.from_numpy(operand.data), 11, nearest=False).float() for operand in (a, b))
        return product(self, *(TensorHandle(operand.numpy(), a.dtype) for operand in operands), *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", cut)


@pytest.mark.usefixtures("tensor_cores")
@PARTS
@pytest.mark.parametrize("steps", [16, 100])
def test_the_whole_pass_with_the_tensor_cores_precision(parts: int, steps: int, tolerance: float) -> None:
    """Products of three parts come to what float32 gives, and the one of "high" to far less."""
    drawn = case(parts, 2, 32, 64, steps, 2, Random(steps))
    matrix, _ = drawn.triton()
    expected, _ = drawn.reference()
    near(matrix[drawn.streams], expected[drawn.streams], tolerance)
    if tolerance > 1e-4:
        error = (matrix[drawn.streams] - expected[drawn.streams]).norm()
        assert error >= 1e-4 * expected[drawn.streams].norm()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.usefixtures("tensor_cores")
def test_what_is_not_finite_stays_so_and_large_numbers_stay_finite() -> None:
    """Of an unit whose weights hold one such number, every sensitivity; of the others, none."""
    drawn = case(1, 1, 5, 7, 20, 1, Random(3))
    drawn = replace(drawn, fresh=torch.zeros_like(drawn.fresh), matrix=torch.ones_like(drawn.matrix))
    boundary, decay, weighted, inputs = drawn.operands
    # Negative, and with a significand of ones, which carries into the sign where it is rounded.
    odd = torch.tensor([-1], dtype=torch.int32).view(torch.float32)
    values = torch.cat((torch.tensor([torch.inf, -torch.inf, torch.nan]), odd)).to(DEVICE)
    weighted[7, 0, 0, :4] = values
    found = drawn.triton()[0][drawn.streams][0, 0]
    assert not found[:4].isfinite().any()
    assert found[4].isfinite().all()
    weighted[7, 0, 0, :4] = torch.tensor([3.4e38, -3.4e38, 1e-38, 1e38])
    large = replace(drawn, operands=(boundary, decay, weighted, inputs / 64))
    near(large.triton()[0][drawn.streams], large.reference()[0][drawn.streams])


@pytest.mark.parametrize(("setting", "dot"), [("highest", "tf32x3"), ("high", "tf32"), ("medium", "tf32")])
def test_pytorchs_own_switch_rules_the_precision(monkeypatch: pytest.MonkeyPatch, setting: str, dot: str) -> None:
    before, chosen = torch.get_float32_matmul_precision(), []

    def constants(*arguments: object) -> dict[str, object]:
        chosen.append(arguments[-1])
        return original(*arguments)  # type: ignore[arg-type]

    original = triton_sensitivity.pass_constants
    monkeypatch.setattr(triton_sensitivity, "pass_constants", constants)
    torch.set_float32_matmul_precision(setting)
    try:
        case(1, 1, 4, 3, 2, 1, Random(0)).triton()
    finally:
        torch.set_float32_matmul_precision(before)
    assert chosen == [dot]
