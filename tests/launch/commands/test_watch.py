"""``r2ac watch`` on an agent that has learned a short T-maze, and on agents that remember nothing."""

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from r2ac.envs import MissingPackage, find_task
from r2ac.launch.cli import main
from r2ac.launch.commands.watch import watch_command
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.watching import pictures
from r2ac.learner.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def skilled_run(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corridor of 4 steps, solved."""
    flags = {
        "--total-steps": 40_000,
        "--streams-per-actor": 32,
        "--batch-size": 32,
        "--hidden-size": 16,
        "--learning-rate": 0.01,
        "--chrono-steps": 10,
    }
    return train_tiny(tmp_path_factory.mktemp("skilled") / "run", flags)


def watch(*words: object) -> str:
    """What the command prints."""
    printed = StringIO()
    assert watch_command([str(word) for word in words], Console(file=printed, width=120, highlight=False)) == 0
    return printed.getvalue()


def test_a_skilled_agent_is_seen_to_remember(skilled_run: Path) -> None:
    output = skilled_run / "choices.gif"
    printed = watch(skilled_run, "--episodes", 4, "--max-steps", 100, "--output", output)
    assert "returns      1, 1, 1, 1" in printed
    assert "2 in 64 episodes (feature 0 = 1; feature 1 = 1)" in printed
    assert "step 0: 100 %" in printed
    assert "at decision  100 % (last step)" in printed
    header, best, *_ = printed[printed.index("unit  ") :].splitlines()
    assert header.split() == ["unit", "separation", "spread", "half-life", "in", "steps"]
    unit, separation, spread, half_life = best.split()
    assert 0 <= int(unit) < 16
    assert float(separation) > 0.99
    assert float(spread) > 0.1
    assert half_life == "infinite" or float(half_life) > 2, "at least about as long as the corridor"
    with Image.open(output) as video:
        assert video.n_frames == 4 * 5
    with Image.open(skilled_run / "memory.png") as picture:
        assert np.asarray(picture).std() > 10


def test_what_is_played_follows_from_the_flags(skilled_run: Path, tmp_path: Path) -> None:
    def told(*words: object) -> list[str]:
        printed = watch(skilled_run, *words, "--output", tmp_path / "a.png", "--memory-output", tmp_path / "m.svg")
        return [line for line in printed.splitlines() if "player" not in line]

    first = told()
    assert first == told()
    other = told("--seed", 1, "--decision-step", 1)
    assert first != other
    assert "(step 1)" in " ".join(other)
    cut = " ".join(told("--max-steps", 3))
    assert "(cut off)" in cut
    assert "none: no episode ended within --max-steps" in cut
    assert (tmp_path / "m.svg").exists()


def test_a_core_without_memory_has_a_video_alone(train_tiny: Callable[..., Path], tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", {"--core": "feedforward", "--chrono-steps": 0})
    assert "none: the core is feed-forward" in watch(run)
    assert len(list(run.glob("episodes.*"))) == 1
    assert not (run / "memory.png").exists()


@pytest.mark.parametrize(
    ("task", "flags", "episodes", "words"),
    [
        ("memory/match_to_sample", {"--delay": 3, "--symbols": 3}, 64, "3 in 64 episodes"),
        ("memory/tmaze", {"--corridor-length": 2, "--pixels": "True"}, 16, "first observation 1; first observation 2"),
        ("gym/CartPole-v1", {"--frame-stack": 2}, 64, "none: 64 episodes begin in 64 ways"),
        (
            "atari/Breakout",
            {"--max-episode-frames": 120, "--encoder": "nature"},
            8,
            "none: the first image of an episode is no cue",
        ),
        ("procgen/maze", {"--encoder": "nature"}, 8, "none: the first image of an episode is no cue"),
    ],
)
def test_agents_of_every_suite_can_be_watched(
    tmp_path: Path, task: str, flags: dict[str, object], episodes: int, words: str
) -> None:
    if sentence := find_task(task).suite.missing():
        pytest.skip(sentence)
    run = tmp_path / "run"
    sizes = ["--num-actors=0", "--streams-per-actor=2", "--batch-size=2", "--rollout-length=3", "--hidden-size=8"]
    own = [f"{flag}={value}" if value != "True" else flag for flag, value in flags.items()]
    assert main(["train", task, f"--run-dir={run}", "--total-steps=12", "--device=cpu", *sizes, *own]) == 0
    printed = watch(run, "--max-steps", 20, "--episodes", 2, "--memory-episodes", episodes, "--device", "cpu")
    assert words in printed
    assert len(list(run.glob("episodes.*"))) == 1
    assert (run / "memory.png").exists()


@pytest.mark.parametrize(
    ("words", "error", "sentence"),
    [
        (["--output", "a.avi"], RunError, r"a\.avi must end in \.png, \.gif, \.mp4"),
        (["--memory-output", "a.gif"], RunError, r"a\.gif must end in \.png, \.svg, \.pdf"),
        (["--episodes", "0"], ConfigError, "--episodes is 0, but it must be from 1 to 1000"),
        (["--max-steps", "0"], ConfigError, "--max-steps is 0"),
        (["--fps", "60"], ConfigError, "--fps is 60, but it must be from 1 to 50"),
        (["--seed", "-1"], ConfigError, "--seed is -1"),
        (["--memory-episodes", "3"], ConfigError, "--memory-episodes is 3"),
        (["--decision-step", "5"], ConfigError, "--decision-step is 5, but the last step of an episode is 4"),
        (["--task", "gym/CartPole-v1"], ConfigError, r"was trained on memory/tmaze and cannot play gym/CartPole-v1"),
        (["--device", "tpu"], ConfigError, "--device is 'tpu'"),
    ],
)
def test_what_cannot_be_watched_is_one_sentence(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: type, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(error, match=sentence) as raised:
        watch(copy, *words)
    assert "\n" not in str(raised.value)


def test_a_decision_step_beyond_the_end_is_refused_before_a_video_is_made(finished_run: Path, tmp_path: Path) -> None:
    video = tmp_path / "episodes.gif"
    with pytest.raises(ConfigError, match="--decision-step is 99, but the last step of an episode is 4"):
        watch(finished_run, "--decision-step", 99, "--output", video, "--memory-output", tmp_path / "memory.png")
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_does_not_fit_is_named_with_what_it_shows(finished_run: Path, tmp_path: Path) -> None:
    output = ["--output", tmp_path / "a.gif", "--memory-output", tmp_path / "m.png"]
    with pytest.raises(CheckpointError, match=r"cannot play memory/copy, which has observations \[5\] and 4 act"):
        watch(finished_run, "--task", "memory/copy", *output)


def test_a_run_must_be_named_and_be_one(tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the run is missing"):
        watch()
    with pytest.raises(RunError, match="nowhere does not exist"):
        watch(tmp_path / "nowhere")
    monkeypatch.setattr(pictures, "missing_modules", lambda *modules: list(modules))
    with pytest.raises(MissingPackage, match=r"pip install 'r2ac\[video\]'"):
        watch(finished_run, "--output", tmp_path / "a.mp4")
