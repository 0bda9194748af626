"""What is shown while an evaluation plays: plain lines in a log, and how much time is left."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from r2ac.envs.memory import MemoryOptions
from r2ac.launch.evaluation.evaluate import Evaluation, EvaluationFailure, UnitReport
from r2ac.launch.evaluation.evaluation_progress import Amount, EvaluationProgress, expected_time
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.evaluation.workers import Unit
from r2ac.launch.settings.config import TrainConfig

TRAINING = TrainConfig("memory/tmaze", MemoryOptions())
CONFIG = EvaluationConfig(episodes=10, seeds=2)
EVALUATION = Evaluation(Path("x"), "0", 0, "memory/tmaze", TRAINING.env, CONFIG, TRAINING)
FIRST, SECOND, OTHER = Unit(0, 0, EVALUATION), Unit(0, 1, EVALUATION), Unit(1, 0, replace(EVALUATION, task="b"))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(clock: Clock, log: io.StringIO) -> EvaluationProgress:
    amounts = [Amount("run a", 20, 0), Amount("run b", 30, 20)]
    return EvaluationProgress(Console(file=log, width=80), amounts, clock=clock)


def test_the_time_left_is_what_the_other_episodes_take_at_the_rate_so_far(
    progress: EvaluationProgress, clock: Clock
) -> None:
    progress.update(FIRST, UnitReport())
    clock.now += 10
    # 1000 steps in 10 s; 4 episodes of 50 steps have ended, the others are under way.
    progress.update(FIRST, UnitReport(steps=1000, played=4, ended_steps=200))
    # 20 episodes of the first task and 10 of the other, of which nothing is known, each of 50 steps.
    assert progress.seconds_left() == pytest.approx((30 * 50 - 1000) / 100)
    progress.update(OTHER, UnitReport(steps=500, played=1, ended_steps=300))
    assert progress.seconds_left() == pytest.approx((20 * 50 + 10 * 300 - 1500) / 150)
    progress.update(OTHER, UnitReport(failure=EvaluationFailure("no", bad_input=True)))
    assert progress.seconds_left() == pytest.approx(0)


def test_there_is_no_estimate_before_an_episode_has_ended(progress: EvaluationProgress, clock: Clock) -> None:
    assert progress.seconds_left() is None
    progress.update(FIRST, UnitReport())
    clock.now += 60
    progress.update(FIRST, UnitReport(steps=1000))
    assert progress.seconds_left() is None


def test_a_log_gets_a_line_now_and_then(progress: EvaluationProgress, clock: Clock, log: io.StringIO) -> None:
    progress.update(FIRST, UnitReport())
    progress.update(FIRST, UnitReport(steps=100, played=2, ended_steps=50))
    assert log.getvalue() == ""
    clock.now += 5
    progress.update(FIRST, UnitReport(steps=500, played=10, ended_steps=400))
    assert log.getvalue().splitlines() == ["run a: 10/20 episodes", "all: 30/50 episodes, about 0:00:07 left"]
    progress.update(SECOND, UnitReport(steps=500, played=3, ended_steps=300))
    assert len(log.getvalue().splitlines()) == 2
    clock.now += 10
    # The process that played it has died: its seed begins anew.
    progress.update(FIRST, UnitReport())
    assert log.getvalue().splitlines()[2:4] == ["run a: 3/20 episodes", "all: 23/50 episodes, about 0:01:15 left"]


def test_an_episode_that_does_not_end_is_told_and_a_limit_suggested(
    progress: EvaluationProgress, clock: Clock, log: io.StringIO
) -> None:
    progress.update(FIRST, UnitReport())
    clock.now += 5
    progress.update(FIRST, UnitReport(steps=24_690, longest=12_345))
    assert log.getvalue().splitlines() == ["all: 20/50 episodes; longest episode so far 12,345 steps"]
    clock.now += 60
    progress.update(FIRST, UnitReport(steps=48_000, longest=24_000))
    hint = "all: 20/50 episodes; longest episode so far 24,000 steps; --max-episode-steps N would cut episodes off"
    assert log.getvalue().splitlines()[-1] == hint


def test_an_episode_as_long_as_the_others_is_no_news(
    progress: EvaluationProgress, clock: Clock, log: io.StringIO
) -> None:
    progress.update(FIRST, UnitReport())
    clock.now += 70
    progress.update(FIRST, UnitReport(steps=1000, played=9, ended_steps=900, longest=150))
    assert "longest" not in log.getvalue()
    clock.now += 70
    progress.update(FIRST, UnitReport(steps=2000, played=9, ended_steps=900, longest=1100))
    assert "longest episode so far 1,100 steps; --max-episode-steps N" in log.getvalue()


def test_where_there_is_a_limit_none_is_suggested(progress: EvaluationProgress, clock: Clock, log: io.StringIO) -> None:
    limited = replace(EVALUATION, environment=replace(TRAINING.env, max_episode_steps=99_999))
    unit = Unit(0, 0, limited)
    progress.update(unit, UnitReport())
    clock.now += 90
    progress.update(unit, UnitReport(steps=1000, longest=500))
    assert log.getvalue().splitlines()[-1] == "all: 20/50 episodes; longest episode so far 500 steps"


def test_a_seed_that_stands_still_is_named(progress: EvaluationProgress, clock: Clock, log: io.StringIO) -> None:
    progress.update(FIRST, UnitReport())
    progress.update(SECOND, UnitReport())
    clock.now += 50
    progress.update(FIRST, UnitReport(steps=100, played=10, ended_steps=90))
    lines = len(log.getvalue().splitlines())
    progress.tick()
    assert len(log.getvalue().splitlines()) == lines, "nothing stands still yet"
    clock.now += 25
    progress.tick()
    assert log.getvalue().splitlines()[-1] == "all: 30/50 episodes; no step of run a, seed 1, for 75 s"
    progress.update(FIRST, UnitReport(steps=100, played=10, ended_steps=90, episodes=()))
    progress.update(SECOND, UnitReport(steps=10, played=1, ended_steps=10))
    clock.now += 50
    progress.update(SECOND, UnitReport(steps=20, played=2, ended_steps=20))
    assert "no step" not in log.getvalue().splitlines()[-1]


def test_the_time_is_estimated_from_the_training_before_anything_is_played(tmp_path: Path) -> None:
    rows = [{"env_steps": 3, "episode_length": 5.0, "throughput/steps_per_second": 10.0}, {"env_steps": 7}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert expected_time([(tmp_path, 4), (tmp_path, 6)]) == "about 0:00:05"
    assert expected_time([(tmp_path, 1)]) == "about a second"
    # Of what else is to be played nothing is known.
    assert expected_time([(tmp_path, 10), (tmp_path / "none", 4)]) == "at least 0:00:05"
    assert expected_time([(tmp_path, 1), (tmp_path / "none", 4)]) is None


def test_a_run_without_metrics_gives_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 7}\n')
    assert expected_time([(tmp_path, 4)]) is None
    assert expected_time([(tmp_path / "none", 4)]) is None
    assert expected_time([]) is None


def test_the_last_line_tells_of_no_time_left(progress: EvaluationProgress, clock: Clock, log: io.StringIO) -> None:
    progress.update(FIRST, UnitReport())
    clock.now += 5
    progress.update(FIRST, UnitReport(steps=100, played=10, ended_steps=100))
    progress.update(SECOND, UnitReport(steps=99, played=9, ended_steps=90))
    clock.now += 10
    progress.update(OTHER, UnitReport(steps=99, played=9, ended_steps=90))
    assert log.getvalue().splitlines()[-1] == "all: 48/50 episodes, about a second left"
    clock.now += 10
    progress.update(SECOND, UnitReport(steps=100, played=10, ended_steps=100))
    clock.now += 10
    progress.update(OTHER, UnitReport(steps=100, played=10, ended_steps=100))
    assert log.getvalue().splitlines()[-1] == "all: 50/50 episodes"


def test_a_terminal_has_bars_from_the_beginning(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, force_interactive=True, width=120)
    amounts = [Amount("run a", 20, 0), Amount("run b", 30, 20)]
    with EvaluationProgress(console, amounts, clock=clock) as progress:
        assert "20/50 episodes" in re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
        progress.update(FIRST, UnitReport())
        clock.now += 5
        progress.update(FIRST, UnitReport(steps=500, played=10, ended_steps=400))
        shown = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    assert "30/50 episodes, about 0:00:07 left" in shown
    assert "10/20 episodes" in shown
    assert "run b" not in shown
