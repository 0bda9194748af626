"""What a command shows while it works, and the table at its end."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

_RATE_SECONDS = 20.0
_REFRESH_SECONDS = 0.1
_UNKNOWN = "–"  # noqa: RUF001 (a dash, as it is printed)


class Progress(ABC):
    """The state of work under way: updated in place in a terminal (``transient``: until the end), in a log file plain
    lines every ``interval`` seconds. Within its context a thread refreshes it every second while no update comes; after
    ``stall_seconds`` without a step, by ``clock``, the display says so."""

    def __init__(
        self,
        console: Console,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = 60.0,
        transient: bool = False,
    ) -> None:
        self._console, self._clock, self._stall_seconds = console, clock, stall_seconds
        self._live = Live(console=console, auto_refresh=False, transient=transient) if console.is_interactive else None
        self._interval = interval if self._live is None else _REFRESH_SECONDS
        self._shown_time = -math.inf
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _log_lines(self) -> list[str]:
        """The state as lines of a log."""

    @abstractmethod
    def _display(self) -> RenderableType:
        """The state in a terminal."""

    def _stalled(self, now: float) -> object:
        """What to say of steps that have not come for ``stall_seconds``; false where there is nothing to say."""
        return None

    def tick(self) -> None:
        """Called every second: shows what stands still, if it is time to."""
        with self._lock:
            now = self._clock()
            if self._stalled(now):
                self._refresh(now)

    def _refresh(self, now: float) -> None:
        if now - self._shown_time >= self._interval:
            self._shown_time = now
            self._show()

    def _show(self) -> None:
        if self._live is not None:
            if not self._live.is_started:
                self._live.start()
            self._live.update(self._display(), refresh=True)
            return
        for line in self._log_lines():
            # A log is no table of 80 columns: one state, one line.
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def close(self) -> None:
        """Ends the display; a second call does nothing."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Self:
        if self._live is not None and self._live.transient:
            self._show()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closed.wait(1.0):
            self.tick()


@dataclass(frozen=True)
class TrainingStatus:
    """How far a training has come; ``mean_return`` is of the last 100 episodes, None before the first has ended."""

    env_steps: int = 0
    updates: int = 0
    mean_return: float | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    """Counts that should stay 0, such as skipped updates; those above 0 are shown."""
    hints: Sequence[str] = ()
    """These end the line."""


class TrainingProgress(Progress):
    """One line about a run: steps, steps/s, mean return, updates, time left, and for how long no step has come.
    ``total_steps`` include those before a resume; the first `update` says where this process begins."""

    def __init__(
        self,
        total_steps: int,
        console: Console,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = 60.0,
    ) -> None:
        super().__init__(console, interval, clock, stall_seconds)
        self._total_steps = total_steps
        self._rate = _Rate()
        self._began = clock()
        self._status: TrainingStatus | None = None
        self._shown_line = ""

    def update(self, status: TrainingStatus) -> None:
        """Take the newest status; shown if it is time to."""
        with self._lock:
            now = self._clock()
            self._rate.add(now, status.env_steps)
            self._status = status
            self._refresh(now)

    def close(self) -> None:
        """Shows the last state, if it was not shown, and leaves the line standing."""
        with self._lock:
            if self._line() != self._shown_line:
                self._show()
        super().close()

    def _stalled(self, now: float) -> float:
        """Seconds without a step, 0 where they are fewer than ``stall_seconds``."""
        silent = now - (self._began if self._rate.newest is None else self._rate.newest)
        return silent if silent >= self._stall_seconds else 0.0

    def _refresh(self, now: float) -> None:
        # A log need not have a line every ten seconds of a night in which nothing comes.
        if self._live is not None or now - self._shown_time >= self._stalled(now) / 10:
            super()._refresh(now)

    def _line(self) -> str:
        now = self._clock()
        stalled = self._stalled(now)
        hints = (self._status.hints if self._status else ()) or ([f"no step for {stalled:,.0f} s"] if stalled else [])
        return "  ".join([*self._describe(now), *hints])

    def _describe(self, now: float) -> list[str]:
        status, total = self._status, self._total_steps
        if status is None:
            return []
        rate, mean_return = self._rate.at(now), status.mean_return
        left = (total - status.env_steps) / rate if rate else None
        share = min(status.env_steps / total, 1.0) if total else 1.0
        return [
            # Rounded down: 100 % means done.
            f"{math.floor(100 * share):3d}%",
            f"{short_count(status.env_steps):>5}/{short_count(total)} steps",
            f"{_UNKNOWN if rate is None else short_count(rate):>5} steps/s",
            f"return {_UNKNOWN if mean_return is None else number_text(mean_return, 2)}",
            f"{short_count(status.updates)} updates",
            f"{_UNKNOWN if left is None else _duration(left)} left",
            *(f"{name} {count:,}" for name, count in status.notes.items() if count > 0),
        ]

    def _log_lines(self) -> list[str]:
        self._shown_line = self._line()
        return [self._shown_line]

    def _display(self) -> RenderableType:
        (line,) = self._log_lines()
        text = Column(no_wrap=True, overflow="ellipsis")
        if self._console.width < 26 + len(line):
            # The numbers say more than the bar.
            table = Table.grid(text)
            table.add_row(Text(line))
        else:
            steps, total = self._status.env_steps if self._status else 0, self._total_steps
            table = Table.grid(Column(width=24), text, padding=(0, 1, 0, 0))
            table.add_row(ProgressBar(total=max(total, 1), completed=min(steps, total)), Text(line))
        return table


class _Rate:
    """Steps per second: an exponential mean over time, unbiased from the first interval on. Time counts once steps have
    come in it, so that the time left does not grow without bound while none come."""

    def __init__(self) -> None:
        self.newest: float | None = None  # when the newest steps came
        self._last_steps = 0
        self._longest = _RATE_SECONDS
        self._steps = 0.0
        self._seconds = 0.0

    def add(self, now: float, env_steps: int) -> None:
        if self.newest is None:
            self.newest, self._last_steps = now, env_steps
        elif env_steps != self._last_steps:
            seconds = now - self.newest
            decay = math.exp(-seconds / _RATE_SECONDS)
            self._steps = decay * self._steps + env_steps - self._last_steps
            self._seconds = decay * self._seconds + seconds
            self._longest = max(_RATE_SECONDS, 3 * seconds)
            self.newest, self._last_steps = now, env_steps

    def at(self, now: float) -> float | None:
        """None before any time has passed, and where the next steps are long overdue."""
        if self.newest is None or self._seconds == 0 or now - self.newest > self._longest:
            return None
        return self._steps / self._seconds


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


def number_text(number: float, decimals: int = 3) -> str:
    """``0.985``, ``1,234.500``; three significant digits of what is so small that decimals would hide it, and larger
    than an error of rounding: ``0.000152``."""
    hidden = 1e-9 < abs(number) < 10.0 ** (1 - decimals)
    return f"{number:.3g}" if hidden else f"{number:,.{decimals}f}"


def spread_text(mean: float, deviation: float | None, decimals: int = 3, between: str = " ± ") -> str:
    """``0.985 ± 0.010``, or the mean alone; both with as many decimals, but where the mean is so small that they would
    hide it."""
    text = number_text(mean, decimals)
    if deviation is None:
        return text
    small = text != f"{mean:,.{decimals}f}"
    return text + between + (number_text(deviation, decimals) if small else f"{deviation:,.{decimals}f}")


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
