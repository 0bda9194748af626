"""The bound on the policy lag: how many updates old the weights may be that made a rollout, when it is learned from."""

from __future__ import annotations

import math
from collections.abc import Collection

Held = tuple[int, int]
"""The version of the weights that rollouts were begun with, at the oldest, and how many streams they have."""
PREFETCHED = 2
"""Batches that are made ready beyond the one that is learned from."""
UNDER_WAY = 2
"""Publications of weights that may be under way, where the learner does not wait for them: on a GPU."""


def is_late(
    update: int, batch_size: int, most: int, repeats: int, here: Collection[Held], due: Collection[Held]
) -> bool:
    """Whether a batch for this update would make rollouts that are still ``due`` lag (``update - version``) more than
    ``most`` updates; those ``here`` have arrived.

    The oldest are learned from first. So the rollouts of version w that are still due wait for all n streams of w and
    older that this batch leaves, which are learned from within ceil(n / batch_size) + repeats - 1 updates after this
    one: of the ``repeats`` rollouts of one stream that may wait together each comes in a batch of its own.
    """
    for version in {version for version, _ in due}:
        ready = sum(streams for other, streams in here if other <= version)
        left = ready - min(batch_size, ready) + sum(streams for other, streams in due if other <= version)
        if update + math.ceil(left / batch_size) + repeats - 1 > version + most:
            return True
    return False


def least_bound(
    streams: int, batch_size: int, in_flight: int, prefetched: int, publish_every: int, under_way: int = 0
) -> int:
    """The smallest bound that can be kept: the largest lag where no actor is late, with ``prefetched`` batches made
    ready and ``under_way`` publications that have not ended."""
    weights_age = prefetched + (1 + under_way) * publish_every
    return math.ceil(in_flight * streams / batch_size) + in_flight - 1 + weights_age
