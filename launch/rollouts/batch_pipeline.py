"""The learner's next batches, made ready while it learns from the last one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from r2ac.launch.rollouts.rollout_source import Batch, InProcessSource, RaySource
from r2ac.launch.runtime.process import CLOSE_SECONDS, end_thread
from r2ac.launch.settings.policy_lag import PREFETCHED
from r2ac.learner import Rollout

BUFFERS = PREFETCHED + 1
"""Batches in use at a time: one is learned from, one is ready, one is made ready."""
_POLL_SECONDS = 0.5


class BatchPipeline:
    """Takes batch after batch from a source on a thread of its own, and lets ``stage`` begin to bring each to the
    learner's device while updates run. At most ``PREFETCHED`` batches are taken beyond the one that is learned from.
    The thread starts with the first :meth:`next_batch`."""

    def __init__(self, source: RaySource | InProcessSource, stage: Callable[[Rollout[np.ndarray]], None]) -> None:
        self._source, self._stage = source, stage
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.waited = 0.0

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        """The next batch, staged; None if ``interrupted()`` turned true. Raises what the source raised."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
            self._thread.start()
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
            self.waited += time.monotonic() - started

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the thread, as :func:`~r2ac.launch.runtime.process.end_thread` does."""
        self._closed.set()
        with suppress(queue.Empty):
            self._ready.get_nowait()  # room for the batch that may be under way
        if self._thread is not None:
            end_thread(self._thread, seconds)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                batch = self._source.next_batch(self._closed.is_set)
                if batch is not None:
                    self._stage(batch.rollout)
                    self._ready.put(batch)
        except BaseException as error:  # raised by next_batch
            self._ready.put(error)
