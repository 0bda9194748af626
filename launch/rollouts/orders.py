"""Which rollouts the actors have been ordered to collect, and which of them are still due."""

from __future__ import annotations

import time
from collections import deque

from r2ac.launch.settings.policy_lag import Held, is_late


class Orders:
    """The orders of each rollout actor that have not been fulfilled.

    An actor may be ``in_flight`` rollouts ahead of the learner. That bound is the queue: an actor whose rollouts are
    not yet used gets no further order, so that nothing grows and nothing is dropped. With 1 the actors go in step with
    the learner: what is ordered for an update is collected with the weights of the update before.

    The rollouts of each of an actor's ``num_streams`` streams are numbered from ``sequence`` on. ``max_policy_lag`` is
    the most updates that a rollout's weights may be old when it is learned from; 0: no bound.
    """

    def __init__(
        self, num_actors: int, num_streams: int, in_flight: int, sequence: int, max_policy_lag: int = 0
    ) -> None:
        self.num_actors = num_actors
        self._num_streams, self._in_flight, self._max_policy_lag = num_streams, in_flight, max_policy_lag
        # The versions of the weights when each actor got the orders that are still due.
        self._due: list[deque[int]] = [deque() for _ in range(num_actors)]
        self._next = [sequence] * num_actors
        self._heard = [time.monotonic()] * num_actors

    def weights_needed(self, update: int) -> int:
        """The version of the weights that a rollout ordered for this update must have at least."""
        return update if self._in_flight == 1 else 0

    def last_stream(self, actor: int) -> int:
        """The number of the actor's last stream."""
        return (actor + 1) * self._num_streams - 1

    def room(self, actor: int, waiting: int) -> int:
        """How many orders the actor may be given now, with so many of its rollouts waiting to be learned from."""
        if not self._due[actor]:
            self._heard[actor] = time.monotonic()
        return self._in_flight - len(self._due[actor]) - waiting

    def give(self, actor: int, version: int) -> int:
        """The number of the next rollout of this actor, which has weights of this version, or newer ones."""
        self._due[actor].append(version)
        self._next[actor] += 1
        return self._next[actor] - 1

    def fulfilled(self, actor: int) -> None:
        """The actor has handed over the oldest of its orders."""
        self._due[actor].popleft()
        self._heard[actor] = time.monotonic()

    def lost(self, actor: int) -> None:
        """The actor is started anew: its orders leave a gap in the numbers of its streams' rollouts."""
        self._due[actor].clear()
        self._heard[actor] = time.monotonic()

    def are_due(self, actor: int) -> bool:
        return bool(self._due[actor])

    def silence(self, actor: int) -> float:
        """Seconds since the actor handed over something, was started, or had no orders."""
        return time.monotonic() - self._heard[actor]

    def is_late(self, update: int, batch_size: int, here: list[Held]) -> bool:
        """Whether a batch now would make rollouts that are due older than ``max_policy_lag`` allows."""
        if not self._max_policy_lag:
            return False
        due = [(version, self._num_streams) for versions in self._due for version in versions]
        return is_late(update, batch_size, self._max_policy_lag, self._in_flight, here, due)
