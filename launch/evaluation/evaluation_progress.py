"""What an evaluation shows while it plays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from r2ac.launch.evaluation.evaluate import UnitReport
from r2ac.launch.evaluation.workers import Unit
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.runtime.progress import Progress

# Before that the beginning of all episodes would be taken for their rate.
_FIRST_ESTIMATE = 3.0
# So many times the mean length of those that have ended, an episode is a long one.
_LONG = 3
# Without the end of an episode, after which a limit is suggested.
_SUGGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Amount:
    """The episodes of one result: all, and those on file (``done``)."""

    label: str
    total: int
    done: int


def expected_time(parts: Sequence[tuple[Path, int]]) -> str | None:
    """``about 0:01:30``: what episodes would take that are as long, and played as fast, as when the runs were last
    measured in training. ``parts`` are run directories, and how many episodes are to be played with the agent of each.
    ``at least 0:01:30`` where some runs have no such metrics; None where nothing is known."""
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


class EpisodeProgress(Progress):
    """Counts the episodes, or ``what`` else, of one agent: a bar in a terminal, elsewhere a plain line every
    ``interval`` seconds."""

    def __init__(self, console: Console, label: str, interval: float = 10.0, what: str = "episodes") -> None:
        super().__init__(console, interval, transient=True)
        self._label, self._what, self._played, self._total = label, what, 0, 0
        self._shown_time = time.monotonic()
        self._bars = _bars(console, TextColumn(what), TimeRemainingColumn())
        self._bar = self._bars.add_task(label, total=None)

    def update(self, played: int, total: int) -> None:
        """``played`` of ``total`` have ended."""
        self._played, self._total = played, total
        self._refresh(self._clock())

    def _log_lines(self) -> list[str]:
        return [f"{self._label}: {self._played:,}/{self._total:,} {self._what}"]

    def _display(self) -> RenderableType:
        self._bars.update(self._bar, completed=self._played, total=self._total)
        return self._bars


class EvaluationProgress(Progress):
    """A bar for each result under way and one for all; in a log plain lines. Both estimate the time left (from the
    steps of the episodes left, as long as those of their task that have ended, at the rate so far), the length of the
    longest episode where it is far longer than those, and the seeds without a step for ``stall_seconds``."""

    def __init__(
        self,
        console: Console,
        amounts: Sequence[Amount],
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = 60.0,
    ) -> None:
        super().__init__(console, interval, clock, stall_seconds, transient=True)
        self._amounts = amounts
        self._reports: dict[Unit, UnitReport] = {}
        self._moved: dict[Unit, float] = {}
        self._began: float | None = None
        self._last_end = 0.0
        self._logged = [amount.done for amount in amounts]
        self._bars = _bars(console, TextColumn("episodes{task.fields[remarks]}", markup=False))
        self._all = self._bars.add_task("all", total=sum(amount.total for amount in amounts))
        self._rows = [self._bars.add_task(amount.label, total=amount.total, remarks="") for amount in amounts]

    def update(self, unit: Unit, report: UnitReport) -> None:
        """A unit has come so far, or is (back) at its beginning."""
        with self._lock:
            now = self._clock()
            if self._began is None:
                self._began = self._last_end = now
                if self._live is None:
                    self._shown_time = now + _FIRST_ESTIMATE - self._interval
            before = self._reports.get(unit, UnitReport())
            if report.steps != before.steps or unit not in self._moved:
                self._moved[unit] = now
            if report.played > before.played:
                self._last_end = now
            self._reports[unit] = report
            self._refresh(now)

    def _log_lines(self) -> list[str]:
        played, before = self._played(), self._logged
        self._logged = played
        lines = [
            f"{amount.label}: {number:,}/{amount.total:,} episodes"
            for amount, number, logged in zip(self._amounts, played, before, strict=True)
            if number != logged
        ]
        total = sum(amount.total for amount in self._amounts)
        return [*lines, f"all: {sum(played):,}/{total:,} episodes{self._remarks()}"]

    def _display(self) -> RenderableType:
        played = self._played()
        begun = {unit.row for unit in self._reports}
        begun -= {unit.row for unit, report in self._reports.items() if report.failure is not None}
        for row, (amount, number) in enumerate(zip(self._amounts, played, strict=True)):
            self._bars.update(self._rows[row], completed=number, visible=row in begun and number < amount.total)
        self._bars.update(self._all, completed=sum(played), remarks=self._remarks())
        return self._bars

    def _remarks(self) -> str:
        """What ends the line about all results: the time left, long episodes, seeds that stand still."""
        now = self._clock()
        stalled = self._stalled(now)
        left = None if stalled or self._played() == [a.total for a in self._amounts] else self.seconds_left()
        remarks = "" if left is None else f", about {_time(left)} left"
        return remarks + "".join(f"; {hint}" for hint in (*self._long_episodes(now), *stalled))

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


def _bars(console: Console, *columns: ProgressColumn) -> Bars:
    name = TextColumn("{task.description}", markup=False)
    return Bars(name, BarColumn(), MofNCompleteColumn(), *columns, console=console)
