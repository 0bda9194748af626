"""Orders of rollout actors: no actor is further ahead than it may be, and what is lost leaves a gap."""

import pytest

from r2ac.launch.rollouts.orders import Orders

ACTORS, STREAMS, IN_FLIGHT, FIRST = 3, 4, 2, 7


def make_orders(max_policy_lag: int = 0) -> Orders:
    return Orders(ACTORS, STREAMS, IN_FLIGHT, FIRST, max_policy_lag)


def test_an_actor_gets_no_more_orders_than_it_may_be_ahead() -> None:
    orders = make_orders()
    assert orders.room(0, waiting=0) == IN_FLIGHT
    assert [orders.give(0, version=1) for _ in range(IN_FLIGHT)] == [FIRST, FIRST + 1]
    assert orders.room(0, waiting=0) == 0
    orders.fulfilled(0)
    assert orders.room(0, waiting=1) == 0, "what it has delivered still waits"
    assert orders.room(0, waiting=0) == 1
    assert orders.room(1, waiting=0) == IN_FLIGHT, "each has its own"


def test_lost_orders_leave_a_gap_in_the_numbers() -> None:
    orders = make_orders()
    assert [orders.give(1, version=1) for _ in range(IN_FLIGHT)] == [FIRST, FIRST + 1]
    assert orders.are_due(1)
    orders.lost(1)
    assert not orders.are_due(1)
    assert orders.room(1, waiting=0) == IN_FLIGHT
    assert orders.give(1, version=2) == FIRST + IN_FLIGHT


def test_silence_begins_with_the_last_sign_of_an_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("r2ac.launch.rollouts.orders.time.monotonic", lambda: now)
    orders = make_orders()
    orders.give(0, version=1)
    now += 5
    assert orders.silence(0) == 5
    assert orders.room(1, waiting=0) == IN_FLIGHT
    assert orders.silence(1) == 0, "it had nothing to do"
    orders.fulfilled(0)
    assert orders.silence(0) == 0


def test_a_batch_waits_only_where_the_policy_lag_is_bounded() -> None:
    bounded, free = make_orders(max_policy_lag=2), make_orders()
    for orders in (bounded, free):
        orders.give(0, version=3)
    # As in test_policy_lag: 4 streams of version 3 would be learned from in update 7 at the earliest.
    assert bounded.is_late(5, batch_size=4, here=[(4, 4)])
    assert not bounded.is_late(3, batch_size=4, here=[(4, 4)])
    assert not free.is_late(5, batch_size=4, here=[(4, 4)])


@pytest.mark.parametrize(("in_flight", "needed"), [(1, 7), (2, 0), (3, 0)])
def test_an_actor_that_may_not_be_ahead_waits_for_the_newest_weights(in_flight: int, needed: int) -> None:
    assert Orders(ACTORS, STREAMS, in_flight, FIRST).weights_needed(update=7) == needed
