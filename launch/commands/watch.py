"""``r2ac watch``: a video of whole episodes of a trained agent, and a picture of what it remembers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.parser import parse
from r2ac.launch.watching.watch_config import WatchConfig


def watch_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac watch RUN_OR_CHECKPOINT [--flags]``."""
    if not arguments:
        raise ConfigError("the run is missing: r2ac watch RUN, a run directory or a checkpoint")
    parsed = parse(WatchConfig, "r2ac watch", arguments)
    from r2ac.launch.watching.watch_run import watch_run

    watch_run(parsed, console)
    return 0
