"""Rollout actors as a training opens them, for a learner whose weights a test chooses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from r2ac.agents import Agent, ObservationSpec
from r2ac.launch.rollouts.rollout_source import Batch, SourceCounts
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.sources import Rollouts, open_rollouts
from r2ac.learner import Learner, LearnerConfig


@dataclass(frozen=True)
class Opened:
    """The actors, until they are closed."""

    rollouts: Rollouts
    learner: Learner
    close: Callable[[], None]

    @property
    def counts(self) -> SourceCounts:
        return self.rollouts.source.counts

    @property
    def waited(self) -> float:
        return self.rollouts.source.waited

    def publish(self, weights: Weights) -> None:
        """As the learner publishes its own."""
        weights.load_into(self.learner.agent)
        self.learner.updates = weights.version
        self.rollouts.publish()

    def next_batch(self, interrupted: Callable[[], bool] = lambda: False) -> Batch | None:
        return self.rollouts.batches.next_batch(interrupted)

    def take(self) -> Batch:
        """The next batch."""
        batch = self.next_batch()
        assert batch is not None
        return batch


@contextmanager
def opened(
    config: TrainConfig[Any], spec: ObservationSpec, version: int = 0, counters: Mapping[str, int] | None = None
) -> Iterator[Opened]:
    """Open the actors of these settings, whose learner has made so many updates, and close them in the end."""
    learner = Learner(Agent(spec, config.agent), LearnerConfig(), config.num_streams, 10**9)
    learner.updates = version
    with ExitStack() as stack:
        yield Opened(open_rollouts(config, spec, learner, counters or {}, stack), learner, stack.close)
