"""The batcher: B different streams a batch, every stream in order, nothing lost, nobody left out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from r2ac.agents import DiscreteActions, ObservationSpec
from r2ac.launch.rollouts.batcher import Batcher, batch_ring
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.learner import Rollout


def mark(stream: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    """A number that tells which rollout of which stream a column is."""
    return 1000 * stream + sequence


def rollout_of(
    actor: int, streams: int, sequence: int, length: int = 2, version: np.ndarray | int = 0
) -> Rollout[np.ndarray]:
    """The rollouts number ``sequence`` of an actor's streams; every array's columns carry their mark."""
    stream = actor * streams + np.arange(streams)
    number = np.full(streams, sequence)
    steps = np.tile(mark(stream, number), (length + 1, 1))
    return Rollout(
        observation=np.repeat(steps[:, :, None], 3, axis=2).astype(np.float32),
        reward=steps.astype(np.float32),
        is_first=np.zeros((length + 1, streams), dtype=bool),
        action=steps[:length],
        behaviour_logits=np.repeat(steps[:length, :, None], 2, axis=2).astype(np.float32),
        first_state=np.repeat(steps[0][:, None], 4, axis=1).astype(np.float32),
        stream=stream,
        sequence=number,
        weights_version=np.zeros(streams, dtype=np.int64) + version,
    )


def check_batch(batch: Rollout[np.ndarray], batch_size: int, used: np.ndarray) -> None:
    """The batch is whole and its columns unmixed; ``used`` counts the rollouts that each stream has handed in."""
    assert batch.batch_size == batch_size
    assert len(set(batch.stream.tolist())) == batch_size
    np.testing.assert_array_equal(batch.sequence, used[batch.stream])
    marks = mark(batch.stream, batch.sequence)
    for array in (batch.reward, batch.action, batch.observation[..., 0], batch.behaviour_logits[..., 1]):
        np.testing.assert_array_equal(array, np.tile(marks, (len(array), 1)))
    np.testing.assert_array_equal(batch.first_state[:, -1], marks)
    used[batch.stream] += 1


@given(data=st.data(), actors=st.integers(1, 4), streams=st.integers(1, 6), in_flight=st.integers(2, 3))
def test_every_stream_in_order_each_rollout_once(
    data: st.DataObject, actors: int, streams: int, in_flight: int
) -> None:
    batch_size = data.draw(st.integers(1, actors * streams), label="batch_size")
    rounds, first_group = 8, data.draw(st.integers(0, streams), label="first group")
    batcher, used, handed_in = Batcher(batch_size), np.zeros(actors * streams, dtype=int), np.zeros(actors, dtype=int)
    newest = np.zeros(actors, dtype=int)
    for _ in range(rounds):
        for actor in data.draw(st.permutations(range(actors)), label="arrivals"):
            for _ in range(data.draw(st.integers(1, in_flight), label="at once")):
                if batcher.waiting((actor + 1) * streams - 1) < in_flight:
                    # The groups of an actor ask one after the other: an inference worker may have newer weights then.
                    first, second = newest[actor] + np.sort(data.draw(st.tuples(*[st.integers(0, 2)] * 2), label="new"))
                    versions = np.where(np.arange(streams) < first_group, first, second)
                    batcher.add(rollout_of(actor, streams, int(handed_in[actor]), version=versions))
                    handed_in[actor] += 1
                    newest[actor] = second
            if data.draw(st.booleans(), label="learner is ready"):
                while (batch := batcher.next_batch()) is not None:
                    check_batch(batch, batch_size, used)
        while (batch := batcher.next_batch()) is not None:
            check_batch(batch, batch_size, used)
        # What an actor is ahead of the learner is bounded, and the learner never waits in vain.
        waiting = np.repeat(handed_in, streams) - used
        assert waiting.min() >= 0
        assert waiting.max() <= in_flight
        assert np.count_nonzero(waiting) < batch_size
    assert used.min() >= rounds // 2


@given(order=st.lists(st.integers(0, 2), min_size=30, max_size=60), batch_size=st.integers(1, 12))
def test_nothing_is_dropped_whatever_the_order_of_arrival(order: list[int], batch_size: int) -> None:
    streams = 4
    batcher, used, handed_in = Batcher(batch_size), np.zeros(3 * streams, dtype=int), np.zeros(3, dtype=int)
    arrivals = order + [
        actor for actor in range(3) for _ in range(max(map(order.count, range(3))) - order.count(actor))
    ]
    for actor in arrivals:
        batcher.add(rollout_of(actor, streams, int(handed_in[actor])))
        handed_in[actor] += 1
        while (batch := batcher.next_batch()) is not None:
            check_batch(batch, batch_size, used)
    # In the end all actors have handed in the same: what is left cannot fill another batch of different streams.
    left = np.repeat(handed_in, streams) - used
    assert np.count_nonzero(left) < batch_size
    for actor in range(3):
        expected = int(left.reshape(3, streams)[actor].max())
        assert batcher.waiting((actor + 1) * streams - 1) == expected


def test_a_batch_takes_the_oldest_first() -> None:
    batcher = Batcher(3)
    batcher.add(rollout_of(1, 2, 0))
    batcher.add(rollout_of(0, 2, 0))
    first = batcher.next_batch()
    assert first is not None
    assert first.stream.tolist() == [2, 3, 0]
    assert batcher.next_batch() is None
    batcher.add(rollout_of(0, 2, 1))
    assert batcher.next_batch() is None
    batcher.add(rollout_of(1, 2, 1))
    second = batcher.next_batch()
    assert second is not None
    assert list(zip(second.stream.tolist(), second.sequence.tolist(), strict=True)) == [(1, 0), (0, 1), (2, 1)]


def test_a_ring_is_filled_in_turn_and_batches_are_the_same() -> None:
    spec = ObservationSpec((3,), DiscreteActions(2))
    layout = RolloutLayout(length=2, num_streams=4, spec=spec, state_size=2)
    parts = []
    for number in range(6):
        part = RolloutLayout(2, 2, spec, 2).empty()
        for array in part.arrays().values():
            array[...] = number + 1
        part.stream[:] = [0, 1] if number % 2 == 0 else [2, 3]
        parts.append(part)
    plain, ringed = Batcher(4), Batcher(4, batch_ring(layout, count=2))
    for part in parts:
        plain.add(part)
        ringed.add(part)
    batches = []
    for _ in range(3):
        batch, expected = ringed.next_batch(), plain.next_batch()
        assert batch is not None
        assert expected is not None
        for name, array in expected.arrays().items():
            np.testing.assert_array_equal(batch.arrays()[name], array)
        batches.append(batch)
    assert batches[0].observation is batches[2].observation
    assert batches[0].observation is not batches[1].observation


def test_the_oldest_weights_come_first() -> None:
    spec = ObservationSpec((3,), DiscreteActions(2))
    batcher = Batcher(2)
    for stream, version in ((0, 5), (1, 3), (2, 3), (3, 4)):
        rollout = RolloutLayout(2, 1, spec, 2).empty()
        rollout.stream[:], rollout.weights_version[:] = stream, version
        batcher.add(rollout)
    assert batcher.held() == [(3, 1), (3, 1), (4, 1), (5, 1)]
    batches = [batcher.next_batch(), batcher.next_batch()]
    assert [batch.stream.tolist() for batch in batches if batch is not None] == [[1, 2], [3, 0]]


def test_a_part_with_newer_weights_than_its_whole_lets_older_ones_go_first() -> None:
    """As where an inference worker had newer weights for the second group of an actor's streams."""
    batcher, used = Batcher(3), np.zeros(6, dtype=int)
    for actor, sequence, version in ((0, 0, 1), (0, 1, 1), (2, 0, np.array([1, 5])), (1, 0, 2)):
        batcher.add(rollout_of(actor, 2, sequence, version=version))
    check_batch(_next(batcher), 3, used)
    assert batcher.held() == [(1, 2), (2, 2), (5, 1)]
    batcher.add(rollout_of(1, 2, 1, version=3))
    check_batch(_next(batcher), 3, used)
    check_batch(_next(batcher), 3, used)


def _next(batcher: Batcher) -> Rollout[np.ndarray]:
    batch = batcher.next_batch()
    assert batch is not None
    return batch
