"""The run directory: made once, found again, and never written by two processes at a time."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from r2ac.launch.runs.run_directory import (
    RunDirectory,
    default_run_directory,
    json_text,
    new_directory,
    write_atomically,
)
from r2ac.launch.runtime.errors import RunDirectoryError

CONFIG = {"task": "memory/tmaze", "seed": 1, "agent": {"gradient": "rtrl"}}

# A second process that holds the run in argv[1] until it is killed; argv[2] says what child it leaves behind.
HOLDER = """
import os, subprocess, sys, time
from r2ac.launch.runs.run_directory import RunDirectory
run = RunDirectory.open(sys.argv[1], for_writing=True)
child = 0
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
if sys.argv[2] == "exec":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False).pid
print(os.getpid(), child, flush=True)
time.sleep(60)
"""


def start_holder(path: Path, child: str = "none") -> tuple[subprocess.Popen[str], int]:
    """The process that holds the run, and the pid of its child (0 without)."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), child], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    pid, child_pid = map(int, holder.stdout.readline().split())
    assert pid == holder.pid
    return holder, child_pid


def stop_holder(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()


def test_a_created_run_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "run"
    with closing(RunDirectory.create(path, {**CONFIG, "run_dir": path})) as run:
        assert run.checkpoints.is_dir()
    run = RunDirectory.open(path, for_writing=False)
    assert run.read_config() == {**CONFIG, "run_dir": str(path)}
    assert {each.parent for each in (run.config_path, run.metrics_path, run.evaluation_path, run.curves_path)} == {path}


def test_an_empty_folder_can_become_a_run(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    assert RunDirectory.open(tmp_path, for_writing=False).read_config() == CONFIG


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", CONFIG).close()
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.create(tmp_path / "run", {"task": "other"})
    path = tmp_path / "run"
    without = "but no checkpoint from which it could go on; choose another --run-dir"
    assert str(caught.value) == f"{path} already holds a run; {without}"
    (path / "checkpoints" / "step_000000000010.safetensors").touch()
    with pytest.raises(RunDirectoryError, match=f"; continue it with --resume {path} or choose another --run-dir$"):
        RunDirectory.create(path, {"task": "other"})
    assert RunDirectory.open(path, for_writing=False).read_config() == CONFIG


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints/step-10"])
def test_the_remains_of_a_run_are_not_written_over(tmp_path: Path, left: str) -> None:
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("{}\n")
    with pytest.raises(RunDirectoryError, match=r"without config\.json; choose another --run-dir"):
        RunDirectory.create(tmp_path, CONFIG)


def test_a_config_that_json_cannot_hold_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        RunDirectory.create(tmp_path / "run", {"task": object()})
    assert not (tmp_path / "run").exists()


def test_numbers_that_json_lacks_are_null() -> None:
    values = {"a": [math.inf, (math.nan, 1.5)], "b": {"c": -math.inf, "d": Path("run"), "e": None, "f": True, "g": 3}}
    text = json_text(values, indent=1)
    assert json.loads(text) == {"a": [None, [None, 1.5]], "b": {"c": None, "d": "run", "e": None, "f": True, "g": 3}}
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("file/a/run", "a file stands where a folder should be"),
        ("file", "a file stands where a folder should be"),
        ("n" * 300, "File name too long"),
    ],
)
def test_an_unwritable_place_is_one_sentence(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(RunDirectoryError, match=f"{path} cannot hold a run: {reason}$"):
        RunDirectory.create(tmp_path / path, CONFIG)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("nowhere", "nowhere does not exist"), ("empty", r"is not a run directory: it holds no config\.json")],
)
@pytest.mark.parametrize("for_writing", [False, True])
def test_what_is_no_run_is_not_opened(tmp_path: Path, path: str, sentence: str, for_writing: bool) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match=sentence):
        RunDirectory.open(tmp_path / path, for_writing=for_writing)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"task": ', b"[1, 2]", b"\xff\xfe\x00"])
def test_a_damaged_config_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"config\.json is damaged: it [^\n]+$"):
        RunDirectory.open(tmp_path, for_writing=False).read_config()


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    holder, _ = start_holder(tmp_path)
    try:
        with pytest.raises(RunDirectoryError, match=f"{tmp_path} is in use by process {holder.pid} on "):
            RunDirectory.open(tmp_path, for_writing=True)
        # Reading needs no lock.
        assert RunDirectory.open(tmp_path, for_writing=False).read_config() == CONFIG
    finally:
        stop_holder(holder)
    RunDirectory.open(tmp_path, for_writing=True).close()


def test_a_run_in_use_is_waited_for_where_that_is_asked_for(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    holder, _ = start_holder(tmp_path)
    told: list[str] = []

    def waits(sentence: str) -> None:
        told.append(sentence)
        stop_holder(holder)

    try:
        RunDirectory.open(tmp_path, for_writing=True, waits=waits).close()
    finally:
        stop_holder(holder)
    (sentence,) = told
    assert f"in use by process {holder.pid} on " in sentence


def open_within_seconds(path: Path, seconds: float) -> None:
    """Open the run and close it; a forked child lets go of the lock in its first moments, and these may be late."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return RunDirectory.open(path, for_writing=True).close()
        except RunDirectoryError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("child", ["fork", "exec"])
def test_a_child_that_outlives_its_parent_does_not_hold_the_run(tmp_path: Path, child: str) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    holder, child_pid = start_holder(tmp_path, child)
    try:
        with pytest.raises(RunDirectoryError, match="in use"):
            RunDirectory.open(tmp_path, for_writing=True)
        holder.kill()
        holder.wait()
        os.kill(child_pid, 0)
        open_within_seconds(tmp_path, 30)
    finally:
        os.kill(child_pid, signal.SIGKILL)
        stop_holder(holder)


def test_a_run_in_use_is_refused_within_one_process_too(tmp_path: Path) -> None:
    with (
        closing(RunDirectory.create(tmp_path, CONFIG)),
        pytest.raises(RunDirectoryError, match=f"process {os.getpid()} on"),
    ):
        RunDirectory.open(tmp_path, for_writing=True)
    run = RunDirectory.open(tmp_path, for_writing=True)
    run.close()
    run.close()


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new" * 100_000 + "\udc80")
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_default_name_says_task_core_gradient_seed_and_time() -> None:
    folder, now = Path("runs/memory-tmaze"), datetime(2024, 2, 3, 4, 5, 6)
    assert default_run_directory("memory/tmaze", "rtrl", 7, now) == folder / "rtrl-seed7-20240203-040506"
    assert default_run_directory("memory/tmaze", "lru rtrl", 7, now) == folder / "lru-rtrl-seed7-20240203-040506"
    mixed = default_run_directory("memory/tmaze", "mixed:elstm+lru rtrl", 7, now)
    assert mixed == folder / "mixed-elstm+lru-rtrl-seed7-20240203-040506"


def test_new_directories_do_not_collide(tmp_path: Path) -> None:
    """Nor between processes; what nothing was written into is gone at the end, with its empty parents."""
    wanted = tmp_path / "runs" / "memory-tmaze" / "rtrl-seed1-20260101-120000"
    program = (
        "import sys; from pathlib import Path; from r2ac.launch.runs.run_directory import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as path: print(path, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(wanted)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert Path(other.stdout.readline().strip()) == wanted
        with new_directory(wanted) as second, new_directory(wanted) as third:
            assert (second.name, third.name) == (f"{wanted.name}-2", f"{wanted.name}-3")
            (third / "kept").touch()
        other.communicate()
    assert list(wanted.parent.iterdir()) == [third]
    with new_directory(tmp_path / "empty" / "run"):
        pass
    assert not (tmp_path / "empty").exists()
    (tmp_path / "own").mkdir()
    with new_directory(tmp_path / "own" / "run"):
        pass
    assert (tmp_path / "own").exists()
    with new_directory(tmp_path / "empty" / "run") as discarded:
        discarded.rmdir()
    assert not (tmp_path / "empty").exists()
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot hold a run"), new_directory(tmp_path / "file" / "run"):
        pass
