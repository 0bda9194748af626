"""Where the learner's batches come from: rollout actors in Ray processes."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from r2ac.envs import EngineFailed, find_tasks
from r2ac.launch.cluster import connect as cluster
from r2ac.launch.cluster.connect import installed_version
from r2ac.launch.rollouts.batcher import Batcher, BatchRing
from r2ac.launch.rollouts.inference.acting_agent import InferenceConfig, InferenceStatistics
from r2ac.launch.rollouts.inference.policies import InferenceLost, Weights
from r2ac.launch.rollouts.inference.pool import InferencePool, pool_anywhere, pool_beside
from r2ac.launch.rollouts.placement import actor_options
from r2ac.launch.rollouts.rollout_actor import ActorConfig, Collected, RolloutActor, WrongVersion
from r2ac.launch.rollouts.source_counts import SourceCounts
from r2ac.launch.rollouts.stream_group import Episode
from r2ac.launch.rollouts.transport.links import ActorLink, RayLink, SocketLink, environment_error
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout, RolloutMemory
from r2ac.launch.rollouts.transport.shared_weights import WeightsBoard
from r2ac.launch.runtime.errors import last_line, os_reason
from r2ac.launch.settings.policy_lag import is_late
from r2ac.learner import Rollout

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """What the learner gets for one update."""

    rollout: Rollout[np.ndarray]
    """T steps of B streams."""
    episodes: list[Episode]
    """Episodes that ended since the last batch, of any stream."""


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

    def inference_statistics(self) -> InferenceStatistics | None:
        """What the inference workers have done; None where there are none."""


_Closes = TypeVar("_Closes", InferencePool, RayLink, SocketLink)


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
    """Of the inference workers; None where each actor has an agent of its own. Without ``memory`` its device is auto,
    cpu or cuda, and Ray places them."""
    inference_workers: int = 1
    max_policy_lag: int = 0
    """The most updates that a rollout's weights may be old when it is learned from; 0: no bound but the queue's."""
    version: str = field(default_factory=installed_version)
    """Of this package, which actors on other nodes must have too."""


class RaySource:
    """Rollout actors in Ray processes, each kept up to ``in_flight`` rollouts ahead of the learner.

    That bound is the queue: an actor whose rollouts are not yet used gets no further order, so that nothing grows
    and nothing is dropped. An actor that dies is replaced; its lost rollouts leave a gap in the sequence numbers of
    its streams, which makes the learner begin these streams again.

    Batches come as soon as the actors that have started fill one. Those for which the cluster has no place yet wait in
    Ray, and get orders once they have started.

    Args:
        actors: one for each actor, at the most.
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
        self._configs, self._config = list(actors), config
        self._step_timeout = find_tasks(actors[0].task)[0].killed_after(actors[0].env)
        self._sequence = list(sequence)
        self._failures = [0] * len(actors)
        self._heard = [time.monotonic()] * len(actors)  # when each handed over something, got work, or was started
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
        # Locally there is a place for each actor; a cluster need only have those that fill a batch.
        enough = len(actors) if config.address == "local" else math.ceil(config.batch_size / actors[0].num_streams)
        connection = cluster.connect(config.address, num_actors=enough)
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
        config, count, ray = self._config, len(self._configs), self._ray
        inference, workers = config.inference, config.inference_workers
        if config.memory is None:
            if inference is not None:
                self._pool = self._opened(pool_anywhere(ray, inference, workers))
            return self._opened(RayLink(ray, count, self._start, config.version))
        # Nobody but this user enters the folder.
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="r2ac-", ignore_cleanup_errors=True)))
        self._open.callback(self._close_memory)
        with _told_as_memory():
            self._board = WeightsBoard.create(config.num_parameters)
        if inference is not None:
            self._pool = self._opened(pool_beside(ray, inference, workers, self._board.handle(), folder))
        return self._opened(SocketLink(ray, count, self._start, self._board, folder))

    def _opened(self, part: _Closes) -> _Closes:
        """To be closed with this."""
        return self._open.enter_context(closing(part))

    def publish(self, weights: Weights) -> None:
        """See :class:`RolloutSource`."""
        (self._link if self._sends_to is None else self._sends_to).publish(weights)
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

    def inference_statistics(self) -> InferenceStatistics | None:
        """See :class:`RolloutSource`."""
        return self._pool.statistics() if self._pool is not None else None

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
        options = self._ray.remote(RolloutActor).options(**actor_options(self._ray, here=memory is not None))
        return options.remote(
            self._configs[index],
            threads=1,
            memory=memory.handle() if memory is not None else None,
            board=self._board.handle() if self._board is not None else None,
            inference=self._pool.contact(index) if self._pool is not None else None,
            step_timeout=self._step_timeout,
        )

    def _is_late(self) -> bool:
        config = self._config
        if not config.max_policy_lag:
            return False
        due = [(version, self._configs[i].num_streams) for i, versions in enumerate(self._due) for version in versions]
        repeats = config.in_flight
        return is_late(self._update, config.batch_size, config.max_policy_lag, repeats, self._batcher.held(), due)

    def _order(self) -> None:
        """Order rollouts from every actor that has started and is fewer than ``in_flight`` ahead."""
        ready = [self._link.ready(index) for index in range(len(self._configs))]
        self.counts.actors, self.counts.pending = sum(ready), len(ready) - sum(ready)
        for index, config in enumerate(self._configs):
            version = self._acting_version(index)
            if not ready[index] or version < 0:
                continue
            ahead = len(self._due[index]) + self._batcher.waiting(config.last_stream)
            if not self._due[index]:
                self._heard[index] = time.monotonic()
            for _ in range(self._config.in_flight - ahead):
                # Before the order is given: the actor takes these weights or newer ones.
                self._due[index].append(version)
                self._link.order(index, self._sequence[index])
                self._sequence[index] += 1

    def _acting_version(self, index: int) -> int:
        """Of the weights that a rollout of this actor has at the oldest, if it is ordered now; -1 if nobody acts."""
        return self._version if self._sends_to is None else self._sends_to.version(index)

    @property
    def _sends_to(self) -> InferencePool | None:
        """The inference workers, where they alone need the weights."""
        return self._pool if self._pool is not None and self._pool.sends_weights else None

    def _receive(self, timeout: float) -> list[Episode]:
        """Take the rollouts that are ready, waiting up to ``timeout`` seconds for the first, and order new ones."""
        self._order()
        if self._pool is not None:
            self.counts.inference_restarts += self._pool.revive_lost()
            if timeout and self._pool.sends_weights:
                self.counts.workers_pending = self._pool.pending()
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
        self.counts.silent = self._silent()
        return episodes

    def _silent(self) -> dict[int, float]:
        """See :class:`SourceCounts`. An actor that has not started has work to do where there is a place for it."""
        now, local = time.monotonic(), self._config.address == "local"
        return {
            config.index: now - self._heard[index]
            for index, config in enumerate(self._configs)
            if self._due[index] or (local and not self._link.ready(index))
        }

    def _take(self, index: int, collected: Collected) -> list[Episode]:
        self._due[index].popleft()
        self._failures[index], self._heard[index] = 0, time.monotonic()
        if self._pool is not None:
            self._pool.served(index)
        self._batcher.add(self._rollout(index, collected))
        self.counts.add(collected)
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
        self._check_can_live(index, error)
        if self._pool is not None:
            # An actor cannot go on, or start, without its worker.
            self.counts.inference_restarts += self._pool.revive(index)
        # Where nodes come and go an actor may be unlucky again and again.
        self._failures[index] += not _node_died(error)
        reason = self._late(index) or ("" if error is None else f": {last_line(error)}")
        if self._failures[index] > self.restarts_in_a_row:
            raise ActorsLost(
                f"rollout actor {index} died {self._failures[index]} times in a row without a rollout{reason}"
            ) from error
        if self._late(index):
            _LOG.warning("rollout actor %d died%s: replaced, its streams begin new episodes", index, reason)
        # One that had not started, or that Ray sent to a node whose loss it had not noticed, has played nothing.
        if self._link.ready(index):
            config = self._configs[index]
            self._configs[index] = replace(config, incarnation=config.incarnation + 1)
            self.counts.actor_restarts += 1
        self._due[index].clear()
        self._heard[index] = time.monotonic()
        try:
            self._link.replace(index)
        except NoMemory as error:
            raise ActorsLost(f"rollout actor {index} died and cannot be started anew: {error}") from error

    def _late(self, index: int) -> str:
        """Says so where an actor that died can have done so by the time-out of a step; else empty."""
        silent, timeout = time.monotonic() - self._heard[index], self._step_timeout
        # What was last heard may have waited to be heard.
        late = 0 < timeout < 2 * silent
        return f", {silent:,.0f} s after its last word (a step may take --step-timeout {timeout:g})" if late else ""

    def _check_can_live(self, index: int, error: Exception | None) -> None:
        """Raise ActorsLost for what will happen again: the actor's own error, or a node that is not as it must be; and
        EngineFailed, EnvironmentFailed and MissingPackage as the actor did."""
        if error is None:
            return
        cause, errors = getattr(error, "cause", None), self._ray.exceptions
        if isinstance(cause, WrongVersion):
            raise ActorsLost(str(cause)) from error
        if isinstance(cause, EngineFailed):
            raise cause
        if "No module named 'r2ac" in str(error):
            raise ActorsLost(f"a node of the Ray cluster lacks r2ac {self._config.version}: {last_line(error)}")
        if getattr(error, "actor_init_failed", False) and InferenceLost.__name__ not in last_line(error):
            sentence = f"rollout actor {index} cannot start: {last_line(error)}"
            raise environment_error(error) or ActorsLost(sentence) from error
        # An error of Ray's in the actor, such as weights that were lost with a node, is none of its own.
        if isinstance(error, errors.RayTaskError) and not isinstance(cause, InferenceLost | errors.RayError):
            raise ActorsLost(f"rollout actor {index} failed: {cause!r}") from error


class NoMemory(RuntimeError):
    """There is no memory for what actors and learner share."""


@contextmanager
def _told_as_memory() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoMemory(f"there is no memory for the rollouts in flight: {os_reason(error)}") from error


def _node_died(error: Exception | None) -> bool:
    """Whether Ray says that the actor was lost with its node."""
    return "its node has died" in str(error)
