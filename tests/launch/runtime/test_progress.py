"""The live line: right numbers, one line in a terminal, plain lines in a log."""

import io
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from r2ac.launch.runtime.progress import (
    TrainingProgress,
    TrainingStatus,
    number_text,
    print_table,
    short_count,
    spread_text,
)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def log_console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=False, width=40), out


def terminal_console(monkeypatch: pytest.MonkeyPatch, width: int = 140) -> tuple[Console, io.StringIO]:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    return Console(file=out, force_terminal=True, force_interactive=True, width=width), out


def last_line(steps: list[tuple[float, int]], total_steps: int = 10_000) -> str:
    """The last line of a log when ``(seconds, env_steps)`` are told in turn."""
    console, out = log_console()
    clock = Clock()
    with TrainingProgress(total_steps, console, clock=clock) as progress:
        for seconds, env_steps in steps:
            clock.now = seconds
            progress.update(TrainingStatus(env_steps, updates=3))
    return out.getvalue().splitlines()[-1]


def test_a_log_gets_one_whole_line_an_interval_and_the_last_state() -> None:
    console, out = log_console()
    clock = Clock()
    with TrainingProgress(1000, console, interval=10.0, clock=clock) as progress:
        for second in range(26):
            clock.now = 100.0 + second
            progress.update(TrainingStatus(40 * second, updates=second, mean_return=0.5))
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["0/1k", "400/1k", "800/1k", "1k/1k"]
    assert " ".join(lines[1].split()) == "40% 400/1k steps 40 steps/s return 0.50 10 updates 0:00:15 left"
    assert "\x1b" not in out.getvalue()


def test_closing_twice_or_unused_prints_nothing_more() -> None:
    console, out = log_console()
    TrainingProgress(1000, console).close()
    assert out.getvalue() == ""
    progress = TrainingProgress(1000, console)
    progress.update(TrainingStatus(10, 1))
    progress.close()
    progress.close()
    assert len(out.getvalue().splitlines()) == 1


def test_what_is_not_known_yet_is_a_dash() -> None:
    line = last_line([(0.0, 0)])
    assert re.search(r"– steps/s  return –  3 updates  – left", line)  # noqa: RUF001


def test_after_a_resume_the_rate_counts_only_this_process() -> None:
    line = last_line([(0.0, 9_000), (1.0, 9_010), (2.0, 9_020)])
    assert " ".join(line.split()) == "90% 9.02k/10k steps 10 steps/s return – 3 updates 0:01:38 left"  # noqa: RUF001


def test_the_rate_is_recent() -> None:
    fast_then_slow = [(float(second), 1000 * second) for second in range(100)]
    fast_then_slow += [(100.0 + second, 99_000 + 10 * second) for second in range(300)]
    line = last_line(fast_then_slow, total_steps=1_000_000)
    assert "   10 steps/s" in line


def test_the_time_left_does_not_grow_while_no_steps_come() -> None:
    running = [(float(second), 10 * second) for second in range(31)]
    # They are asked for every second all the same.
    waiting = [(31.0 + second, 300) for second in range(100)]
    assert "10 steps/s" in last_line([*running, *waiting[:19]])
    assert last_line([*running, *waiting[:19]]).endswith("0:16:10 left")
    assert re.search(r"– steps/s .* – left", last_line([*running, *waiting]))  # noqa: RUF001
    assert last_line([*running, *waiting, (131.0, 1300)]).endswith(" left")
    assert "–  left" not in last_line([*running, *waiting, (131.0, 1300), (132.0, 1310)])  # noqa: RUF001


def test_a_line_says_for_how_long_no_step_has_come() -> None:
    console, out = log_console()
    clock = Clock()
    progress = TrainingProgress(1000, console, clock=clock, stall_seconds=60.0)
    progress.update(TrainingStatus(10, 1))
    for second in range(1, 4 * 3600):
        clock.now = 100.0 + second
        progress.tick()
    first, *stalled = out.getvalue().splitlines()
    assert first.endswith("left")
    assert stalled[0].endswith("left  no step for 60 s")
    assert stalled[1].endswith("no step for 70 s")
    # A night in which nothing comes does not fill a log.
    assert len(stalled) < 60
    progress.update(TrainingStatus(20, 2))
    progress.close()
    assert "no step" not in out.getvalue().splitlines()[-1]


def test_hints_of_the_caller_end_the_line() -> None:
    console, out = log_console()
    clock = Clock()
    progress = TrainingProgress(1000, console, clock=clock, stall_seconds=60.0)
    progress.update(TrainingStatus(10, 1))
    clock.now += 70
    progress.update(TrainingStatus(10, 1, hints=["actor 1 has handed over nothing for 70 s"]))
    assert out.getvalue().splitlines()[-1].endswith("left  actor 1 has handed over nothing for 70 s")


def test_the_line_is_looked_after_while_nobody_calls() -> None:
    console, out = log_console()
    with TrainingProgress(1000, console, stall_seconds=0.05, interval=0.0) as progress:
        progress.update(TrainingStatus(10, 1))
        deadline = time.monotonic() + 30
        while "no step for" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "no step for" in out.getvalue()


def test_the_end_is_full_and_never_beyond() -> None:
    assert last_line([(0.0, 0), (1.0, 9_999)]).startswith(" 99%")
    beyond = last_line([(0.0, 0), (1.0, 10_050)])
    assert beyond.startswith("100%")
    assert beyond.endswith("0:00:00 left")


@pytest.mark.parametrize(
    ("notes", "end"),
    [({"skipped updates": 0, "stream resets": 0}, "left"), ({"skipped updates": 2, "stream resets": 0}, "updates 2")],
)
def test_only_notes_above_zero_are_shown(notes: Mapping[str, int], end: str) -> None:
    console, out = log_console()
    with TrainingProgress(1000, console) as progress:
        progress.update(TrainingStatus(10, 1, notes=notes))
    line = out.getvalue().rstrip("\n")
    assert line.endswith(end)
    assert "resets" not in line


@pytest.mark.parametrize("width", [60, 140])
def test_a_terminal_has_one_line_updated_in_place(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    console, out = terminal_console(monkeypatch, width)
    clock = Clock()
    with TrainingProgress(1000, console, clock=clock) as progress:
        for second in range(5):
            clock.now = 100.0 + second
            progress.update(TrainingStatus(100 * second, updates=second, mean_return=0.25))
    assert out.getvalue().count("\n") == 1
    assert "400/1k" in out.getvalue().split("\r")[-1]
    assert ("━" in out.getvalue()) == (width == 140)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with TrainingProgress(1000, Console(file=out, force_terminal=True, color_system=None)) as progress:
        progress.update(TrainingStatus(10, 1))
    assert out.getvalue().startswith("  1%")
    assert "\x1b" not in out.getvalue()


def test_the_table_keeps_each_path_on_one_line() -> None:
    console, out = log_console()
    path = Path("runs") / ("long" * 30) / "[config].json"
    print_table(console, "Done", [("steps", "2M"), ("mean return", 0.98)], {"run": path})
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines == ["Done", "  steps        2M", "  mean return  0.98", f"  run          {path}"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1500, "1.5k"), (999_999, "1M"), (12_345_678, "12.3M"), (2e9, "2B"), (-1500, "-1.5k")],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert short_count(number) == text


@pytest.mark.parametrize(
    ("number", "decimals", "text"),
    [
        (0.9849, 3, "0.985"),
        (1234.5, 3, "1,234.500"),
        (0.0, 3, "0.000"),
        (-0.01, 3, "-0.010"),
        (0.000152, 3, "0.000152"),
        (-0.00012345, 3, "-0.000123"),
        (21.5, 2, "21.50"),
        (0.0152, 2, "0.0152"),
        (0.1 + 0.2 - 0.3, 3, "0.000"),
    ],
)
def test_a_small_number_is_not_shown_as_zero(number: float, decimals: int, text: str) -> None:
    assert number_text(number, decimals) == text


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (0.985, 0.01, "0.985 ± 0.010"),
        (0.985, 1.15e-5, "0.985 ± 0.000"),
        (0.00015, 0.00002, "0.00015 ± 2e-05"),
        (1234.5, None, "1,234.500"),
    ],
)
def test_a_deviation_has_the_decimals_of_its_mean(mean: float, deviation: float | None, text: str) -> None:
    assert spread_text(mean, deviation) == text
