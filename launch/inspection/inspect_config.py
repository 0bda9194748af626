"""What ``r2ac inspect`` plays and writes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated

import tyro

from r2ac.launch.settings.config import require
from r2ac.launch.settings.flags import check_ranges


@dataclass(frozen=True)
class InspectConfig:
    """Take the gradients of trained agents apart: what comes from before the rollout, how far back it reaches, and for
    how long units remember. Nothing is learned; an agent that was trained by TBPTT shows what RTRL would add."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN …")] = ()
    """Run directories (all their checkpoints) or checkpoints."""
    rollouts: int = 32
    """Rollouts of every stream; the first three quarters fill the past, the last quarter is measured."""
    streams: int = 0
    """Environments stepped together; 0: as many as a batch of the training had rollouts."""
    staleness: bool = False
    """Also go on with the training for some updates, of which nothing is written, and compare the gradient by the
    sensitivities that are carried along with the exact one at the present parameters."""
    updates: int = 32
    """With --staleness: updates that are made."""
    history: int = 32
    """With --staleness: rollouts of every stream from which the exact gradient is computed; they should reach back to
    the beginning of the episode, or as far as the memory does."""
    learning_rate: float = 0.0
    """With --staleness: the learning rate of these updates; 0: that of the run's first update."""
    seed: int = 0
    """Seeds the environments and what is drawn."""
    device: str = "auto"
    """Where the agents run: cpu, cuda, cuda:1, …; auto takes the GPU where there is one."""
    output: Path | None = None
    """The figure (.png, .svg, .pdf); inspect.png in the first run if not given. Each run gets an inspect.json, each
    checkpoint that is named by itself an inspect-<step>.json (and .png)."""

    @property
    def warm_up(self) -> int:
        """Rollouts before the first that is measured."""
        return self.rollouts - max(1, self.rollouts // 4)

    @property
    def played(self) -> int:
        """Rollouts of a checkpoint, all in all."""
        return self.rollouts + (self.history + self.updates + 1 if self.staleness else 0)

    def check(self) -> None:
        """Raise ConfigError for the first setting that is not allowed."""
        ranges = {"rollouts": (2, 10_000), "streams": (0, 10_000), "updates": (1, 10_000), "history": (1, 10_000)}
        check_ranges(self, {**ranges, "seed": (0, 2**64 - 1)})
        require(0 <= self.learning_rate < inf, "learning_rate", self.learning_rate, "at least 0 and finite")
