"""What a training run shows while it runs, and the table at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

_RATE_SECONDS = 20.0
_REFRESH_SECONDS = 0.1
_UNKNOWN = "–"  # noqa: RUF001 (a dash, as it is printed)


class Progress:
    """One line about a run: steps, steps/s, mean return, updates, time left.

    In a terminal the line is updated in place; elsewhere (a log file) a plain line is printed every ``interval``
    seconds. ``total_steps`` is where the run ends, counted from its first beginning: the first `update` says where
    this process begins, so that the rate and the time left are right after a resume. The rate is an exponential mean
    over about the last 20 seconds. ``clock`` gives seconds.
    """

    def __init__(
        self,
        total_steps: int,
        console: Console,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_steps = total_steps
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False) if console.is_interactive else None
        self._interval = interval if self._live is None else _REFRESH_SECONDS
        self._rate = _Rate()
        self._env_steps = 0
        self._line = ""
        self._shown_line = ""
        self._shown_time = -math.inf

    def update(
        self,
        env_steps: int,
        updates: int,
        mean_return: float | None = None,
        notes: Mapping[str, int] | None = None,
    ) -> None:
        """The run has come to ``env_steps`` and ``updates``; shown if it is time to.

        ``mean_return`` is the mean of the last 100 episodes, None before the first has ended. ``notes`` are counts
        that should stay 0, such as skipped updates; those above 0 are shown.
        """
        now = self._clock()
        self._rate.add(now, env_steps)
        self._env_steps = env_steps
        self._line = self._describe(env_steps, updates, mean_return, notes or {})
        if now - self._shown_time >= self._interval:
            self._shown_time = now
            self._show()

    def close(self) -> None:
        """Shows the last state, if it was not shown, and leaves the line standing; a second call does nothing."""
        if self._line != self._shown_line:
            self._show()
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _describe(self, env_steps: int, updates: int, mean_return: float | None, notes: Mapping[str, int]) -> str:
        rate = self._rate.per_second
        left = (self._total_steps - env_steps) / rate if rate else None
        share = min(env_steps / self._total_steps, 1.0) if self._total_steps else 1.0
        parts = [
            # Rounded down: 100 % means done.
            f"{math.floor(100 * share):3d}%",
            f"{short_count(env_steps):>5}/{short_count(self._total_steps)} steps",
            f"{_UNKNOWN if rate is None else short_count(rate):>5} steps/s",
            f"return {_UNKNOWN if mean_return is None else format(mean_return, ',.2f')}",
            f"{short_count(updates)} updates",
            f"{_UNKNOWN if left is None else _duration(left)} left",
        ]
        parts += [f"{name} {count:,}" for name, count in notes.items() if count > 0]
        return "  ".join(parts)

    def _show(self) -> None:
        self._shown_line = self._line
        if self._live is None:
            # A log is no table of 80 columns: one state, one line.
            self._console.print(self._line, soft_wrap=True, markup=False, highlight=False)
            return
        table = Table.grid(Column(width=24), Column(no_wrap=True, overflow="ellipsis"), padding=(0, 1, 0, 0))
        bar = ProgressBar(total=max(self._total_steps, 1), completed=min(self._env_steps, self._total_steps))
        if self._console.width >= 26 + len(self._line):
            table.add_row(bar, Text(self._line))
        else:
            # The numbers say more than the bar.
            table = Table.grid(Column(no_wrap=True, overflow="ellipsis"))
            table.add_row(Text(self._line))
        if not self._live.is_started:
            self._live.start()
        self._live.update(table, refresh=True)


class _Rate:
    """Steps per second: an exponential mean over time, unbiased from the first interval on."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._steps = 0.0
        self._seconds = 0.0

    def add(self, now: float, env_steps: int) -> None:
        if self._last is not None:
            seconds = now - self._last[0]
            decay = math.exp(-seconds / _RATE_SECONDS)
            self._steps = decay * self._steps + env_steps - self._last[1]
            self._seconds = decay * self._seconds + seconds
        self._last = (now, env_steps)

    @property
    def per_second(self) -> float | None:
        """None before any time has passed."""
        return self._steps / self._seconds if self._seconds > 0 else None


def print_table(
    console: Console,
    title: str,
    rows: Sequence[tuple[str, object]],
    paths: Mapping[str, Path | str] | None = None,
) -> None:
    """A title, two columns (name, value) and below them the paths, which stay on one line each however long."""
    console.print(Text(title, style="bold"))
    table = Table.grid(Column(style="dim"), Column(), padding=(0, 2, 0, 0))
    width = max((len(name) for name in [*(name for name, _ in rows), *(paths or {})]), default=0)
    for name, value in rows:
        table.add_row(Text(f"  {name:<{width}}"), Text(str(value)))
    if rows:
        console.print(table)
    for name, path in (paths or {}).items():
        line = Text.assemble((f"  {name:<{width}}  ", "dim"), str(path))
        console.print(line, soft_wrap=True)


def short_count(number: float) -> str:
    """Three significant digits with a unit: 950, 1.5k, 12.3M, 2B."""
    # Rounded first: 999,999 is 1M and not 1000k.
    rounded = float(f"{number:.3g}")
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(rounded) >= size:
            return f"{rounded / size:.6g}{unit}"
    return f"{rounded:g}"


def _duration(seconds: float) -> str:
    """h:mm:ss, with days before it where there are any; 0:00:00 for less than nothing."""
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"
