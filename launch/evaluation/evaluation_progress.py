"""What an evaluation shows while it plays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from r2ac.launch.evaluation.workers import Unit, UnitReport
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.runtime.progress import Ticker

# Before that the beginning of all episodes would be taken for their rate.
_FIRST_ESTIMATE = 3.0
# So many times the mean length of those that have ended, an episode is a long one.
_LONG = 3
# Without the end of an episode, after which a limit is suggested.
_SUGGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Amount:
    """What is to be played of one result."""

    label: str
    total: int
    """Episodes in all."""
    done: int
    """Those on file."""


def expected_time(parts: Sequence[tuple[Path, int]]) -> str | None:
    """What episodes would take that are as long, and played as fast, as when the runs were last measured in training:
    a rough estimate before anything is played.

    Args:
        parts: run directories, and how many episodes are to be played with the agent of each.

    Returns:
        ``about 0:01:30``; ``at least 0:01:30`` where some runs have no such metrics; None where nothing is known.
    """
    paces = {run: _seconds_per_episode(run) for run, _ in parts}
    known = [episodes * pace for run, episodes in parts if (pace := paces[run]) is not None]
    if not known:
        return None
    if len(known) < len(parts):
        return f"at least {_time(sum(known))}" if sum(known) >= 1 else None
    return f"about {_time(sum(known))}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds >= 1.5 else "a second"


def _seconds_per_episode(run: Path) -> float | None:
    try:
        rows = read_metrics(run)
    except RunDirectoryError:
        return None
    for row in reversed(rows):
        length, speed = row.get("episode_length"), row.get("throughput/steps_per_second")
        if length and speed:
            return float(length) / float(speed)
    return None


class EvaluationProgress:
    """A bar for each result under way and one for all; elsewhere than in a terminal plain lines every ``interval``
    seconds. Both say how much time is left, roughly: so many steps as the episodes that are left would take if they
    were as long as those of their task that have ended, at the rate so far. ``clock`` gives seconds.

    Both say how long the longest episode has got where it is far longer than those that have ended. Within its context
    a thread looks after them: they say which seed has had no step for ``stall_seconds``.
    """

    def __init__(
        self,
        console: Console,
        amounts: Sequence[Amount],
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = 60.0,
    ) -> None:
        self._console, self._amounts, self._interval, self._clock = console, amounts, interval, clock
        self._stall_seconds = stall_seconds
        self._moved: dict[Unit, float] = {}
        self._last_end = 0.0
        self._lock = threading.RLock()
        self._ticker: Ticker | None = None
        self._reports: dict[Unit, UnitReport] = {}
        self._shown: dict[int, int] = {}
        self._began: float | None = None
        self._next_line = 0.0
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        totals = sum(amount.total for amount in amounts), sum(amount.done for amount in amounts)
        self._all = self._bars.add_task("all", total=totals[0], completed=totals[1], left="")
        self._rows = [
            self._bars.add_task(amount.label, total=amount.total, completed=amount.done, left="", visible=False)
            for amount in amounts
        ]

    def update(self, unit: Unit, report: UnitReport) -> None:
        """A unit has come so far, or is (back) at its beginning."""
        with self._lock:
            now = self._clock()
            if self._began is None:
                self._began = self._last_end = now
                self._next_line = now + _FIRST_ESTIMATE
            before = self._reports.get(unit, UnitReport())
            if report.steps != before.steps or unit not in self._moved:
                self._moved[unit] = now
            if report.played > before.played:
                self._last_end = now
            self._reports[unit] = report
            self._show(now)

    def tick(self) -> None:
        """Called again and again: shows which seeds stand still, if it is time to."""
        with self._lock:
            now = self._clock()
            if self._stalled(now):
                self._show(now)

    def _show(self, now: float) -> None:
        played = self._played()
        total, done = sum(amount.total for amount in self._amounts), sum(played)
        begun = {unit.row for unit in self._reports}
        begun -= {unit.row for unit, report in self._reports.items() if report.failure is not None}
        for row, (amount, number) in enumerate(zip(self._amounts, played, strict=True)):
            self._bars.update(self._rows[row], completed=number, visible=row in begun and number < amount.total)
        stalled = self._stalled(now)
        left = None if stalled else self.seconds_left()
        words = "" if left is None or done == total else f", about {_time(left)} left"
        words += "".join(f"; {hint}" for hint in (*self._long_episodes(now), *stalled))
        self._bars.update(self._all, completed=done, left=words)
        if self._console.is_interactive or now < self._next_line:
            return
        self._next_line = now + self._interval
        for row, (amount, number) in enumerate(zip(self._amounts, played, strict=True)):
            if number != self._shown.get(row, amount.done):
                self._print(f"{amount.label}: {number:,}/{amount.total:,} episodes")
            self._shown[row] = number
        self._print(f"all: {done:,}/{total:,} episodes{words}")

    def _stalled(self, now: float) -> list[str]:
        """The seeds under way that have had no step for long."""
        return [
            f"no step of {self._amounts[unit.row].label}, seed {unit.seed}, for {now - since:,.0f} s"
            for unit, since in self._moved.items()
            if not self._reports[unit].ended and now - since >= self._stall_seconds
        ]

    def _long_episodes(self, now: float) -> list[str]:
        """How long the longest episode has got, where that is news."""
        reports = self._reports.values()
        ended = sum(report.played for report in reports)
        mean = sum(report.ended_steps for report in reports) / ended if ended else 0.0
        unit, longest = max(
            ((unit, report.longest) for unit, report in self._reports.items() if not report.ended),
            key=lambda pair: pair[1],
            default=(None, 0),
        )
        if unit is None or longest <= _LONG * mean or now - (self._began or now) < _FIRST_ESTIMATE:
            return []
        hints = [f"longest episode so far {longest:,} steps"]
        if now - self._last_end >= _SUGGEST_SECONDS and not unit.evaluation.environment.max_episode_steps:
            hints.append("--max-episode-steps N would cut episodes off")
        return hints

    def seconds_left(self) -> float | None:
        """A rough estimate; None before any episode has ended."""
        elapsed = 0.0 if self._began is None else self._clock() - self._began
        steps, ended = sum(r.steps for r in self._reports.values()), sum(r.played for r in self._reports.values())
        if elapsed < _FIRST_ESTIMATE or not steps or not ended:
            return None
        overall = sum(report.ended_steps for report in self._reports.values()) / ended
        expected = 0.0
        for row, amount in enumerate(self._amounts):
            own = [report for unit, report in self._reports.items() if unit.row == row]
            played = sum(report.played for report in own)
            length = sum(report.ended_steps for report in own) / played if played else overall
            if not any(report.failure for report in own):
                expected += (amount.total - amount.done) * length
        return max(expected - steps, 0.0) / (steps / elapsed)

    def _played(self) -> list[int]:
        """Episodes of each result, those on file included."""
        played = [amount.done for amount in self._amounts]
        for unit, report in self._reports.items():
            played[unit.row] += report.played
        return played

    def _print(self, line: str) -> None:
        # A log is no table of 80 columns: one state, one line.
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def __enter__(self) -> EvaluationProgress:
        self._bars.start()
        self._ticker = Ticker(self.tick)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ticker is not None:
            self._ticker.close()
        self._bars.stop()
