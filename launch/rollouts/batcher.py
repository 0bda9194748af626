"""From the rollouts of whole actors to batches of B streams."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
import torch

from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.settings.policy_lag import Held
from r2ac.learner import Rollout, concatenate


class BatchRing:
    """Memory of some batches that is filled again and again, in turn.

    Args:
        layout: of a batch.
        count: how many batches may be in use at a time.
        pinned: in pages that a GPU can read by itself.
    """

    def __init__(self, layout: RolloutLayout, count: int, pinned: bool = False) -> None:
        memory = [torch.empty(layout.nbytes(), dtype=torch.uint8, pin_memory=pinned) for _ in range(count)]
        self._batches = [layout.over(each.numpy()) for each in memory]

    def fill(self, parts: Sequence[Rollout[np.ndarray]]) -> Rollout[np.ndarray]:
        """The streams of all parts, written where the oldest batch was."""
        batch = self._batches.pop(0)
        self._batches.append(batch)
        return concatenate(parts, into=batch)


class Batcher:
    """Puts together batches of B rollouts, each of another stream; the rollouts of a stream keep their order.

    An actor hands over the rollouts of all its streams at once. A batch takes them from those with the oldest weights
    on, and leaves those that do not fit, or whose stream is already in the batch, for the next one; none is dropped.

    Args:
        batch_size: B.
        ring: where batches are written; None for new memory each time.
    """

    def __init__(self, batch_size: int, ring: BatchRing | None = None) -> None:
        self.batch_size, self._ring = batch_size, ring
        self._waiting: list[Rollout[np.ndarray]] = []

    def add(self, rollout: Rollout[np.ndarray]) -> None:
        """Take the rollouts of an actor's streams."""
        bisect.insort(self._waiting, rollout, key=_version)

    def held(self) -> list[Held]:
        """Versions and streams of what waits, the oldest first."""
        return [(_version(rollout), rollout.batch_size) for rollout in self._waiting]

    def waiting(self, stream: int) -> int:
        """How many of the rollouts taken, used in part or not at all, are of the actor whose last stream this is."""
        return sum(int(rollout.stream[-1]) == stream for rollout in self._waiting)

    def next_batch(self) -> Rollout[np.ndarray] | None:
        """A batch of B rollouts, or None while there are too few."""
        chosen, seen, size = [], set[int](), 0
        for rollout in self._waiting:
            streams = rollout.stream.tolist()
            count = _leading_new(streams, seen, self.batch_size - size)
            seen.update(streams)
            chosen.append(count)
            size += count
        if size < self.batch_size:
            return None
        parts = [_columns(rollout, 0, count) for rollout, count in zip(self._waiting, chosen, strict=True) if count]
        self._waiting = [
            _columns(rollout, count, rollout.batch_size)
            for rollout, count in zip(self._waiting, chosen, strict=True)
            if count < rollout.batch_size
        ]
        return concatenate(parts) if self._ring is None else self._ring.fill(parts)


def _version(rollout: Rollout[np.ndarray]) -> int:
    return int(rollout.weights_version.min())


def _columns(rollout: Rollout[np.ndarray], start: int, stop: int) -> Rollout[np.ndarray]:
    """These streams; the rollout itself where that is all of them."""
    return rollout if stop - start == rollout.batch_size else rollout.columns(start, stop)


def _leading_new(streams: list[int], seen: set[int], most: int) -> int:
    """How many of the first streams are not in ``seen``, at most ``most``."""
    count = 0
    while count < min(most, len(streams)) and streams[count] not in seen:
        count += 1
    return count
