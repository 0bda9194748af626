"""The carries of all streams: continuity, gaps, and streams that have nothing to do with each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.agents import ELSTM, Carry, FeedForward
from r2ac.kernels import Traces
from r2ac.learner import CarryStore

WIDTH, HIDDEN, STEPS = 3, 4, 2
DOUBLE = torch.float64


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def make_core(gradient: Any = "rtrl") -> ELSTM:
    torch.manual_seed(3)
    core = ELSTM(WIDTH, HIDDEN, gradient).double()
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return core


def inputs(stream: int, sequence: int) -> Tensor:
    """What a stream shows in one of its rollouts, [T, 1, D]."""
    generator = torch.Generator().manual_seed(1000 * stream + sequence)
    return torch.randn(STEPS, 1, WIDTH, dtype=DOUBLE, generator=generator)


def shipped(stream: Sequence[int]) -> Tensor:
    """The cells that actors ship, which no carry holds."""
    return torch.tensor([[100.0 + 10 * b + n for n in range(HIDDEN)] for b in stream])


def rows(carry: Carry) -> tuple[Tensor, ...]:
    """Cells and sensitivities of the batch, [B, ...] each, wherever the carry keeps them and however it forgets."""
    if not carry.traces:
        return (carry.state.clone(),)
    (traces,) = carry.traces
    chosen = traces.streams if traces.streams is not None else slice(None)
    found = [tensor[chosen].clone() for tensor in (traces.weight, traces.vectors)]
    if traces.fresh is not None:
        for tensor in found:
            tensor[traces.fresh] = 0
    return carry.state.clone(), *found


def fetch(store: CarryStore, stream: np.ndarray, sequence: np.ndarray, first_state: Tensor) -> Carry:
    """What an update does first."""
    gap = store.gaps(stream, sequence)
    store.advance(stream, sequence)
    return store.fetch(torch.tensor(stream), torch.from_numpy(gap), first_state)


def keep(store: CarryStore, stream: np.ndarray, carry: Carry, kept: bool = True) -> None:
    """What an update does last."""
    store.store(torch.tensor(stream), carry, torch.tensor(kept))


def begun_again(core: ELSTM, stream: int) -> Carry:
    """A stream's carry after a gap."""
    carry = core.initial_carry(1)
    return Carry(shipped([stream]).double(), carry.traces)


def learn(core: ELSTM, store: CarryStore, stream: Sequence[int], sequence: Sequence[int], kept: bool = True) -> None:
    """Learn from one rollout of each stream, as the learner does; not kept where its update is skipped."""
    carry = fetch(store, ints(*stream), ints(*sequence), shipped(stream))
    x = torch.cat([inputs(b, s) for b, s in zip(stream, sequence, strict=True)], dim=1)
    h, carry = core(x, carry, torch.zeros(x.shape[:2], dtype=torch.bool))
    h.square().sum().backward()
    keep(store, ints(*stream), carry, kept)


def alone(core: ELSTM, stream: int, sequence: int, carry: Carry) -> Carry:
    """The carry of one stream after a rollout, without a store."""
    return core(inputs(stream, sequence), carry, torch.zeros(STEPS, 1, dtype=torch.bool))[1]


def assert_rows(carry: Carry, expected: Sequence[Carry]) -> None:
    for mine, *others in zip(rows(carry), *(rows(other) for other in expected), strict=True):
        torch.testing.assert_close(mine, torch.cat(others), rtol=1e-12, atol=1e-14)


def test_streams_begin_at_zero_whatever_is_shipped() -> None:
    store = CarryStore(make_core(), 3)
    carry = fetch(store, ints(2, 0), ints(0, 0), shipped([2, 0]))
    assert [tuple(tensor.shape) for tensor in rows(carry)] == [
        (2, HIDDEN),
        (2, 2, HIDDEN, WIDTH),
        (2, 2 + 2, HIDDEN),
    ]
    assert not any(tensor.count_nonzero() for tensor in rows(carry))
    assert store.resets == 0


@pytest.mark.parametrize("rollouts", [1, 2, 4])
def test_a_stream_goes_on_where_its_last_rollout_ended(rollouts: int) -> None:
    core = make_core()
    store, expected = CarryStore(core, 2), core.initial_carry(1)
    for sequence in range(rollouts):
        learn(core, store, [1], [sequence])
        expected = alone(core, 1, sequence, expected)
    assert store.next_sequence.tolist() == [0, rollouts]
    assert_rows(fetch(store, ints(1), ints(rollouts), shipped([1])), [expected])
    assert store.resets == 0


batches = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True), min_size=1, max_size=6)


@given(batches=batches, fates=st.lists(st.sampled_from(("kept", "kept", "lost", "skipped")), min_size=6, max_size=6))
def test_every_stream_is_as_if_alone(batches: list[list[int]], fates: list[str]) -> None:
    """Whatever comes together in which order; lost rollouts and skipped updates begin their streams again."""
    core = make_core()
    store = CarryStore(core, 5)
    expected, sequence, resets = [core.initial_carry(1) for _ in range(5)], [0] * 5, 0
    whole = [True] * 5
    for stream, fate in zip(batches, fates, strict=False):
        numbers = [sequence[b] for b in stream]
        if fate != "lost":
            resets += sum(not whole[b] for b in stream)
            learn(core, store, stream, numbers, kept=fate == "kept")
        for b in stream:
            start = expected[b] if whole[b] else begun_again(core, b)
            if fate == "kept":
                expected[b] = alone(core, b, sequence[b], start)
            whole[b] = fate == "kept"
            sequence[b] += 1
    assert store.resets == resets
    starts = [expected[b] if whole[b] else begun_again(core, b) for b in range(5)]
    order = [3, 0, 4, 1, 2]
    carry = fetch(store, ints(*order), ints(*(sequence[b] for b in order)), shipped(order))
    assert_rows(carry, [starts[b] for b in order])
    assert store.resets == resets + whole.count(False)


@pytest.mark.parametrize("sequence", [0, 1, 3, 7], ids=["restarted", "repeated", "one lost", "many lost"])
def test_a_gap_begins_again_at_the_shipped_cell_and_leaves_the_others_alone(sequence: int) -> None:
    core = make_core()
    store = CarryStore(core, 3)
    expected = [core.initial_carry(1) for _ in range(3)]
    for number in (0, 1):
        learn(core, store, [0, 1, 2], [number] * 3)
        expected = [alone(core, b, number, carry) for b, carry in enumerate(expected)]
    carry = fetch(store, ints(2, 1, 0), ints(2, sequence, 2), shipped([2, 1, 0]))
    assert_rows(carry, [expected[2], begun_again(core, 1), expected[0]])
    assert store.resets == 1


def test_a_stream_is_whole_again_after_a_gap() -> None:
    core = make_core()
    store = CarryStore(core, 2)
    learn(core, store, [0, 1], [5, 9])
    assert store.resets == 2
    expected = [alone(core, b, number, begun_again(core, b)) for b, number in ((1, 9), (0, 5))]
    assert_rows(fetch(store, ints(1, 0), ints(10, 6), shipped([1, 0])), expected)
    assert store.resets == 2


def test_a_skipped_update_that_left_nothing_finite_is_forgotten() -> None:
    core = make_core()
    store = CarryStore(core, 2)
    learn(core, store, [0, 1], [0, 0])
    carry = fetch(store, ints(0), ints(1), shipped([0]))
    h, _ = core(torch.full((STEPS, 1, WIDTH), float("nan"), dtype=DOUBLE), carry, torch.zeros(STEPS, 1).bool())
    h.sum().backward()
    again = fetch(store, ints(0, 1), ints(2, 1), shipped([0, 1]))
    assert_rows(again, [begun_again(core, 0), alone(core, 1, 0, core.initial_carry(1))])


def test_a_rollout_fetched_and_not_stored_cannot_be_taken_for_one_not_yet_seen() -> None:
    """Its stream begins again even where the same number comes once more, as from an actor that was restarted."""
    core = make_core()
    store = CarryStore(core, 1)
    learn(core, store, [0], [0])
    learn(core, store, [0], [1], kept=False)
    assert_rows(fetch(store, ints(0), ints(1), shipped([0])), [begun_again(core, 0)])
    assert store.resets == 1


def test_a_shipped_cell_that_is_not_a_number_does_no_harm_without_a_gap() -> None:
    store = CarryStore(make_core(), 2)
    carry = fetch(store, ints(0, 1), ints(0, 1), torch.full((2, HIDDEN), float("nan")))
    assert not carry.state[0].isnan().any()
    assert carry.state[1].isnan().all()


def test_streams_and_sequences_may_be_read_only() -> None:
    stream, sequence = ints(1, 0), ints(0, 3)
    for array in (stream, sequence):
        array.setflags(write=False)
    core = make_core()
    store = CarryStore(core, 2)
    carry = fetch(store, stream, sequence, shipped([1, 0]))
    h, carry = core(torch.zeros(STEPS, 2, WIDTH, dtype=DOUBLE), carry, torch.zeros(STEPS, 2, dtype=torch.bool))
    h.sum().backward()
    keep(store, stream, carry)
    assert store.next_sequence.tolist() == [4, 1]


@pytest.mark.parametrize("core", [ELSTM(WIDTH, HIDDEN, "tbptt"), FeedForward(WIDTH, HIDDEN)])
def test_cores_without_sensitivities(core: ELSTM | FeedForward) -> None:
    store = CarryStore(core, 3)
    cells = torch.randn(3, core.state_size)
    fetch(store, ints(2, 0, 1), ints(0, 0, 0), cells)
    keep(store, ints(2, 0, 1), Carry(cells))
    ship = shipped([0, 2])[:, : core.state_size]
    carry = fetch(store, ints(0, 2), ints(1, 4), ship)
    assert carry.traces == ()
    assert torch.equal(carry.state, torch.stack((cells[1], ship[1])))
    assert store.resets == 1
    assert store.nbytes() == 4 * 3 * core.state_size


def test_the_store_has_the_cores_dtype_and_size() -> None:
    store = CarryStore(make_core(), 5)
    # The cell, and two gates with WIDTH input weights, a recurrent weight and a bias for each unit.
    assert store.nbytes() == 8 * 5 * HIDDEN * (1 + 2 * (WIDTH + 2))
    carry = fetch(store, ints(0), ints(3), shipped([0]))
    assert all(tensor.dtype == DOUBLE for tensor in rows(carry))
    assert isinstance(carry.traces[0], Traces)


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        ((0, 3), r"streams must lie in 0 to 2, not \[0, 3\]"),
        ((-1, 0), r"streams must lie in 0 to 2, not \[-1, 0\]"),
        ((1, 2, 1), r"a stream may come only once in a batch, not \[1, 2, 1\]"),
    ],
)
def test_unknown_and_repeated_streams_are_one_sentence(stream: tuple[int, ...], sentence: str) -> None:
    store = CarryStore(make_core(), 3)
    with pytest.raises(ValueError, match=sentence) as caught:
        fetch(store, ints(*stream), ints(*(5 for _ in stream)), shipped(stream))
    assert "\n" not in str(caught.value)
    assert store.resets == 0
