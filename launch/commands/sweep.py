"""``r2ac sweep``: trainings with many seeds and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console

from r2ac.launch.runs.run_directory import new_directory
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.parser import parse_known
from r2ac.launch.settings.places import local_path
from r2ac.launch.sweeps.sweep_plan import default_sweep_directory, make_plan, read_plan
from r2ac.launch.sweeps.sweep_settings import CHANGEABLE, SweepSettings


def sweep_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac sweep TASK --vary NAME=VALUES … [--flags]`` or ``r2ac sweep --resume DIR [--flags]``."""
    rest = list(arguments)
    if not rest:
        raise ConfigError("the task is missing: r2ac sweep TASK --vary NAME=VALUES, such as --vary seed=1,2,3")
    if rest[0] in ("-h", "--help"):
        _parse(["--help"])
    if any(word == "--resume" or word.startswith("--resume=") for word in rest):
        if rest[0] != "--resume" or len(rest) < 2 or rest[1].startswith("-"):
            raise ConfigError("--resume comes first, with the sweep's directory: r2ac sweep --resume DIR [--flags]")
        return _resume(local_path(rest[1]).absolute(), rest[2:], console)
    if rest[0].startswith("-"):
        raise ConfigError("the task comes first, then the flags, such as r2ac sweep memory/tmaze --vary seed=1,2,3")
    settings, flags = _parse(rest[1:])
    from r2ac.launch.sweeps.run import run_sweep

    if settings.sweep_dir is None:
        with new_directory(default_sweep_directory(rest[0])) as path:
            return run_sweep(make_plan(rest[0], flags, replace(settings, sweep_dir=path)), console)
    plan = make_plan(rest[0], flags, settings)
    if plan.description.exists():
        raise RunDirectoryError(
            f"{plan.sweep_dir} already holds a sweep; r2ac sweep --resume {plan.sweep_dir} goes on with it"
        )
    return run_sweep(plan, console)


def _resume(path: Path, arguments: list[str], console: Console) -> int:
    def change(begun: SweepSettings) -> SweepSettings:
        settings, flags = _parse(arguments, begun)
        changed = [f.name for f in fields(settings) if getattr(settings, f.name) != getattr(begun, f.name)]
        if flags or not CHANGEABLE.issuperset(changed) or settings.sweep_dir != path:
            allowed = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(CHANGEABLE - {"sweep_dir"}))
            raise ConfigError(f"a sweep goes on as it began: with --resume only {allowed} can be given")
        return settings

    plan = read_plan(path, change)
    from r2ac.launch.sweeps.run import run_sweep

    return run_sweep(plan, console)


def _parse(arguments: Sequence[str], default: SweepSettings | None = None) -> tuple[SweepSettings, list[str]]:
    """The settings of the sweep, and what is left for r2ac train."""
    return parse_known(SweepSettings, "r2ac sweep TASK", arguments, default or SweepSettings())
