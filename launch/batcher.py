"""From the rollouts of whole actors to batches of B streams."""

from __future__ import annotations

import numpy as np

from r2ac.learner import Rollout, concatenate


class Batcher:
    """Puts together batches of B rollouts, each of another stream; the rollouts of a stream keep their order.

    An actor hands over the rollouts of all its streams at once. A batch takes them from the oldest on, and leaves
    those that do not fit, or whose stream is already in the batch, for the next one; none is dropped.

    Args:
        batch_size: B.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._waiting: list[Rollout[np.ndarray]] = []

    def add(self, rollout: Rollout[np.ndarray]) -> None:
        """Take the rollouts of an actor's streams."""
        self._waiting.append(rollout)

    def waiting(self, stream: int) -> int:
        """How many of the rollouts taken, used in part or not at all, are of the actor whose last stream this is."""
        return sum(int(rollout.stream[-1]) == stream for rollout in self._waiting)

    def next_batch(self) -> Rollout[np.ndarray] | None:
        """A batch of B rollouts, or None while there are too few."""
        chosen, seen, size = [], set[int](), 0
        for rollout in self._waiting:
            count = _leading_new(rollout.stream, seen, self.batch_size - size)
            seen.update(rollout.stream.tolist())
            chosen.append(count)
            size += count
        if size < self.batch_size:
            return None
        parts = [rollout.columns(0, count) for rollout, count in zip(self._waiting, chosen, strict=True) if count]
        rest = [
            rollout.columns(count, rollout.batch_size) if count else rollout
            for rollout, count in zip(self._waiting, chosen, strict=True)
        ]
        self._waiting = [rollout for rollout in rest if rollout.batch_size]
        return concatenate(parts)


def _leading_new(stream: np.ndarray, seen: set[int], most: int) -> int:
    """How many of the first streams are not in ``seen``, at most ``most``."""
    count = 0
    while count < min(most, len(stream)) and int(stream[count]) not in seen:
        count += 1
    return count
