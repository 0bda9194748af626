"""The bound on the policy lag, also where actors are late in any way."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from r2ac.launch.settings.policy_lag import is_late, least_bound


def test_a_batch_waits_for_rollouts_that_would_become_too_old() -> None:
    # Update 5 with a batch of 4; 4 streams of version 3 are due, and would be learned from in update 6 at the earliest.
    assert not is_late(5, batch_size=4, most=3, repeats=1, here=[(4, 4)], due=[(3, 4)])
    assert is_late(5, batch_size=4, most=2, repeats=1, here=[(4, 4)], due=[(3, 4)])
    # Eight take two updates, 6 and 7.
    assert is_late(5, batch_size=4, most=3, repeats=1, here=[(4, 4)], due=[(3, 8)])
    # Two rollouts of a stream never come in one batch.
    assert is_late(5, batch_size=4, most=3, repeats=2, here=[(4, 4)], due=[(3, 4)])


def test_nothing_that_is_due_keeps_nothing_back() -> None:
    assert not is_late(100, batch_size=4, most=1, repeats=2, here=[(0, 400)], due=[])


@settings(max_examples=300, deadline=None)
@given(
    actors=st.integers(1, 4),
    streams=st.integers(1, 5),
    in_flight=st.integers(2, 3),
    publish_every=st.integers(1, 3),
    prefetched=st.integers(0, 2),
    under_way=st.integers(0, 2),
    data=st.data(),
)
def test_the_least_bound_is_kept_whoever_is_late(
    actors: int,
    streams: int,
    in_flight: int,
    publish_every: int,
    prefetched: int,
    under_way: int,
    data: st.DataObject,
) -> None:
    batch_size = data.draw(st.integers(1, actors * streams))
    bound = least_bound(actors * streams, batch_size, in_flight, prefetched, publish_every, under_way)
    due: list[list[tuple[int, int]]] = [[] for _ in range(actors)]  # (version, number of the rollout)
    here: list[tuple[int, int, int, list[int]]] = []  # version, actor, number, streams that are left
    counters, update, published, worst = [0] * actors, 0, [0], 0
    for _ in range(data.draw(st.integers(1, 25))):
        for actor in range(actors):
            waiting = sum(entry[1] == actor for entry in here)
            while len(due[actor]) + waiting < in_flight:
                # The last publications have not arrived.
                due[actor].append((published[max(0, len(published) - 1 - under_way)], counters[actor]))
                counters[actor] += 1
        # Somebody arrives, in the order of the actor's own rollouts.
        actor = data.draw(st.sampled_from([a for a in range(actors) if due[a]] or [-1]))
        if actor >= 0:
            version, number = due[actor].pop(0)
            here.append((version, actor, number, list(range(actor * streams, (actor + 1) * streams))))
            here.sort(key=lambda entry: entry[0])
        while True:
            chosen: list[tuple[int, int]] = []
            seen: set[int] = set()
            parts = []
            for version, _, _, left in here:
                count = 0
                while count < len(left) and len(seen) < batch_size and left[count] not in seen:
                    seen.add(left[count])
                    count += 1
                parts.append(count)
                chosen += [(version, stream) for stream in left[:count]]
            held = [(version, len(left)) for version, _, _, left in here]
            asked = [(version, streams) for orders in due for version, _ in orders]
            if len(seen) < batch_size or is_late(update, batch_size, bound, in_flight, held, asked):
                break
            worst = max([worst, *(update - version for version, _ in chosen)])
            here = [
                (version, actor, number, left[count:])
                for (version, actor, number, left), count in zip(here, parts, strict=True)
                if left[count:]
            ]
            update += 1
            # The learner has not come as far as the batches.
            learned = update - prefetched
            if learned > 0 and learned % publish_every == 0:
                published.append(learned)
    assert worst <= bound


def test_the_least_bound_counts_every_rollout_in_flight() -> None:
    assert least_bound(streams=48, batch_size=32, in_flight=2, prefetched=2, publish_every=1) == math.ceil(96 / 32) + 4
