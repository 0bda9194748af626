"""``r2ac inspect``: what RTRL adds to the gradients of a trained agent, and how far back they reach."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from r2ac.launch.inspection.inspect_config import InspectConfig
from r2ac.launch.settings.flags import require_runs
from r2ac.launch.settings.parser import parse


def inspect_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac inspect RUN_OR_CHECKPOINT … [--flags]``: 1 where a part could not be inspected, 2 where nothing could."""
    parsed = parse(InspectConfig, "r2ac inspect", arguments)
    require_runs(parsed.runs, "inspect")
    parsed.check()
    from r2ac.launch.inspection.inspect_runs import inspect_runs

    return inspect_runs(parsed, console)
