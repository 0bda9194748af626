"""What a source of rollouts counts while it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from r2ac.launch.rollouts.rollout_actor import Collected


@dataclass
class SourceCounts:
    """What a source counts while it runs."""

    actors: int = 0
    """Rollout actors that have started and live."""
    pending: int = 0
    """Rollout actors that are starting, or wait for a place in the cluster."""
    workers_pending: int = 0
    """Inference workers that are starting, or wait for a place in the cluster."""
    actor_restarts: int = 0
    """Rollout actors that had started, died and were replaced."""
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
    silent: dict[int, float] = field(default_factory=dict)
    """Seconds since the last rollout of each rollout actor that has orders, by its number, when it was last looked."""
    actor_seconds: Counter[str] = field(default_factory=Counter)
    """What the actors have spent their time with, summed over them, as `Collected.seconds` names it."""

    def add(self, collected: Collected) -> None:
        """Count what came with a rollout."""
        self.engine_restarts += collected.engine_restarts
        self.actor_seconds.update(collected.seconds)
