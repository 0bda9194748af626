"""Batches from a rollout actor in the learner's own process."""

from __future__ import annotations

import time
from collections.abc import Callable

from r2ac.launch.rollouts.batcher import Batcher
from r2ac.launch.rollouts.inference.policies import Weights
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.rollout_source import Batch
from r2ac.launch.rollouts.source_counts import SourceCounts
from r2ac.launch.rollouts.stream_group import Episode


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
        self.counts, self.waited = SourceCounts(actors=1), 0.0
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
            self.counts.add(collected)
            episodes += collected.episodes
        self.waited += time.monotonic() - started
        return Batch(rollout, episodes)

    def close(self) -> None:
        """See :class:`RolloutSource`."""
        self._actor.close()

    def inference_statistics(self) -> None:
        """See :class:`RolloutSource`."""

    @property
    def timeline(self) -> None:
        """See :class:`RolloutSource`."""
