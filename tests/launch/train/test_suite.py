"""One agent for several tasks, and one agent for each task of a list."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r2ac.envs import find_task
from r2ac.launch.cli import main
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from tests.processes import wait_until

Capture = pytest.CaptureFixture[str]
DOUBLE = Path(__file__).parents[2] / "envs" / "dmlab" / "double"
QUICK = ["--num-actors", "0", "--hidden-size", "8", "--rollout-length", "5", "--log-steps", "100"]
PIXELS = ["--pixels", "--image-size", "12", "--encoder-features", "8"]
MAZES = "memory/tmaze,memory/parity"


def few(streams: int, steps: int) -> list[str]:
    return ["--streams-per-actor", str(streams), "--batch-size", str(streams), "--total-steps", str(steps)]


def test_one_agent_learns_two_tasks_and_logs_the_returns_of_each(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", "memory/tmaze,memory/parity", "--pixels", *QUICK, *few(5, 2000), "--run-dir", str(run)]) == 0
    assert json.loads((run / "config.json").read_text())["task"] == MAZES
    rows = read_metrics(run)
    seen = {name for row in rows for name in row}
    assert {"returns/tmaze", "returns/parity", "normalised_return", "capped_normalised_return"} <= seen
    for row in rows:
        own = [row[name] for name in ("returns/tmaze", "returns/parity") if name in row]
        assert min(own) <= row["episode_return"] <= max(own)


@pytest.mark.slow
def test_several_tasks_through_ray_share_the_streams_of_all_actors(tmp_path: Path, local_ray: None) -> None:
    if missing := find_task("procgen/maze").suite.missing():
        pytest.skip(missing)
    run = tmp_path / "run"
    tasks = "procgen/starpilot,procgen/bigfish,procgen/maze"
    small = ["--num-actors", "2", "--encoder", "nature", "--hidden-size", "8", "--rollout-length", "10"]
    assert main(["train", tasks, *small, *few(2, 4000), "--log-steps", "2000", "--run-dir", str(run)]) == 0
    assert any(name.startswith("returns/") for row in read_metrics(run) for name in row)
    assert main(["train", "--resume", str(run), "--total-steps", "4400"]) == 0
    assert find_checkpoint(run).name == "step_000000004400.safetensors"


def test_an_agent_that_reads_instructions_and_loses_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(DOUBLE)
    monkeypatch.setenv("DMLAB_DOUBLE_FAULT", "exit@step:40")
    monkeypatch.setenv("DMLAB_DOUBLE_ONCE", str(tmp_path / "once"))
    run = tmp_path / "run"
    tasks = "dmlab/rooms_watermaze,dmlab/language_select_described_object"
    small = ["--image-height", "40", "--image-width", "40", "--encoder", "nature"]
    assert main(["train", tasks, *small, *QUICK, *few(2, 400), "--run-dir", str(run)]) == 0
    last = read_metrics(run)[-1]
    assert last["throughput/engine_restarts"] == 1
    assert last["learner/stream_resets"] == 0, "the streams went on, with new episodes"
    assert "replaced, its stream begins a new episode" in caplog.text
    assert "engine restarts" in capsys.readouterr().out
    assert json.loads((run / "config.json").read_text())["env"]["instruction"] is True


def suite_command(path: Path, *flags: str, steps: int = 400) -> list[str]:
    small = ["--num-actors", "0", "--hidden-size", "8", "--rollout-length", "5", *few(4, steps)]
    return ["train", "--suite", "memory/tmaze,memory/parity,memory/copy", *small, "--run-dir", str(path), *flags]


def steps_of(path: Path) -> dict[str, int]:
    runs = sorted(run for run in path.iterdir() if run.is_dir())
    return {run.name: int(find_checkpoint(run).stem.removeprefix("step_")) for run in runs}


def test_tasks_in_turn_and_again(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "suite"
    assert main(suite_command(path)) == 0
    assert steps_of(path) == {"memory-tmaze": 400, "memory-parity": 400, "memory-copy": 400}
    configs = [json.loads((path / name / "config.json").read_text()) for name in steps_of(path)]
    assert {config["task"] for config in configs} == {"memory/tmaze", "memory/parity", "memory/copy"}
    kept = {name: find_checkpoint(path / name).read_bytes() for name in steps_of(path)}
    capsys.readouterr()
    assert main(suite_command(path)) == 0, "what has ended is left alone"
    assert capsys.readouterr().out.count("has learned from its 400 steps") == 3
    assert kept == {name: find_checkpoint(path / name).read_bytes() for name in steps_of(path)}
    assert main(["train", "--resume", str(path), "--total-steps", "600"]) == 0
    assert set(steps_of(path).values()) == {600}


def test_an_interrupted_list_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "suite"
    program = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
    endless = suite_command(path, "--log-steps", "100", steps=10**9)
    process = subprocess.Popen([sys.executable, "-c", program, *endless], stdout=subprocess.PIPE, text=True)
    metrics = path / "memory-tmaze" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text() != "", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"r2ac train --resume {path}" in output
    done = steps_of(path)["memory-tmaze"]
    assert list(steps_of(path)) == ["memory-tmaze"]
    assert main(["train", "--resume", str(path), "--total-steps", str(done + 400)]) == 0
    assert set(steps_of(path).values()) == {-(-(done + 400) // 20) * 20}


def test_a_task_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "suite"
    assert main(suite_command(path)) == 0
    for checkpoint in (path / "memory-parity" / "checkpoints").iterdir():
        checkpoint.write_bytes(b"damaged")
    capsys.readouterr()
    assert main(["train", "--resume", str(path), "--total-steps", "500"]) == 1
    output = capsys.readouterr().out
    assert "memory-parity cannot go on" in output
    assert "Traceback" not in output
    other = [find_checkpoint(path / name).stem for name in ("memory-tmaze", "memory-copy")]
    assert other == ["step_000000000500"] * 2


def test_a_setting_that_no_task_of_a_list_can_have_is_named_by_its_flag(tmp_path: Path, capsys: Capture) -> None:
    assert main(suite_command(tmp_path / "suite", "--layer-gradient", "full")) == 1
    assert capsys.readouterr().out.count("r2ac: --layer-gradient is full, but layers is 1") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "memori"], ["no task 'memori'"]),
        (["memory/tmaze", "--suite", "memory"], ["--suite memory", "memory/tmaze"]),
        (["--suite", "memory", "--batch-size", "0"], ["--batch-size is 0", "at least 1"]),
        (["memory/tmaze,memory/copy"], ["tmaze has float32 [4]", "the same", "actions"]),
        (["memory/tmaze,procgen/maze"], ["one suite"]),
        (
            ["procgen-16", "--streams-per-actor", "3", "--batch-size", "2", "--num-actors", "2"],
            ["6 streams", "16 tasks"],
        ),
    ],
)
def test_wrong_lists_are_one_sentence(tmp_path: Path, capsys: Capture, arguments: list[Any], words: list[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", *arguments, "--run-dir", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)
    assert not run.exists()


def test_other_flags_on_a_list_that_has_begun_are_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "suite"
    assert main(suite_command(path)) == 0
    capsys.readouterr()
    assert main(suite_command(path, "--seed", "2")) == 2
    assert f"r2ac train --resume {path}" in capsys.readouterr().err
    (path / "suite.json").write_text("{")
    assert main(["train", "--resume", str(path)]) == 2
    assert "is damaged" in capsys.readouterr().err
