"""Where the learner's batches come from: a rollout actor in this process, or rollout actors in Ray processes."""

from __future__ import annotations

import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from r2ac.launch.errors import os_reason
from r2ac.launch.rollouts.actor_links import ActorLink, RayLink, SocketLink
from r2ac.launch.rollouts.batcher import Batcher, BatchRing
from r2ac.launch.rollouts.inference_pool import InferencePool, last_line
from r2ac.launch.rollouts.inference_worker import InferenceConfig
from r2ac.launch.rollouts.policies import InferenceLost, Weights
from r2ac.launch.rollouts.policy_lag import is_late
from r2ac.launch.rollouts.rollout_actor import ActorConfig, Collected, RolloutActor
from r2ac.launch.rollouts.rollout_memory import RolloutLayout, RolloutMemory
from r2ac.launch.rollouts.stream_group import Episode
from r2ac.launch.rollouts.weights_board import WeightsBoard
from r2ac.learner import Rollout


@dataclass(frozen=True)
class Batch:
    """What the learner gets for one update."""

    rollout: Rollout[np.ndarray]
    """T steps of B streams."""
    episodes: list[Episode]
    """Episodes that ended since the last batch, of any stream."""


@dataclass
class SourceCounts:
    """What a source counts while it runs."""

    actor_restarts: int = 0
    """Rollout actors that died and were replaced."""
    engine_restarts: int = 0
    """Engines that the actors lost and replaced."""
    inference_restarts: int = 0
    """Inference workers that died and were replaced."""
    restarts: int = 0
    """Times that the training itself was started again after a failure."""
    queue: int = 0
    """Rollouts of whole actors, used in part or not at all, that waited when the last batch was handed over."""
    held_back: float = 0.0
    """Seconds in which no batch was handed over because it would have made other rollouts too old."""
    actor_seconds: Counter[str] = field(default_factory=Counter)
    """What the actors have spent their time with, summed over them, as `Collected.seconds` names it."""


class RolloutSource(Protocol):
    """Hands the learner batch after batch; the rollouts of one stream come in order, each once."""

    counts: SourceCounts
    waited: float
    """Seconds that the learner has waited for batches."""

    def publish(self, weights: Weights) -> None:
        """Let the rollouts that are begun from now on use ``weights``."""

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        """The next batch; None if ``interrupted()`` turned true while waiting for it."""

    def close(self) -> None:
        """Stop the actors."""

    @property
    def timeline(self) -> Callable[[Path], object] | None:
        """Writes a trace of the processes of the source; None where there are none."""


class InProcessSource:
    """One rollout actor in this process. It steps only when the learner asks, with the newest weights.

    Args:
        config: the actor's.
        batch_size: B.
        sequence: the number of each stream's first rollout.
        device: where the agent acts.
    """

    def __init__(self, config: ActorConfig, batch_size: int, sequence: int, device: str = "cpu") -> None:
        self._actor = RolloutActor(config, device=device)
        self.counts, self.waited = SourceCounts(), 0.0
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
            assert collected.rollout is not None
            self._sequence += 1
            self._batcher.add(collected.rollout)
            _count(self.counts, collected)
            episodes += collected.episodes
        self.waited += time.monotonic() - started
        return Batch(rollout, episodes)

    def close(self) -> None:
        """See :class:`RolloutSource`."""
        self._actor.close()

    @property
    def timeline(self) -> None:
        """See :class:`RolloutSource`."""


class ActorsLost(RuntimeError):
    """A rollout actor died again and again, or its environment or agent raised an error."""


@dataclass(frozen=True)
class RayConfig:
    """How rollout actors in Ray processes are run."""

    batch_size: int
    """B."""
    in_flight: int
    """Rollouts that an actor may be ahead of the learner, at least 2."""
    address: str = "local"
    """The cluster to join, or "local" to start Ray on this machine alone."""
    memory: RolloutLayout | None = None
    """Of an actor's rollouts, where they are written to memory that it shares with the learner, which must be on the
    same machine; None where they go through Ray's object store."""
    num_parameters: int = 0
    """Of the agent; needed with ``memory``."""
    inference: InferenceConfig | None = None
    """Of the inference workers; None where each actor has an agent of its own. Needs ``memory``."""
    inference_workers: int = 1
    max_policy_lag: int = 0
    """The most updates that a rollout's weights may be old when it is learned from; 0: no bound but the queue's."""


class RaySource:
    """Rollout actors in Ray processes, each kept up to ``in_flight`` rollouts ahead of the learner.

    That bound is the queue: an actor whose rollouts are not yet used gets no further order, so that nothing grows
    and nothing is dropped. An actor that dies is replaced; its lost rollouts leave a gap in the sequence numbers of
    its streams, which makes the learner begin these streams again.

    Args:
        actors: one for each actor.
        config: how they are run.
        sequence: the number of each stream's first rollout, one for each actor.
        ring: where batches are written; None where nobody keeps a batch for long.

    Raises:
        ConnectionFailed: if there is no cluster at the address.
        InferenceFailed: if an inference worker cannot start.
        NoMemory: if there is none for the rollouts.
    """

    poll_seconds = 0.5
    """How long a wait for rollouts lasts before it looks whether it was interrupted."""
    restarts_in_a_row = 3
    """An actor that dies so often without handing over a rollout ends the run."""

    def __init__(
        self, actors: list[ActorConfig], config: RayConfig, sequence: list[int], ring: BatchRing | None = None
    ) -> None:
        from r2ac.launch import cluster

        self._configs, self._config = list(actors), config
        self._sequence = list(sequence)
        self._failures = [0] * len(actors)
        if ring is None and config.memory is not None:
            # What a batch was copied from is written again.
            ring = BatchRing(replace(config.memory, num_streams=config.batch_size), 2)
        self._batcher = Batcher(config.batch_size, ring)
        # The versions of the weights when each actor got the orders that are still due.
        self._due: list[deque[int]] = [deque() for _ in actors]
        self._version = self._update = -1
        self.counts, self.waited = SourceCounts(), 0.0
        self._board: WeightsBoard | None = None
        self._pool: InferencePool | None = None
        self._memory: list[RolloutMemory | None] = [None] * len(actors)
        self._open = ExitStack()
        connection = cluster.connect(config.address, num_actors=len(actors))
        self._ray = connection.ray
        self._open.callback(connection.close)
        self._link: ActorLink
        try:
            self._link = self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> ActorLink:
        """Start the actors, and what they need."""
        config, count = self._config, len(self._configs)
        if config.memory is None:
            return RayLink(self._ray, count, self._start)
        # Nobody but this user enters the folder.
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="r2ac-", ignore_cleanup_errors=True)))
        self._open.callback(self._close_memory)
        with _told_as_memory():
            self._board = WeightsBoard.create(config.num_parameters)
        if config.inference is not None:
            handle = self._board.handle()
            self._pool = InferencePool(self._ray, config.inference, config.inference_workers, handle, folder)
        link = SocketLink(self._ray, count, self._start, self._board, folder)
        self._open.callback(link.close)
        return link

    def publish(self, weights: Weights) -> None:
        """See :class:`RolloutSource`."""
        self._link.publish(weights)
        self._version = weights.version
        if self._update < 0:
            self._update = weights.version

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        """See :class:`RolloutSource`.

        Raises:
            ActorsLost: if an actor failed, or died again and again.
            InferenceFailed: if an inference worker did.
        """
        episodes = self._receive(timeout=0)
        while (late := self._is_late()) or (rollout := self._batcher.next_batch()) is None:
            if interrupted():
                return None
            started = time.monotonic()
            episodes += self._receive(timeout=self.poll_seconds)
            seconds = time.monotonic() - started
            self.waited += seconds
            self.counts.held_back += seconds * late
        self._update += 1
        self.counts.queue = len(self._batcher.held())
        self._order()
        return Batch(rollout, episodes)

    def close(self) -> None:
        """See :class:`RolloutSource`."""
        self._open.close()

    @property
    def timeline(self) -> Callable[[Path], object]:
        """See :class:`RolloutSource`; the trace is Ray's."""
        return lambda path: self._ray.timeline(filename=str(path))

    def _close_memory(self) -> None:
        for memory in (*self._memory, self._board):
            if memory is not None:
                memory.close()

    def _start(self, index: int) -> Any:
        """The rollout actor of this number, with memory that no other has."""
        old, memory = self._memory[index], None
        if self._config.memory is not None:
            with _told_as_memory():
                memory = RolloutMemory.create(self._config.memory, self._config.in_flight)
        self._memory[index] = memory
        if old is not None:
            old.close()
        options = self._ray.remote(RolloutActor).options(num_cpus=1)
        return options.remote(
            self._configs[index],
            threads=1,
            memory=memory.handle() if memory is not None else None,
            board=self._board.handle() if self._board is not None else None,
            inference=self._pool.address(index) if self._pool is not None else None,
        )

    def _is_late(self) -> bool:
        config = self._config
        if not config.max_policy_lag:
            return False
        due = [(version, self._configs[i].num_streams) for i, versions in enumerate(self._due) for version in versions]
        repeats = config.in_flight
        return is_late(self._update, config.batch_size, config.max_policy_lag, repeats, self._batcher.held(), due)

    def _order(self) -> None:
        """Order rollouts from every actor that is fewer than ``in_flight`` ahead."""
        for index, config in enumerate(self._configs):
            ahead = len(self._due[index]) + self._batcher.waiting(config.last_stream)
            for _ in range(self._config.in_flight - ahead):
                # Before the order is given: the actor takes these weights or newer ones.
                self._due[index].append(self._version)
                self._link.order(index, self._sequence[index])
                self._sequence[index] += 1

    def _receive(self, timeout: float) -> list[Episode]:
        """Take the rollouts that are ready, waiting up to ``timeout`` seconds for the first, and order new ones."""
        self._order()
        episodes: list[Episode] = []
        replaced: set[int] = set()
        for arrival in self._link.receive(timeout):
            if arrival.actor in replaced:
                continue  # another of its orders
            if arrival.collected is None:
                self._replace(arrival.actor, arrival.error)
                replaced.add(arrival.actor)
            else:
                episodes += self._take(arrival.actor, arrival.collected)
        self._order()
        return episodes

    def _take(self, index: int, collected: Collected) -> list[Episode]:
        self._due[index].popleft()
        self._failures[index] = 0
        if self._pool is not None:
            self._pool.served(index)
        self._batcher.add(self._rollout(index, collected))
        _count(self.counts, collected)
        return collected.episodes

    def _rollout(self, index: int, collected: Collected) -> Rollout[np.ndarray]:
        """What an actor collected, where it lies: the rollouts of one actor take its slots in turn."""
        if collected.rollout is not None:
            return collected.rollout
        memory = self._memory[index]
        assert memory is not None
        return memory.slots[collected.sequence % len(memory.slots)]

    def _replace(self, index: int, error: Exception | None) -> None:
        """Start an actor anew that died. Raises ActorsLost where that is in vain."""
        cause = getattr(error, "cause", None)
        if isinstance(error, self._ray.exceptions.RayTaskError) and not isinstance(cause, InferenceLost):
            raise ActorsLost(f"rollout actor {index} failed: {cause!r}") from error
        if self._pool is not None:
            # An actor cannot go on, or start, without its worker.
            self.counts.inference_restarts += self._pool.revive(index)
        self._failures[index] += 1
        if self._failures[index] > self.restarts_in_a_row:
            reason = "" if error is None else f": {last_line(error)}"
            raise ActorsLost(
                f"rollout actor {index} died {self._failures[index]} times in a row without a rollout{reason}"
            ) from error
        config = self._configs[index]
        self._configs[index] = replace(config, incarnation=config.incarnation + 1)
        self._due[index].clear()
        try:
            self._link.replace(index)
        except NoMemory as error:
            raise ActorsLost(f"rollout actor {index} died and cannot be started anew: {error}") from error
        self.counts.actor_restarts += 1


class NoMemory(RuntimeError):
    """There is no memory for what actors and learner share."""


@contextmanager
def _told_as_memory() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoMemory(f"there is no memory for the rollouts in flight: {os_reason(error)}") from error


def _count(counts: SourceCounts, collected: Collected) -> None:
    counts.engine_restarts += collected.engine_restarts
    counts.actor_seconds.update(collected.seconds)
