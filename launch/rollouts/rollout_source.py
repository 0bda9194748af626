"""Where the learner's batches come from: rollout actors in Ray processes, or one in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from r2ac.launch.rollouts.batcher import Batcher
from r2ac.launch.rollouts.ended_episodes import Episodes
from r2ac.launch.rollouts.failures import ActorsLost, FailurePolicy
from r2ac.launch.rollouts.inference.pool import InferencePool
from r2ac.launch.rollouts.orders import Orders
from r2ac.launch.rollouts.rollout_actor import WAITING, Collected, RolloutActor
from r2ac.launch.rollouts.transport.links import RayLink, SocketLink
from r2ac.launch.rollouts.transport.shared_memory import NoMemory
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights, Weights
from r2ac.learner import Rollout


@dataclass(frozen=True)
class Batch:
    """The rollouts of an update."""

    rollout: Rollout[np.ndarray]
    """T steps of B streams. Its memory may be written again once the next batch is asked for."""
    episodes: Episodes
    """Episodes that ended since the last batch, of any stream."""


@dataclass
class SourceCounts:
    """What a source counts while it runs."""

    actors: int = 0
    """Rollout actors that have started and live."""
    pending: int = 0
    """Rollout actors that are starting, or wait for a place in the cluster."""
    workers_pending: int = 0
    """Inference workers that are starting, or wait for a place in the cluster."""
    actor_restarts: int = 0
    """Rollout actors that had started, died and were replaced."""
    engine_restarts: int = 0
    """Engines that the actors lost and replaced."""
    inference_restarts: int = 0
    """Inference workers that died and were replaced."""
    restarts: int = 0
    """Times that the training itself was started again after a failure."""
    queue: int = 0
    """Actors' rollouts, used in part or not at all, that waited when the last batch was handed over."""
    held_back: float = 0.0
    """Seconds in which no batch was handed over because it would have made other rollouts too old."""
    silent: dict[int, float] = field(default_factory=dict)
    """Seconds since the last rollout of each rollout actor that has orders, by its number, when last looked at."""
    actor_seconds: Counter[str] = field(default_factory=Counter)
    """What the actors have spent their time with, summed over them, as `Collected.seconds` names it."""

    def add(self, collected: Collected) -> None:
        """Count what came with a rollout."""
        self.engine_restarts += collected.engine_restarts
        self.actor_seconds.update(collected.seconds)


class InProcessSource:
    """Batches from a rollout actor in this process, with an agent of its own, which steps only when the learner asks,
    with the newest weights; each stream's rollouts are numbered from ``sequence``. The actor has two slots, or new
    memory each time: a batch may begin in one rollout and end in the next."""

    def __init__(self, actor: RolloutActor, batch_size: int, sequence: int) -> None:
        self._actor, self._batcher, self._sequence = actor, Batcher(batch_size), sequence
        self.counts, self.waited = SourceCounts(actors=1), 0.0
        self.pool = self.timeline = None
        self._weights: Weights

    def publish(self, weights: Weights) -> None:
        self._weights = weights

    def version(self, actor: int) -> int:
        return self._weights.version

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        episodes = Episodes()
        started = time.monotonic()
        while (rollout := self._batcher.next_batch()) is None:
            if interrupted():
                return None
            collected = self._actor.collect(self._weights, self._sequence)
            assert collected.rollout is not None
            self._sequence += 1
            self._batcher.add(collected.rollout)
            self.counts.add(collected)
            # Between two rollouts the learner was at work here.
            self.counts.actor_seconds.pop(WAITING, None)
            episodes.extend(collected.episodes)
        self.waited += time.monotonic() - started
        return Batch(rollout, episodes)


class RaySource:
    """Batches from rollout actors in Ray processes, each kept some rollouts ahead of the learner by its orders; the
    rollouts of one stream come in order, each once.

    An actor that dies is replaced; its lost rollouts leave a gap in the sequence numbers of its streams, which makes
    the learner begin these streams again. Batches come as soon as the actors that have started fill one; those for
    which the cluster has no place yet get orders once they have started.

    Args:
        pool: the inference workers; None where each actor has an agent of its own.
        update: the number of the next update.
        first_index: the number of the first of these actors among those of all learners.
        all_have_places: whether an actor that does not start is not waiting for a place in the cluster.
        timeline: writes a trace of the actors' processes.
    """

    poll_seconds = 0.5
    """How long a wait for rollouts lasts before it looks whether it was interrupted."""
    weights_poll_seconds = 0.01
    """The same, while an actor waits for weights that are under way to its inference worker."""

    def __init__(
        self,
        link: RayLink | SocketLink,
        weights: SharedWeights | InferencePool | RayLink,
        orders: Orders,
        batcher: Batcher,
        failures: FailurePolicy,
        pool: InferencePool | None,
        update: int,
        first_index: int = 0,
        all_have_places: bool = True,
        timeline: Callable[[Path], object] | None = None,
    ) -> None:
        self._link, self._weights, self._orders, self._batcher = link, weights, orders, batcher
        self._failures, self.pool, self._update = failures, pool, update
        self._first_index, self._all_have_places, self.timeline = first_index, all_have_places, timeline
        self.counts, self.waited = SourceCounts(), 0.0
        self.publish = weights.publish
        self._weights_due = False

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        """The next batch; None if ``interrupted()`` turned true while waiting for it. Raises ActorsLost and
        InferenceFailed if an actor or an inference worker failed, or died again and again."""
        episodes = self._receive(timeout=0)
        while (late := self._is_late()) or (rollout := self._batcher.next_batch()) is None:
            self._order()
            if interrupted():
                return None
            started = time.monotonic()
            episodes.extend(self._receive(self.weights_poll_seconds if self._weights_due else self.poll_seconds))
            seconds = time.monotonic() - started
            self.waited += seconds
            self.counts.held_back += seconds * late
        self._update += 1
        self.counts.queue = len(self._batcher.held())
        self._order()
        return Batch(rollout, episodes)

    def _is_late(self) -> bool:
        return self._orders.is_late(self._update, self._batcher.batch_size, self._batcher.held())

    def _receive(self, timeout: float) -> Episodes:
        """Take the rollouts that are ready, waiting up to ``timeout`` seconds for the first."""
        if self.pool is not None:
            self.counts.inference_restarts += self.pool.revive_lost()
            if timeout:
                self.counts.workers_pending = self.pool.pending()
        episodes = Episodes()
        replaced: set[int] = set()
        for actor, arrived in self._link.receive(timeout):
            if actor in replaced:
                continue  # another of its orders
            if isinstance(arrived, Exception):
                self._replace(actor, arrived)
                replaced.add(actor)
            else:
                episodes.extend(self._take(actor, arrived))
        return episodes

    def _order(self) -> None:
        """Order rollouts from every actor that has started and may be further ahead; note those that are silent."""
        orders, silent = self._orders, dict[int, float]()
        ready = [self._link.ready(actor) for actor in range(orders.num_actors)]
        self.counts.actors, self.counts.pending = sum(ready), len(ready) - sum(ready)
        needed = orders.weights_needed(self._update)
        self._weights_due = False
        for actor in range(orders.num_actors):
            # Read before the order is given: the actor takes these weights or newer ones.
            version = self._weights.version(actor)
            self._weights_due |= ready[actor] and 0 <= version < needed
            if ready[actor] and version >= needed:
                for _ in range(orders.room(actor, self._batcher.waiting(orders.last_stream(actor)))):
                    self._link.order(actor, orders.give(actor, version))
            if orders.are_due(actor) or (self._all_have_places and not ready[actor]):
                silent[self._first_index + actor] = orders.silence(actor)
        self.counts.silent = silent

    def _take(self, actor: int, collected: Collected) -> Episodes:
        self._orders.fulfilled(actor)
        self._failures.delivered(actor)
        if self.pool is not None:
            self.pool.served(actor)
        assert collected.rollout is not None
        self._batcher.add(collected.rollout)
        self.counts.add(collected)
        return collected.episodes

    def _replace(self, actor: int, error: Exception) -> None:
        """Start an actor anew that died. Raises ActorsLost where it would die again."""
        self._failures.check(actor, error)
        if self.pool is not None:
            # An actor cannot go on, or start, without its worker.
            self.counts.inference_restarts += self.pool.revive(actor)
        self._failures.count(actor, error, self._orders.silence(actor))
        # One that had not started, or that Ray sent to a node whose loss it had not noticed, has played nothing.
        self.counts.actor_restarts += self._link.ready(actor)
        self._orders.lost(actor)
        try:
            self._link.replace(actor)
        except NoMemory as error:
            raise ActorsLost(f"rollout actor {actor} died and cannot be started anew: {error}") from error
