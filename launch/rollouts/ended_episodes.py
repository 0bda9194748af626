"""The episodes that ended while rollouts were collected, as they travel to the learner."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Episodes:
    """Whole episodes (games, where the agent's episodes are lives) in the order in which they ended."""

    returns: list[float] = field(default_factory=list)
    """Sums of the rewards as the environment gave them."""
    lengths: list[int] = field(default_factory=list)
    """Steps."""
    tasks: list[str] = field(default_factory=list)
    """Full names."""

    def extend(self, others: Episodes) -> None:
        """Add those that ended after these."""
        self.returns.extend(others.returns)
        self.lengths.extend(others.lengths)
        self.tasks.extend(others.tasks)
