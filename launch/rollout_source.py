"""Where the learner's batches come from: rollout actors in this process, or in Ray processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from r2ac.launch.batcher import Batcher
from r2ac.launch.rollout_actor import ActorConfig, Collected, Episode, RolloutActor, Weights
from r2ac.learner import Rollout


@dataclass(frozen=True)
class Batch:
    """What the learner gets for one update."""

    rollout: Rollout[np.ndarray]
    """T steps of B streams."""
    episodes: list[Episode]
    """Episodes that ended since the last batch, of any stream."""


class RolloutSource(Protocol):
    """Hands the learner batch after batch; the rollouts of one stream come in order, each once."""

    actor_restarts: int
    """Actors that died and were replaced."""
    engine_restarts: int
    """Engines that the actors lost and replaced."""
    waited: float
    """Seconds that the learner has waited for rollouts."""

    def publish(self, weights: Weights) -> None:
        """Let the rollouts that are begun from now on use ``weights``."""

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        """The next batch; None if ``interrupted()`` turned true while waiting for it."""

    def close(self) -> None:
        """Stop the actors."""


class InProcessSource:
    """One rollout actor in this process. It steps only when the learner asks, with the newest weights.

    Args:
        config: the actor's.
        batch_size: B.
        sequence: the number of each stream's first rollout.
    """

    def __init__(self, config: ActorConfig, batch_size: int, sequence: int) -> None:
        self._actor = RolloutActor(config)
        self.actor_restarts = self.engine_restarts = 0
        self.waited = 0.0
        self._batcher = Batcher(batch_size)
        self._sequence = sequence
        self._weights: Weights

    def publish(self, weights: Weights) -> None:
        """See :class:`RolloutSource`."""
        self._weights = weights

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        """See :class:`RolloutSource`."""
        episodes: list[Episode] = []
        started = time.monotonic()
        while (rollout := self._batcher.next_batch()) is None:
            if interrupted():
                return None
            collected = self._actor.collect(self._weights, self._sequence)
            self._sequence += 1
            self._batcher.add(collected.rollout)
            self.engine_restarts += collected.engine_restarts
            episodes += collected.episodes
        self.waited += time.monotonic() - started
        return Batch(rollout, episodes)

    def close(self) -> None:
        """See :class:`RolloutSource`."""
        self._actor.close()


class ActorsLost(RuntimeError):
    """A rollout actor died again and again, or its environment or agent raised an error."""


class RaySource:
    """Rollout actors in Ray processes, each kept up to ``in_flight`` rollouts ahead of the learner.

    That bound is the queue: an actor whose rollouts are not yet used gets no further order, so that nothing grows
    and nothing is dropped. An actor that dies is replaced; its lost rollouts leave a gap in the sequence numbers of
    its streams, which makes the learner begin these streams again.

    Args:
        configs: one for each actor.
        batch_size: B.
        sequence: the number of each stream's first rollout, one for each actor.
        in_flight: rollouts that an actor may be ahead of the learner, at least 2.
        address: the cluster to join, or "local" to start Ray on this machine alone.

    Raises:
        ConnectionFailed: if there is no cluster at ``address``.
    """

    poll_seconds = 0.5
    """How long a wait for rollouts lasts before it looks whether it was interrupted."""
    restarts_in_a_row = 3
    """An actor that dies so often without handing over a rollout ends the run."""

    def __init__(
        self, configs: list[ActorConfig], batch_size: int, sequence: list[int], in_flight: int, address: str
    ) -> None:
        from r2ac.launch import cluster

        self._ray = cluster.connect(address, num_actors=len(configs))
        self._configs, self._in_flight = list(configs), in_flight
        self._sequence = list(sequence)
        self._failures = [0] * len(configs)
        self._batcher = Batcher(batch_size)
        self._orders: dict[Any, int] = {}
        self.actor_restarts = self.engine_restarts = 0
        self.waited = 0.0
        self._actors = [self._start(config) for config in configs]

    def publish(self, weights: Weights) -> None:
        """See :class:`RolloutSource`."""
        self._weights = self._ray.put(weights)

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        """See :class:`RolloutSource`."""
        episodes = self._receive(timeout=0)
        while (rollout := self._batcher.next_batch()) is None:
            if interrupted():
                return None
            started = time.monotonic()
            episodes += self._receive(timeout=self.poll_seconds)
            self.waited += time.monotonic() - started
        self._order()
        return Batch(rollout, episodes)

    def close(self) -> None:
        """See :class:`RolloutSource`."""
        self._ray.shutdown()

    def _start(self, config: ActorConfig) -> Any:
        return self._ray.remote(RolloutActor).options(num_cpus=1).remote(config, threads=1)

    def _order(self) -> None:
        """Order rollouts from every actor that is fewer than ``in_flight`` ahead."""
        ahead = [self._batcher.waiting(config.last_stream) for config in self._configs]
        for index in self._orders.values():
            ahead[index] += 1
        for index, count in enumerate(ahead):
            for _ in range(self._in_flight - count):
                order = self._actors[index].collect.remote(self._weights, self._sequence[index])
                self._orders[order] = index
                self._sequence[index] += 1

    def _receive(self, timeout: float) -> list[Episode]:
        """Take the rollouts that are ready, waiting up to ``timeout`` seconds for the first, and order new ones."""
        self._order()
        orders = list(self._orders)
        ready, _ = self._ray.wait(orders, num_returns=1, timeout=timeout)
        if ready:
            # A first call that waits and a second that does not: together, all that are ready.
            ready, _ = self._ray.wait(orders, num_returns=len(orders), timeout=0)
        episodes: list[Episode] = []
        for order in sorted(ready, key=orders.index):
            if order in self._orders:
                episodes += self._take(order)
        self._order()
        return episodes

    def _take(self, order: Any) -> list[Episode]:
        index = self._orders.pop(order)
        try:
            collected: Collected = self._ray.get(order)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
            self._replace(index, error)
            return []
        except self._ray.exceptions.RayTaskError as error:
            raise ActorsLost(f"rollout actor {index} failed: {error.cause!r}") from error
        self._failures[index] = 0
        self._batcher.add(collected.rollout)
        self.engine_restarts += collected.engine_restarts
        return collected.episodes

    def _replace(self, index: int, error: Exception) -> None:
        self._failures[index] += 1
        if self._failures[index] > self.restarts_in_a_row:
            raise ActorsLost(
                f"rollout actor {index} died {self._failures[index]} times in a row without a rollout: {error}"
            ) from error
        self._orders = {order: owner for order, owner in self._orders.items() if owner != index}
        # An actor that is only out of reach must not go on beside the one that takes its place.
        self._ray.kill(self._actors[index])
        config = self._configs[index]
        self._configs[index] = replace(config, incarnation=config.incarnation + 1)
        self._actors[index] = self._start(self._configs[index])
        self.actor_restarts += 1
