"""The peers' tasks, and how long a training is watched, with small programs in place of trainings."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from r2ac.envs import make_vector

LINE = """
import json
with open(sys.argv[1], "a") as file:
    row = {"env_steps": STEPS, "learner/parameters": 7, "episodes": 60, "episode_return": RETURN}
    print(json.dumps(row), file=file)
"""


def training(*lines: tuple[int, float], end: str) -> list[str]:
    """A program that writes these steps and returns, 60 episodes a line, and then does what ``end`` says."""
    written = [LINE.replace("STEPS", str(steps)).replace("RETURN", str(mean)) for steps, mean in lines]
    return [sys.executable, "-c", "\n".join(["import subprocess, sys, time", *written, end])]


@pytest.fixture
def peers(module: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("psutil")
    return module("peers")


@pytest.mark.parametrize("task", ["memory/tmaze", "popgym/RepeatPreviousEasy"])
def test_a_peer_sees_what_r2ac_sees(peers: ModuleType, task: str) -> None:
    if task.startswith("popgym"):
        pytest.importorskip("popgym")
    env, own = peers.make_environment(task), make_vector(task, 1, seed=0)
    assert env.observation_space == own.single_observation_space
    assert env.action_space == own.single_action_space
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_a_training_ends_once_its_task_is_solved(peers: ModuleType, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    command = [*training((100, 0.0), (200, 1.0), (300, 1.0), end="time.sleep(99)"), str(metrics)]
    seen = peers.follow(command, metrics, peers.TASKS["memory/tmaze"], steps=1000, minutes=15)
    assert (seen.solved, seen.steps, seen.parameters, seen.end) == (True, 300, 7, 1.0)
    assert 0 < seen.processors < seen.seconds + 5


def test_a_training_that_goes_on_keeps_when_it_was_solved(peers: ModuleType, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    command = [*training((100, 0.0), (200, 1.0), (300, 1.0), (400, 0.0), end="time.sleep(99)"), str(metrics)]
    seen = peers.follow(command, metrics, peers.TASKS["memory/tmaze"], steps=400, minutes=15, go_on=True)
    assert (seen.solved, seen.steps, seen.end) == (True, 300, 1.0)
    assert [(steps, mean) for steps, _, mean in seen.curve] == [(100, 0), (200, 0.6), (300, 1), (400, 0.4)]
    assert peers.span([seen.curve, [(150, 1.0, 0.5), (500, 2.0, 0.7)]], 0, 300) == "0.7 to 1"
    assert peers.span([seen.curve, [(150, 1.0, 0.5)]], 0, 300) == ""


def test_trainings_that_the_file_has_are_not_made_again(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def follow(command: list[str], metrics: Path, *limits: object) -> object:
        made.append(command[command.index("--seed") + 1])
        return peers.Outcome(7, 50.0, True, 300, 2.0, 1.0, 0.97, [(300, 1.0, 0.97)])

    monkeypatch.setattr(peers, "follow", follow)
    words = ["peers.py", "run", "--output", str(tmp_path / "peers.json"), "--tasks", "memory/tmaze"]
    for seeds in (["1"], ["1", "2"]):
        monkeypatch.setattr(sys, "argv", [*words, "--peers", "r2ac-rtrl", "--seeds", *seeds])
        peers.main()
    assert made == ["1", "2"]
    line = "| memory/tmaze | r2ac-rtrl | {} | 7 | 50 | yes | 300 | 2 | 1.0 | 0.97 |"
    assert capsys.readouterr().out.count(line.format(1)) == 2


def test_a_training_ends_with_its_budget(peers: ModuleType, tmp_path: Path) -> None:
    task, metrics = peers.TASKS["memory/tmaze"], tmp_path / "metrics.jsonl"
    command = [*training((100, 0.0), (200, 1.0), end="time.sleep(99)"), str(metrics)]
    seen = peers.follow(command, metrics, task, steps=200, minutes=15)
    assert (seen.solved, seen.steps, seen.end) == (False, 200, pytest.approx(0.6))
    metrics.unlink()
    busy = "import os\nos.wait() if os.fork() else exec('while True: pass')"
    seen = peers.follow([*training((100, 0.5), end=busy), str(metrics)], metrics, task, steps=200, minutes=0.3 / 60)
    assert (seen.solved, seen.steps) == (False, 100)
    assert seen.processors > 0.3


def test_a_training_that_fails_says_why(peers: ModuleType, tmp_path: Path) -> None:
    command = [*training(end="sys.exit('no such task')"), str(tmp_path / "metrics.jsonl")]
    with pytest.raises(SystemExit, match="no such task"):
        peers.follow(command, tmp_path / "metrics.jsonl", peers.TASKS["memory/tmaze"], steps=1, minutes=15)
    with pytest.raises(SystemExit, match=r"peers\.py install"):
        peers.command_of("sb3", "memory/tmaze", 1, 1, tmp_path, tmp_path / "run")


def test_the_flags_of_a_peer_take_the_place_of_those_of_its_task(peers: ModuleType, tmp_path: Path) -> None:
    for task in peers.TASKS:
        words = peers.command_of("r2ac-lstm-64", task, 1, 1, tmp_path, tmp_path)
        values = [words[words.index(flag) + 1] for flag in ("--core", "--rollout-length")]
        assert (values, words.count("--core"), words.count("--rollout-length")) == (["lstm", "64"], 1, 1)
