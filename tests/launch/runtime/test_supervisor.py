"""A training that is watched over: killed, failing, asked to stop; its parent killed."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from r2ac.launch.cli import main
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runtime.supervisor import TRY_AGAIN, exit_code, restarts
from r2ac.learner.checkpoint import load_checkpoint
from tests.processes import processes_below, wait_until

StartTiny = Callable[..., "subprocess.Popen[str]"]
ENDLESS = 10**12
WATCHED: dict[str, object] = {"--max-failures": 3, "--log-steps": 200, "--checkpoint-minutes": 0.002}
# What a start of the supervisor itself takes the place of a training in: fails as the first words say, then ends well.
PROGRAM = """
import sys
from r2ac.launch.runtime import supervisor
from r2ac.launch.runtime.supervisor import supervise
supervisor.sys.executable, codes, tries, places = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), sys.argv[4:]
state = lambda: places.pop(0) if places else "from here"
sys.exit(supervise(codes, tries, state, lambda: "GO ON"))
"""
# Stands where Python does: `-m r2ac.launch WORDS` ends as one of the words says, the nth start as the nth.
STAND_IN = """#!/bin/sh
shift 2
start="${R2AC_SUPERVISED##*:}"
shift "$((start < $# ? start : $# - 1))"
case "$1" in
    -*) kill "$1" $$; sleep 60;;
    orphan) sleep 300 & echo $! > "$ORPHAN"; kill -9 $$;;
    *) exit "$1";;
esac
"""
# The same, but a training that ends in order when it is asked to, and at once when it is asked twice.
WAITING = """
import time
from r2ac.launch.runtime.stop_signals import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    while not signals.stop_requested():
        time.sleep(0.01)
    time.sleep(0.3)
    print(f"saved after {signals.received.name}", flush=True)
raise SystemExit(128 + signals.received)
"""


@pytest.fixture
def ends(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """ends("-9,0", tries) runs a supervisor whose first child is killed by signal 9 and whose second exits with 0."""
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o700)

    def run(codes: str, tries: int = 2, *places: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", PROGRAM, str(stand_in), codes, str(tries), *places]
        environment = {**os.environ, "ORPHAN": str(tmp_path / "orphan")}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    return run


def child_of(pid: int) -> int:
    """The training that the supervisor has started; 0 between two."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(word) for word in " ".join(texts).split()]
    return next((each for each in children if b"r2ac.launch" in command_line(each)), 0)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def has_ended(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def measured(run: Path) -> int:
    path = run / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    return int(json.loads(lines[-1])["env_steps"]) if lines else 0


def saved(run: Path) -> int:
    """Steps of the newest checkpoint."""
    return max((int(path.stem[5:]) for path in run.glob("checkpoints/step_*.safetensors")), default=0)


@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [
        ("0", 0, 1),
        ("1", 1, 1),
        ("2", 2, 1),
        ("130", 130, 1),
        ("143", 143, 1),
        ("-15", 143, 1),
        ("-9,0", 0, 2),
        ("-11,0", 0, 2),
        (f"{TRY_AGAIN},1", 1, 2),
        (f"{TRY_AGAIN},-9,{TRY_AGAIN}", 1, 3),
    ],
)
def test_what_is_tried_again(
    ends: Callable[..., "subprocess.CompletedProcess[str]"], codes: str, code: int, starts: int
) -> None:
    done = ends(codes)
    assert done.returncode == code
    gave_up = code == 1 and starts == 3
    lines = done.stderr.splitlines()
    assert len(lines) == starts - 1 + gave_up
    for count, line in enumerate(lines[: starts - 1], start=1):
        assert line.startswith("r2ac: the training ")
        assert f"goes on from here in {2 ** (count - 1)} s (restart {count} of 2)" in line
    if codes.startswith("-11"):
        assert "killed by SIGSEGV" in lines[0]
    if gave_up:
        assert "--max-failures is 2" in lines[-1]
        assert lines[-1].endswith("GO ON")


def test_the_pauses_grow_until_it_comes_further(
    ends: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    done = ends("-9,-9,-9,0", 3, "from 1", "from 1", "from 2")
    told = [re.search(r"goes on (from \d) in (\d) s", line) for line in done.stderr.splitlines()]
    assert [found and found.groups() for found in told] == [("from 1", "1"), ("from 1", "2"), ("from 2", "1")]


def test_one_that_is_stopped_before_it_has_begun_says_how_to_begin(start_tiny: StartTiny, tmp_path: Path) -> None:
    process = start_tiny(tmp_path / "run", WATCHED)
    wait_until(lambda: child_of(process.pid) > 0, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    (told,) = errors.splitlines()
    assert told.startswith("r2ac: stopped by SIGTERM; begin again with: r2ac train memory/tmaze --")
    assert told.endswith(f"--run-dir {tmp_path}/run")


def test_a_request_to_stop_between_two_starts_ends_it(tmp_path: Path) -> None:
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o700)
    command = [sys.executable, "-c", PROGRAM, str(stand_in), "-9", "9", "a", "a", "a", "a"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "in 4 s" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == "r2ac: stopped by SIGTERM; GO ON\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_what_a_killed_training_leaves_is_ended(
    ends: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    assert ends("orphan,0", 1).returncode == 0
    assert has_ended(int((tmp_path / "orphan").read_text()))


def test_only_a_supervisor_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (restarts(), exit_code(TRY_AGAIN), exit_code(2)) == (None, 1, 2)
    monkeypatch.setenv("R2AC_SUPERVISED", f"{os.getppid()}:4")
    assert (restarts(), exit_code(TRY_AGAIN)) == (4, TRY_AGAIN)
    monkeypatch.setenv("R2AC_SUPERVISED", f"{os.getpid()}:4")
    assert restarts() is None, "a process further down"


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_through_ray(start_tiny: StartTiny, tmp_path: Path) -> None:
    run, total = tmp_path / "run", 40_000
    process = start_tiny(run, {**WATCHED, "--num-actors": 2, "--streams-per-actor": 4, "--total-steps": total})
    wait_until(lambda: 0 < saved(run) < measured(run), process)
    child = child_of(process.pid)
    os.kill(child, signal.SIGSTOP)
    left = processes_below(child)
    assert saved(run) < total / 2, "there is something left to do"
    os.kill(child, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "was killed by SIGKILL; it goes on from step " in errors
    assert "in 1 s (restart 1 of 3)" in errors
    assert len(left) > 4
    assert all(has_ended(pid) for pid in left), "of the killed training's Ray nothing is left"

    rows, checkpoint = read_metrics(run), load_checkpoint(find_checkpoint(run))
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == checkpoint.counters["env_steps"] == total
    assert checkpoint.counters["updates"] == total // 40
    assert checkpoint.counters["restarts"] == rows[-1]["throughput/restarts"] == 1
    assert all(row["updates"] == row["env_steps"] / 40 for row in rows), "no step is lost or counted twice"
    for row in rows:
        assert row["learner/learning_rate"] == pytest.approx(4e-3 * (1 - row["env_steps"] / total), abs=1e-9)
    assert [row["wall_time"] for row in rows] == sorted(row["wall_time"] for row in rows)
    check_events(run, steps)


def check_events(run: Path, steps: list[int]) -> None:
    """TensorBoard shows the steps of metrics.jsonl, and no curve jumps backward."""
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
    accumulator.Reload()
    for tag in ("learner/updates", "learner/learning_rate", "throughput/restarts"):
        events = accumulator.Scalars(tag)
        assert [event.step for event in events] == steps
        assert [event.wall_time for event in events] == sorted(event.wall_time for event in events)
    assert [event.value for event in accumulator.Scalars("learner/updates")] == [step / 40 for step in steps]


@pytest.mark.parametrize(
    ("sent", "to_all", "noted"),
    [(signal.SIGTERM, False, "SIGTERM"), (signal.SIGINT, False, "SIGTERM"), (signal.SIGINT, True, "SIGINT")],
    ids=["SIGTERM to the parent", "SIGINT to the parent", "Ctrl-C, which a terminal sends to both"],
)
def test_a_request_to_stop_is_passed_on_once(tmp_path: Path, sent: signal.Signals, to_all: bool, noted: str) -> None:
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(f"#!{sys.executable}\n{WAITING}")
    stand_in.chmod(0o700)
    command = [sys.executable, "-c", PROGRAM, str(stand_in), "wait", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (os.killpg if to_all else os.kill)(process.pid, sent)
        assert process.stdout.read() == f"saved after {noted}\n"
    assert process.returncode == 128 + sent


@pytest.mark.slow
def test_a_child_whose_parent_is_killed_saves_and_lets_go(start_tiny: StartTiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_tiny(run, {"--max-failures": 3, "--log-steps": 200, "--total-steps": ENDLESS})
    wait_until(lambda: measured(run) >= 400, process)
    child = child_of(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: has_ended(child), seconds=60)
    process.communicate()
    stopped = saved(run)
    assert stopped == measured(run) > 0
    RunDirectory.open(run, for_writing=True).close()
    # The run remembers that it is watched over.
    total = stopped + 2000
    assert main(["train", "--resume", str(run), "--total-steps", str(total)]) == 0
    assert saved(run) == total
    assert str(os.getpid()) not in (run / "run.lock").read_text(), "a child has trained"


def test_bad_input_is_not_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    command = ["train", "memory/tmaze", "--num-actors", "0", "--max-failures", "5", "--run-dir", str(run)]
    assert main(command) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "already holds a run" in error
    assert main([*command[:4], "--max-failures", "-1"]) == 2
    assert "--max-failures is -1" in capfd.readouterr().err


@pytest.mark.slow
def test_a_list_of_tasks_goes_on_after_a_kill(start_tiny: StartTiny, tmp_path: Path) -> None:
    path = tmp_path / "suite"
    small = ["--num-actors", "0", "--hidden-size", "8", "--rollout-length", "5", "--streams-per-actor", "4"]
    small += ["--batch-size", "4", "--log-steps", "200", "--total-steps", "4000", "--checkpoint-minutes", "0.002"]
    command = ["train", "--suite", "memory/tmaze,memory/parity", *small, "--max-failures", "1"]
    program = [sys.executable, "-m", "r2ac.launch", *command, "--run-dir", str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: saved(path / "memory-parity") > 0, process)
        os.kill(child_of(process.pid), signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "has learned from its 4,000 steps" in output, "the first task is left alone"
    counts = [load_checkpoint(find_checkpoint(path / name)).counters for name in ("memory-tmaze", "memory-parity")]
    assert [(each["env_steps"], each["restarts"]) for each in counts] == [(4000, 0), (4000, 1)]
