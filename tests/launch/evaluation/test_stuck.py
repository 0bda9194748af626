"""Evaluations of environments that do not end, or do not come back from a step."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.evaluation.results_file import read_evaluation

Capture = pytest.CaptureFixture[str]
TINY = ["--num-actors", "0", "--streams-per-actor", "4", "--batch-size", "4", "--rollout-length", "5"]
TINY += ["--hidden-size", "4", "--total-steps", "40"]
FEW = ["--episodes", "4", "--num-envs", "2"]


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    def train(name: str, *flags: str) -> Path:
        run = tmp_path / name
        assert main(["train", f"gym/tests.stuck_envs:{name}-v0", *TINY, *flags, "--run-dir", str(run)]) == 0
        return run

    return train


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def test_an_environment_that_never_ends_is_evaluated_with_a_limit(train: Callable[..., Path], capsys: Capture) -> None:
    run = train("Forever", "--max-episode-steps", "7")
    assert "episodes cut at 7" in capsys.readouterr().out
    assert evaluate(run, *FEW, "--workers", "0") == 0
    assert "cut off after 7 steps" in capsys.readouterr().out
    (result,) = read_evaluation(run)
    assert {(e.length, e.truncated) for e in result.episodes} == {(7, True)}
    assert result.environment.max_episode_steps == 7
    assert evaluate(run, *FEW, "--workers", "0", "--max-episode-steps", "9") == 0
    assert "begins anew: max_episode_steps was 7, is 9" in capsys.readouterr().out
    (result,) = read_evaluation(run)
    assert {(e.length, e.truncated) for e in result.episodes} == {(9, True)}
    assert (result.environment.max_episode_steps, result.changed) == (9, ("episodes", "max_episode_steps"))


@pytest.mark.slow
def test_a_step_that_does_not_come_back_is_one_sentence_and_what_was_played_is_kept(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    times = tmp_path / "times"
    times.write_text("")
    monkeypatch.setenv("STUCK_TIMES", str(times))
    run = train("Stuck")
    assert evaluate(run, *FEW, "--workers", "0", "--seeds", "1") == 0
    times.write_text("".join("again\n" for _ in range(9)))
    assert evaluate(run, *FEW, "--workers", "0", "--step-timeout", "2") == 2
    captured = capsys.readouterr()
    assert "to play" not in captured.out.splitlines()[-1]
    assert "--step-timeout is 2, but it must be 0 with --workers 0" in captured.err
    assert evaluate(run, *FEW, "--workers", "1", "--step-timeout", "2", "--stall-seconds", "1") == 1
    captured = capsys.readouterr()
    (sentence,) = (line for line in captured.err.splitlines() if line.startswith("r2ac: "))
    assert (
        "a step of seed 1 took longer than --step-timeout 2 (seconds); the seeds that have ended are kept" in sentence
    )
    (result,) = read_evaluation(run)
    assert result.seeds_played == [0]
    assert os.path.getsize(times) > 0
    # With another time-out what is on file still counts.
    times.write_text("")
    assert evaluate(run, *FEW, "--workers", "0", "--step-timeout", "0") == 0
    assert "8 episodes to play, in 2 parts; 1 of 3 seeds are on file" in capsys.readouterr().out
