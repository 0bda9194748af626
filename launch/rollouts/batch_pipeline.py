"""The learner's next batches, made ready while it learns from the last one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from r2ac.launch.rollouts.inference.policies import Weights
from r2ac.launch.rollouts.rollout_source import RolloutSource
from r2ac.launch.rollouts.stream_group import Episode
from r2ac.launch.runtime.process import CLOSE_SECONDS, end_thread
from r2ac.launch.settings.policy_lag import PREFETCHED
from r2ac.learner import Rollout, StagedBatch

BUFFERS = PREFETCHED + 1
"""Batches in use at a time: one is learned from, one is ready, one is made ready."""
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class ReadyBatch:
    """What the learner gets for one update."""

    staged: StagedBatch
    weights_version: np.ndarray
    """[B] int64, of each rollout of the batch."""
    episodes: list[Episode]
    """Episodes that ended since the last batch, of any stream."""


class Batches(Protocol):
    """Hands the learner batch after batch."""

    @property
    def waited(self) -> float:
        """Seconds that the learner has waited for batches."""

    def publish(self, weights: Weights) -> None:
        """Let the rollouts that are begun from now on use ``weights``."""

    def next_batch(self, interrupted: Callable[[], bool]) -> ReadyBatch | None:
        """The next batch; None if ``interrupted()`` turned true while waiting for it."""

    def close(self) -> None:
        """Stop whoever makes them."""


class BatchPipeline:
    """Takes batch after batch from a source on a thread of its own, which assembles them in memory and stages them on
    the learner's device while updates run. Hand-over is bounded and blocks: at most ``PREFETCHED`` batches are taken
    beyond the one that is learned from.

    Args:
        source: where the batches come from; closed with the pipeline.
        stage: begins to bring a batch to the device.
    """

    def __init__(self, source: RolloutSource, stage: Callable[[Rollout[np.ndarray]], StagedBatch]) -> None:
        self._source, self._stage = source, stage
        self._ready: queue.Queue[ReadyBatch | BaseException] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """See :class:`Batches`."""
        return self._waited

    def publish(self, weights: Weights) -> None:
        """See :class:`Batches`; the first call starts the thread."""
        self._source.publish(weights)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
            self._thread.start()

    def next_batch(self, interrupted: Callable[[], bool]) -> ReadyBatch | None:
        """See :class:`Batches`; raises what the source raised."""
        started = time.monotonic()
        try:
            while not interrupted():
                try:
                    ready = self._ready.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(ready, BaseException):
                    raise ready
                return ready
            return None
        finally:
            self._waited += time.monotonic() - started

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the thread, as :func:`~r2ac.launch.runtime.process.end_thread` does, then close the source. What was
        made ready is left."""
        self._closed.set()
        if self._thread is not None:
            end_thread(self._thread, seconds)
        self._source.close()

    def _run(self) -> None:
        try:
            while (batch := self._source.next_batch(self._closed.is_set)) is not None:
                rollout = batch.rollout
                versions = rollout.weights_version.copy()
                if not self._put(ReadyBatch(self._stage(rollout), versions, batch.episodes)):
                    return
        except BaseException as error:  # all that ends the thread is told to whoever waits for batches
            self._put(error)

    def _put(self, ready: ReadyBatch | BaseException) -> bool:
        """Whether there was room before the pipeline was closed."""
        while not self._closed.is_set():
            try:
                self._ready.put(ready, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


class DirectBatches:
    """The same without a thread: batches are made when they are wanted, with the newest weights.

    Args:
        source, stage: as in :class:`BatchPipeline`.
    """

    def __init__(self, source: RolloutSource, stage: Callable[[Rollout[np.ndarray]], StagedBatch]) -> None:
        self._source, self._stage = source, stage

    @property
    def waited(self) -> float:
        """See :class:`Batches`."""
        return self._source.waited

    def publish(self, weights: Weights) -> None:
        """See :class:`Batches`."""
        self._source.publish(weights)

    def next_batch(self, interrupted: Callable[[], bool]) -> ReadyBatch | None:
        """See :class:`Batches`."""
        batch = self._source.next_batch(interrupted)
        if batch is None:
            return None
        return ReadyBatch(self._stage(batch.rollout), batch.rollout.weights_version, batch.episodes)

    def close(self) -> None:
        """Close the source."""
        self._source.close()
