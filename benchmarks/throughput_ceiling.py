"""The most that a training system can reach, from what its parts reach alone: for throughput.py.

Where environments, inference and learner share the cores, each step costs core-seconds of all three, and the cores have
only so many of them a second:

    ceiling = cores / (e + i + l)       e, i, l: core-seconds that a step costs in the environment, inference, learner

which is 1/(1/b + 1/i + 1/c) with the steps a second that each part would reach on all cores. That takes for granted
that every part can use every core at every moment. Cores that are dealt out, so many for the learner and the others
for environments and inference, reach what the slower side reaches, at the best split. Where the learner has a GPU to
itself, the slower of the two sides is the ceiling.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parts:
    """Steps a second of the parts, each alone on the machine."""

    environment: float
    """Of one process for each actor."""
    inference: float
    """Of one thread."""
    learner: float
    """On all cores, or on the GPU."""
    learner_alone: float
    """On one thread; where a learner's updates are small, threads do not help it."""
    actors: int
    cores: int
    shared: bool
    """Whether the learner runs on the same cores."""

    def ceiling(self, with_inference: bool = True) -> float:
        """Steps a second that no system of these parts can exceed; inference counts as costless where asked to."""
        acting = min(self.actors, self.cores) / self.environment + (1 / self.inference if with_inference else 0)
        if not self.shared:
            return min(self.learner, self.cores / acting)
        learning = min(self.cores / self.learner, 1 / self.learner_alone)
        return self.cores / (acting + learning)

    def split(self) -> float:
        """Steps a second of the slower side where the learner has some of the cores for itself and the actors, with
        their inference, the others, at the best split; min(share of the environments, learner)."""
        acting = min(self.actors, self.cores) / self.environment + 1 / self.inference
        if not self.shared:
            return min(self.learner, min(self.actors, self.cores) / acting)
        if self.cores == 1:
            return self.ceiling()
        learners = [min(k * self.learner_alone, max(self.learner, self.learner_alone)) for k in range(1, self.cores)]
        actors = [min(self.actors, self.cores - k) / acting for k in range(1, self.cores)]
        return max(map(min, learners, actors))

    @property
    def slower_side(self) -> float:
        """The slower of environment and learner, each with all cores to itself."""
        return min(self.environment, max(self.learner, self.learner_alone))


def median_ratio(over: Sequence[float | None], under: Sequence[float | None]) -> float | None:
    """Median over the rounds of the ratio in a round; None where no round has both."""
    ratios = [a / b for a, b in zip(over, under, strict=True) if a is not None and b is not None]
    return statistics.median(ratios) if ratios else None
