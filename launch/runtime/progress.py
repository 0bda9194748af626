"""What a training run shows while it runs, and the table at its end."""

from __future__ import annotations

import math
import threading
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


class Ticker:
    """Calls ``tick`` every second, on a thread of its own, until it is closed: also while the main thread waits for
    something that does not come back, unless that keeps Python's lock."""

    def __init__(self, tick: Callable[[], object]) -> None:
        self._tick = tick
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits for the last call."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(1.0):
            self._tick()


class Progress:
    """One line about a run: steps, steps/s, mean return, updates, time left.

    In a terminal the line is updated in place; elsewhere (a log file) a plain line is printed every ``interval``
    seconds. ``total_steps`` is where the run ends, counted from its first beginning: the first `update` says where
    this process begins, so that the rate and the time left are right after a resume. The rate is an exponential mean
    over about the last 20 seconds. ``clock`` gives seconds.

    Within its context a thread looks after the line: where no step has come for ``stall_seconds``, the line says for
    how long.
    """

    def __init__(
        self,
        total_steps: int,
        console: Console,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = 60.0,
    ) -> None:
        self._total_steps = total_steps
        self._console = console
        self._clock, self._stall_seconds = clock, stall_seconds
        self._live = Live(console=console, auto_refresh=False) if console.is_interactive else None
        self._interval = interval if self._live is None else _REFRESH_SECONDS
        self._rate = _Rate()
        self._began = clock()
        self._env_steps = 0
        self._state: Callable[[float], str] = lambda now: ""
        self._hints: Sequence[str] = ()
        self._line = ""
        self._shown_line = ""
        self._shown_time = -math.inf
        self._lock = threading.RLock()
        self._ticker: Ticker | None = None

    def update(
        self,
        env_steps: int,
        updates: int,
        mean_return: float | None = None,
        notes: Mapping[str, int] | None = None,
        hints: Sequence[str] = (),
    ) -> None:
        """The run has come to ``env_steps`` and ``updates``; shown if it is time to.

        ``mean_return`` is the mean of the last 100 episodes, None before the first has ended. ``notes`` are counts
        that should stay 0, such as skipped updates; those above 0 are shown. ``hints`` end the line.
        """
        with self._lock:
            now = self._clock()
            self._rate.add(now, env_steps)
            self._env_steps, self._hints = env_steps, hints
            self._state = lambda at: self._describe(at, env_steps, updates, mean_return, notes or {})
            self._refresh(now)

    def tick(self) -> None:
        """Called again and again: shows the line if nothing has come for long, and it is time to."""
        with self._lock:
            now = self._clock()
            if self._stalled(now):
                self._refresh(now)

    def close(self) -> None:
        """Shows the last state, if it was not shown, and leaves the line standing; a second call does nothing."""
        if self._ticker is not None:
            self._ticker.close()
            self._ticker = None
        if self._line != self._shown_line:
            self._show()
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Progress:
        self._ticker = Ticker(self.tick)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _stalled(self, now: float) -> float:
        """Seconds without a step, 0 where they are fewer than ``stall_seconds``."""
        silent = now - (self._began if self._rate.newest is None else self._rate.newest)
        return silent if silent >= self._stall_seconds else 0.0

    def _refresh(self, now: float) -> None:
        stalled = self._stalled(now)
        hints = self._hints or ([f"no step for {stalled:,.0f} s"] if stalled else [])
        self._line = "  ".join([part for part in (self._state(now), *hints) if part])
        # A log need not have a line every ten seconds of a night in which nothing comes.
        if now - self._shown_time >= max(self._interval, 0.0 if self._live else stalled / 10):
            self._shown_time = now
            self._show()

    def _describe(
        self, now: float, env_steps: int, updates: int, mean_return: float | None, notes: Mapping[str, int]
    ) -> str:
        rate = self._rate.at(now)
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
    """Steps per second: an exponential mean over time, unbiased from the first interval on. Time counts once steps
    have come in it: a rate that sank while one waits for the next ones would let the time left grow without bound."""

    def __init__(self) -> None:
        self.newest: float | None = None
        """When the newest steps came."""
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
