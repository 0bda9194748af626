"""``r2ac inspect``: what RTRL adds to the gradients of a trained agent, and how far back they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import parse, require_runs

if TYPE_CHECKING:
    from r2ac.launch.inspection.inspect_run import InspectSettings


@dataclass(frozen=True)
class InspectArguments:
    """Take the gradients of trained agents apart: what comes from before the rollout, how far back it reaches, and for
    how long units remember. Nothing is learned; an agent that was trained by TBPTT shows what RTRL would add."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run directories (all their checkpoints) or checkpoints."""
    rollouts: int = 32
    """Rollouts of every stream; the first three quarters fill the past, the last quarter is measured."""
    streams: int = 0
    """Environments stepped together; 0: as many as a batch of the training had rollouts."""
    seed: int = 0
    """Seeds the environments and what is drawn."""
    device: str = "auto"
    """Where the agents run: cpu, cuda, cuda:1, …; auto takes the GPU where there is one."""
    output: Path | None = None
    """The figure (.png, .svg, .pdf); inspect.png in the first run if not given. Each run gets an inspect.json, each
    checkpoint that is named by itself an inspect-<step>.json (and .png)."""

    def settings(self) -> InspectSettings:
        """Raises ConfigError for the first setting that is not allowed."""
        limits = {"rollouts": (2, 10_000), "streams": (0, 10_000), "seed": (0, 2**64 - 1)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"--{name} is {value}, but it must be from {least} to {most}")
        from r2ac.launch.inspection.inspect_run import InspectSettings

        return InspectSettings(self.rollouts, self.streams, self.seed, self.device)


def inspect_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac inspect RUN_OR_CHECKPOINT … [--flags]``.

    Returns:
        0 where everything has been inspected, 1 where a part could not be, 2 where nothing could.
    """
    parsed = parse(InspectArguments, "r2ac inspect", arguments)
    require_runs(parsed.runs, "inspect")
    settings = parsed.settings()
    from r2ac.launch.inspection.inspect_runs import inspect_runs

    return inspect_runs(parsed.runs, settings, parsed.output, console)
