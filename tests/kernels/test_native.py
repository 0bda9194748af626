"""The native kernels against their references in float64, and what they refuse."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import CELLS, REFERENCE, Linearisation, Scans, block, native, scan, sensitivity
from r2ac.kernels.native_library import CELLS_WITH_SCANS, missing_reason
from r2ac.kernels.scan import ReverseScan

REASON = missing_reason() or ""
# Not where there is a compiler that refuses our source.
pytestmark = pytest.mark.skipif(bool(REASON) and "cannot compile" not in REASON, reason=f"no native kernels: {REASON}")

DOUBLE, SINGLE = torch.float64, torch.float32
# Around the widths of vectors and of blocks of units.
UNITS = (1, 3, 8, 17, 64, 127, 128, 129, 300)
NAN, INF = float("nan"), float("inf")


def of_native(cell: str) -> Scans:
    return Scans(partial(native.cell_forward, cell), partial(native.cell_backward, cell))


of_reference = REFERENCE.scans


@dataclass(frozen=True)
class Rollout:
    cell: str
    projection: Tensor
    own: Tensor
    bias: Tensor
    state: Tensor
    is_first: Tensor
    direct: Tensor

    def to(self, dtype: torch.dtype) -> "Rollout":
        tensors = self.tensors().items()
        return replace(self, **{name: t if t.dtype == torch.bool else t.to(dtype) for name, t in tensors})

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if name != "cell"}

    def forward(self, scans: Callable[[str], Scans] = of_native) -> Tensor:
        return scans(self.cell).forward(self.projection, self.own, self.bias, self.state, self.is_first)

    def backward(self, states: Tensor, jump: bool = True, scans: Callable[[str], Scans] = of_native) -> ReverseScan:
        given = self.projection, self.own, self.bias, states, self.state, self.is_first
        return scans(self.cell).reverse(self.direct, *given, jump=jump)

    def part(self, start: int) -> "Rollout":
        steps = slice(start, None)
        return replace(
            self, projection=self.projection[steps], is_first=self.is_first[steps], direct=self.direct[steps]
        )


def make_rollout(
    steps: int, batch: int, units: int, seed: int = 0, resets: float = 0.0, name: str = "elstm"
) -> Rollout:
    """In float64, but every number is one of float32."""
    cell = CELLS[name]
    outer = batch, *cell.pair, units
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DOUBLE)

    is_first = torch.rand(steps, batch, generator=generator) < resets
    vectors = normal(cell.numbers, units), normal(cell.gates, units), normal(*outer)
    return Rollout(name, normal(steps, batch, cell.gates, units), *vectors, is_first, normal(steps, *outer))


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    steps, batch, units = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.sampled_from(UNITS))
    seed, resets, cell = st.integers(0, 2**31), st.sampled_from((0.0, 0.3, 1.0)), st.sampled_from(CELLS_WITH_SCANS)
    rollout = make_rollout(steps, batch, units, draw(seed), draw(resets), draw(cell))
    for place in draw(st.sampled_from(((), (0,), (-1,), (0, -1)))):
        rollout.is_first[place] = True
    return rollout


def close(actual: Any, expected: Any, bound: float) -> None:
    """Within ``bound`` of the absolute value or of 1, whichever is larger."""
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound, check_dtype=False)


@given(rollouts())
def test_forward_is_the_reference(rollout: Rollout) -> None:
    expected = rollout.forward(of_reference)
    close(rollout.forward(), expected, 1e-12)
    states = rollout.to(SINGLE).forward()
    assert states.dtype == SINGLE
    close(states, expected, 2e-6)


@given(rollouts(), st.booleans())
def test_backward_is_the_reference(rollout: Rollout, jump: bool) -> None:
    states = rollout.forward(of_reference)
    expected = rollout.backward(states, jump, of_reference)
    close(rollout.backward(states, jump), expected, 1e-12)
    close(rollout.to(SINGLE).backward(states.to(SINGLE), jump), expected, 5e-5)


@pytest.mark.parametrize("place", range(5))
def test_a_reset_at_every_place(place: int) -> None:
    rollout = make_rollout(5, 3, 20)
    rollout.is_first[place, 1] = True
    states = rollout.forward()
    close(states, rollout.forward(of_reference), 1e-12)
    close(rollout.backward(states), rollout.backward(states, True, of_reference), 1e-12)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", range(3))
def test_a_reset_forgets_a_cell_that_is_not_finite(dtype: torch.dtype, value: float, place: int) -> None:
    """What follows the reset is what a rollout that begins there gives, to the bit."""
    rollout = make_rollout(4, 2, 40).to(dtype)
    rollout.is_first[place, 0] = True
    rollout.state[0] = value
    states, alone = rollout.forward(), rollout.part(place)
    assert not states[:place, 0].isfinite().any()
    assert states[place:].isfinite().all()
    assert torch.equal(states[place:, 0], alone.forward()[:, 0])
    mine, others = rollout.backward(states), alone.backward(states[place:])
    assert torch.equal(mine.by_projection[place:, 0], others.by_projection[:, 0])
    if place == 0:
        assert all(tensor.isfinite().all() for tensor in mine)
        assert mine.boundary[0].eq(0).all()
        assert mine.decay[0].eq(0).all()


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("field", ["projection", "state", "own", "bias", "direct"])
def test_nan_passes_where_nothing_resets(dtype: torch.dtype, field: str) -> None:
    """In its unit alone, to the end of the rollout and, backwards, to its start."""
    rollout = make_rollout(3, 2, 37).to(dtype)
    getattr(rollout, field)[..., 20] = NAN
    states = rollout.forward()
    scans = rollout.backward(states)
    for tensor in (scans.by_projection, scans.by_vectors, scans.boundary):
        assert tensor[..., 20].isnan().all()
    if field != "direct":
        assert states[..., 20].isnan().all()
        assert scans.weighted[..., 20].isnan().all()
    for tensor in (states, *scans):
        assert tensor[..., torch.arange(37) != 20].isfinite().all()


def gates(p_0: Tensor, p_1: Tensor, cell: Tensor) -> Tensor:
    """c of one step without recurrent weights: f c' + (1 - f) z."""
    zeros = p_0.new_zeros(2, len(p_0))
    projection = torch.stack((p_0, p_1))[None, None]
    return native.cell_forward("elstm", projection, zeros, zeros, cell[None], torch.zeros(1, 1, dtype=torch.bool))[0, 0]


def test_float32_gates_are_accurate_everywhere() -> None:
    wide, near = torch.linspace(-120, 120, 100_001), torch.linspace(-1, 1, 100_001)
    x = torch.cat((wide, near, near * 1e-6, torch.tensor([1e30, -1e30, INF, -INF])))
    zeros, ones = torch.zeros_like(x), torch.ones_like(x)
    forget, candidate = gates(x, zeros, ones), gates(-200 * ones, x, zeros)
    expected = torch.sigmoid(x.to(DOUBLE))
    assert (forget - expected).abs().max() < 1e-7
    normal = x > -87
    assert ((forget - expected) / expected)[normal].abs().max() < 3e-7
    expected = torch.tanh(x.to(DOUBLE))
    assert (candidate - expected).abs().max() < 1e-7
    assert ((candidate - expected) / expected)[x != 0].abs().max() < 2e-7
    assert forget[-4:].tolist() == [1, 0, 1, 0]
    assert candidate[-4:].tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("size", [30.0, 200.0, 1e30])
def test_saturated_gates(dtype: torch.dtype, size: float) -> None:
    """A gate that is shut keeps the cell to the bit, and its derivatives vanish."""
    rollout = make_rollout(4, 3, 50)
    rollout.projection.copy_(size * rollout.projection.sign())
    states = rollout.forward(of_reference)
    expected = rollout.backward(states, True, of_reference)
    close(rollout.to(dtype).forward(), states, 1e-6)
    close(rollout.to(dtype).backward(states.to(dtype)), expected, 1e-5)
    rollout.projection[:, :, 0] = size
    if size > 50:
        rollout = rollout.to(dtype)
        assert torch.equal(rollout.forward(), rollout.state.expand(4, -1, -1))


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_tensors_need_not_be_contiguous(dtype: torch.dtype) -> None:
    dense = make_rollout(5, 4, 33, resets=0.2).to(dtype)
    dense.direct.fill_(0.3)
    fields = {name: tensor.transpose(0, 1).contiguous().transpose(0, 1) for name, tensor in dense.tensors().items()}
    strided = replace(dense, **fields | {"direct": dense.direct[0, 0, 0].clone().expand(5, 4, 33)})
    states = dense.forward()
    assert torch.equal(strided.forward(), states)
    strided_cells = states.transpose(0, 2).contiguous().transpose(0, 2)
    assert all(map(torch.equal, strided.backward(strided_cells), dense.backward(states)))


@given(st.integers(1, 6), st.sampled_from(((), (1,), (5,), (3, 50), (2, 2, 65))), st.integers(0, 2**31))
def test_the_backward_scan_is_the_reference(steps: int, shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    direct, jacobian = torch.randn(2, steps, *shape, generator=generator)
    expected = scan.backward_scan(direct.to(DOUBLE), jacobian.to(DOUBLE))
    close(native.backward_scan(direct.to(DOUBLE), jacobian.to(DOUBLE)), expected, 1e-12)
    close(native.backward_scan(direct, jacobian), expected, 1e-5)


Pass = dict[str, Tensor]


def make_pass(
    steps: int, rows: int, batch: int, gates: int, units: int, width: int, seed: int = 0, parts: int = 1
) -> Pass:
    pair = (2,) if parts == 2 else ()
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DOUBLE)

    return {
        "matrix": normal(rows, *pair, gates, units, width),
        "streams": torch.randperm(rows, generator=generator)[:batch],
        "fresh": torch.rand(batch, generator=generator) < 0.3,
        "boundary": normal(batch, *pair, units),
        "decay": normal(batch, *pair, *pair, units),
        "weighted": normal(steps, batch, *pair, gates, units),
        "inputs": normal(steps, batch, width),
    }


def make_vectors(rows: int, batch: int, gates: int, units: int, seed: int = 0, parts: int = 1) -> Pass:
    drawn = make_pass(1, rows, batch, gates, units, 1, seed, parts)
    common = {name: drawn[name] for name in ("streams", "fresh", "boundary", "decay")}
    return {"vectors": drawn["matrix"].squeeze(-1), **common, "gained": drawn["weighted"].squeeze(0)}


def cast(given: Pass, dtype: torch.dtype) -> Pass:
    """Copies in another precision."""
    return {name: t.to(dtype if t.is_floating_point() else t.dtype, copy=True) for name, t in given.items()}


@given(
    st.sampled_from((1, 2, 5, 64, 150)),
    st.tuples(st.integers(1, 4), st.integers(0, 3)),
    st.tuples(
        st.integers(1, 3), st.sampled_from((1, 5, 8, 33, 150)), st.sampled_from((1, 4, 5, 7, 9, 15, 17, 48, 65, 70))
    ),
    st.integers(0, 2**31),
    st.sampled_from((1, 2)),
)
@example(150, (3, 1), (2, 150, 65), 0, 1)
@example(150, (3, 1), (2, 150, 65), 0, 2)
def test_the_pass_is_the_reference(
    steps: int, streams: tuple[int, int], sizes: tuple[int, int, int], seed: int, parts: int
) -> None:
    """For rows of a larger store in any order; other rows stay to the bit."""
    batch, more = streams
    given = make_pass(steps, batch + more, batch, *sizes, seed, parts)
    given["matrix"][given["streams"][given["fresh"]]] = NAN
    expected = cast(given, DOUBLE)
    readable = sensitivity.sensitivity_pass_ if parts == 1 else block.block_sensitivity_pass_
    term = readable(**expected)
    for dtype, bound in ((DOUBLE, 1e-12), (SINGLE, 2e-5)):
        actual = cast(given, dtype)
        close(native.sensitivity_pass_(**actual), term, bound)
        close(actual["matrix"], expected["matrix"], bound)
        others = [row for row in range(batch + more) if row not in given["streams"].tolist()]
        assert torch.equal(actual["matrix"][others].to(DOUBLE), given["matrix"][others])
        assert all(torch.equal(actual[name].to(given[name].dtype), given[name]) for name in given.keys() - {"matrix"})


@given(
    st.tuples(st.integers(1, 4), st.integers(0, 3)),
    st.tuples(st.integers(1, 3), st.sampled_from((1, 5, 33))),
    st.integers(0, 99),
    st.sampled_from((1, 2)),
)
def test_the_pass_over_the_vectors_is_the_reference(
    streams: tuple[int, int], sizes: tuple[int, int], seed: int, parts: int
) -> None:
    batch, more = streams
    given = make_vectors(batch + more, batch, *sizes, seed, parts)
    given["vectors"][given["streams"][given["fresh"]]] = NAN
    expected = cast(given, DOUBLE)
    terms = sensitivity.vector_pass_(**expected)
    for dtype, bound in ((DOUBLE, 1e-12), (SINGLE, 2e-5)):
        actual = cast(given, dtype)
        close(native.vector_pass_(**actual), terms, bound)
        close(actual["vectors"][given["streams"]], expected["vectors"][given["streams"]], bound)
        others = [row for row in range(batch + more) if row not in given["streams"].tolist()]
        assert torch.equal(actual["vectors"][others].to(DOUBLE), given["vectors"][others])


@pytest.mark.parametrize(("dtype", "width"), [(dtype, width) for dtype in (SINGLE, DOUBLE) for width in (5, 21)])
def test_what_is_not_finite_shows_unless_its_stream_is_fresh(dtype: torch.dtype, width: int) -> None:
    given = cast(make_pass(3, 4, 3, 2, 9, width), dtype)
    given["fresh"][:] = torch.tensor([True, False, False])
    given["boundary"][0], given["decay"][0] = NAN, INF
    given["matrix"][given["streams"][1], 0, 4, 3] = NAN
    assert native.sensitivity_pass_(**given).isnan().nonzero().tolist() == [[0, 4, 3]]
    assert given["matrix"].isnan().nonzero().tolist() == [[int(given["streams"][1]), 0, 4, 3]]


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize(("batch", "units"), [(7, 130), (1, 1000)], ids=["streams", "blocks of units"])
def test_threads_change_no_bit(dtype: torch.dtype, batch: int, units: int) -> None:
    rollout = make_rollout(40, batch, units, resets=0.05).to(dtype)
    passes = [make_pass(3, batch, batch, 2, units, width, parts=parts) for parts in (1, 2) for width in (5, 80)]
    passes.append(make_pass(10, 64, 64, 2, 40, 7))  # rows that are 16 at a time for one thread, 8 for four
    results = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        states, sensitivities = rollout.forward(), []
        for after in (cast(drawn, dtype) for drawn in passes):
            sensitivities += [native.sensitivity_pass_(**after), after["matrix"]]
        total = native.backward_scan(rollout.direct, states)
        also = native.linear_forward_scan(states, rollout.direct, rollout.state, rollout.is_first)
        linear = Linearisation(states, rollout.projection, rollout.projection)
        scans = native.linear_reverse_scan(rollout.direct, linear, rollout.is_first, True)
        results.append((states, total, *rollout.backward(states), *sensitivities, also, *scans))
    assert results[0][0].numel() > native.GRAIN
    for more in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], more, strict=True))


def reverse_scan(direct: Tensor, is_first: Tensor, **derivatives: Tensor) -> ReverseScan:
    return native.linear_reverse_scan(direct, Linearisation(**derivatives), is_first, True)


REFUSALS = {
    "shape": lambda tensor: tensor[..., :-1],
    "dimensions": lambda tensor: tensor[None],
    "dtype": lambda tensor: tensor.to(torch.int16),
    "device": lambda tensor: tensor.to("meta"),
}


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize(
    "name",
    [
        "cell_forward",
        "cell_backward",
        "backward_scan",
        "linear_forward_scan",
        "linear_reverse_scan",
        "sensitivity_pass_",
        "vector_pass_",
    ],
)
def test_what_does_not_fit_is_refused(name: str, kind: str) -> None:
    """Each tensor in turn."""
    tensors = make_rollout(3, 4, 5).tensors()
    direct = {"direct": tensors.pop("direct")}
    states = native.cell_forward("elstm", **tensors)
    derivatives = {"jacobian": states, "by_gates": tensors["projection"], "by_own": tensors["projection"]}
    arguments = {
        "cell_forward": tensors,
        "cell_backward": tensors | direct | {"states": states},
        "backward_scan": direct | {"jacobian": states},
        "linear_forward_scan": {"factor": states, "added": states, **{k: tensors[k] for k in ("state", "is_first")}},
        "linear_reverse_scan": direct | derivatives | {"is_first": tensors["is_first"]},
        "sensitivity_pass_": make_pass(3, 6, 4, 2, 5, 7),
        "vector_pass_": make_vectors(6, 4, 2, 5),
    }[name]
    call = {
        "cell_forward": partial(native.cell_forward, "elstm"),
        "cell_backward": partial(native.cell_backward, "elstm", jump=True),
        "linear_reverse_scan": reverse_scan,
    }.get(name, getattr(native, name))
    call(**arguments)
    for argument, tensor in arguments.items():
        with pytest.raises(ValueError, match=r"must be|is needed"):
            call(**arguments | {argument: REFUSALS[kind](tensor)})


@pytest.mark.parametrize("streams", [(0, 1, 2, 1), (0, 1, 2, 6), (-1, 0, 1, 2)])
def test_streams_are_different_rows(streams: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="streams must be different rows of the 6"):
        native.sensitivity_pass_(**make_pass(3, 6, 4, 2, 5, 7) | {"streams": torch.tensor(streams)})


def test_what_is_changed_in_place_is_contiguous_and_there_is_a_step() -> None:
    tensors = make_pass(3, 6, 4, 2, 5, 7)
    with pytest.raises(ValueError, match="contiguous"):
        native.sensitivity_pass_(**tensors | {"matrix": tensors["matrix"].mT.contiguous().mT})
    with pytest.raises(ValueError, match="T >= 1"):
        native.backward_scan(torch.zeros(0, 3), torch.zeros(0, 3))
