"""From the rollouts of whole actors to batches of B streams."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import cycle, takewhile
from operator import itemgetter

import numpy as np
import torch

from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.settings.policy_lag import Held
from r2ac.learner import Rollout, concatenate


def batch_ring(layout: RolloutLayout, count: int, pinned: bool = False) -> Iterator[Rollout[np.ndarray]]:
    """Memory of ``count`` batches in turn, without end; ``pinned``: in pages that a GPU can read by itself."""
    memory = [torch.empty(layout.nbytes(), dtype=torch.uint8, pin_memory=pinned) for _ in range(count)]
    return cycle([layout.over(each.numpy()) for each in memory])


class Batcher:
    """Puts together batches of B rollouts, each of another stream; the rollouts of a stream keep their order.

    An actor hands over the rollouts of all its streams at once. A batch takes them from those with the oldest weights
    on, and leaves those that do not fit, or whose stream is already in the batch, for the next one; none is dropped.

    Args:
        batch_size: B.
        ring: where each batch is written; None for new memory each time.
    """

    def __init__(self, batch_size: int, ring: Iterator[Rollout[np.ndarray]] | None = None) -> None:
        self.batch_size, self._ring = batch_size, ring
        self._waiting: list[tuple[int, Rollout[np.ndarray]]] = []  # behind the oldest version of its weights

    def add(self, rollout: Rollout[np.ndarray]) -> None:
        """Add the rollouts of an actor's streams."""
        bisect.insort(self._waiting, (_version(rollout), rollout), key=itemgetter(0))

    def held(self) -> list[Held]:
        """Versions and streams of what waits, the oldest first."""
        return [(version, rollout.batch_size) for version, rollout in self._waiting]

    def waiting(self, stream: int) -> int:
        """How many of the rollouts taken, used in part or not at all, are of the actor whose last stream this is."""
        return sum(int(rollout.stream[-1]) == stream for _, rollout in self._waiting)

    def next_batch(self) -> Rollout[np.ndarray] | None:
        """A batch of B rollouts, or None while there are too few."""
        chosen: list[Rollout[np.ndarray]] = []
        left: list[tuple[int, Rollout[np.ndarray]]] = []
        seen, size = set[int](), 0
        for _, rollout in self._waiting:
            streams = rollout.stream.tolist()
            new = min(len(streams), self.batch_size - size)
            if not seen.isdisjoint(streams):
                new = sum(1 for _ in takewhile(lambda stream: stream not in seen, streams[:new]))
            seen.update(streams)
            size += new
            if new:
                chosen.append(_columns(rollout, 0, new))
            if new < len(streams):
                left.append((_version(part := _columns(rollout, new, len(streams))), part))
        if size < self.batch_size:
            return None
        self._waiting = sorted(left, key=itemgetter(0))  # a part may have newer weights than the whole
        return concatenate(chosen, into=None if self._ring is None else next(self._ring))


def _version(rollout: Rollout[np.ndarray]) -> int:
    return int(rollout.weights_version.min())


def _columns(rollout: Rollout[np.ndarray], start: int, stop: int) -> Rollout[np.ndarray]:
    """These streams; the rollout itself where that is all of them."""
    return rollout if stop - start == rollout.batch_size else rollout.columns(start, stop)
