"""``r2ac bench``: how many actors, streams and threads are fast here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import take_flag, training_config

if TYPE_CHECKING:
    from r2ac.launch.train.bench import BenchTrial

HELP = """\
usage: r2ac bench TASK [--bench-seconds 60] [--trial-seconds 4] [flags of r2ac train TASK]

Trains for some seconds with other numbers of rollout actors, streams and threads of the learner, and prints the flags
that were fastest on this machine. Nothing is written. Where an update takes seconds, give it more time. The flags of
r2ac train say what is trained, and where the search begins. More streams make the weights behind a rollout older
(policy lag): see what a training makes of it.
"""


def bench_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac bench TASK [--flags]``."""
    rest = list(arguments)
    if not rest or rest[0] in ("-h", "--help"):
        console.print(HELP, markup=False, end="", soft_wrap=True)
        return 0 if rest else 2
    budget, seconds = _seconds(rest, "--bench-seconds", 60), _seconds(rest, "--trial-seconds", 4)
    if not rest or rest[0].startswith("-"):
        raise ConfigError("the task comes first, then the flags, such as r2ac bench memory/tmaze --bench-seconds 120")
    config = training_config(rest[0], rest[1:])
    # A search is over before any of these is due.
    config = replace(config, total_steps=10**12, checkpoint_minutes=0.0)
    config.check()
    from r2ac.launch.train.bench import fastest, search

    trials = []
    for trial in search(config, budget, seconds):
        trials.append(trial)
        console.print(f"{trial.flags()}: {trial.steps_per_second:,.0f} steps/s", markup=False, soft_wrap=True)
    best = fastest(trials)
    console.print(_table(trials, best))
    for flag in best.flags().split()[::2]:
        take_flag(rest, flag)
    console.print(f"r2ac train {shlex.join(rest)} {best.flags()}", markup=False, soft_wrap=True)
    return 0


def _seconds(arguments: list[str], flag: str, default: float) -> float:
    text = take_flag(arguments, flag)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ConfigError(f"{flag} is {text}, but it must be a number of seconds above 0")
    return value


def _table(trials: Sequence[BenchTrial], best: BenchTrial) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("actors", "streams each", "learner threads", "steps/s", "learner waits", "actors wait", ""):
        table.add_column(name, justify="right")
    for trial in sorted(trials, key=lambda trial: -trial.steps_per_second):
        config = trial.config
        counts = map(str, (config.num_actors, config.streams_per_actor, config.learner_threads))
        waits = "–" if trial.actor_wait is None else f"{trial.actor_wait:.0%}"  # noqa: RUF001
        shares = (f"{trial.steps_per_second:,.0f}", f"{trial.learner_wait:.0%}", waits)
        table.add_row(*counts, *shares, "fastest" if trial is best else "")
    return table
