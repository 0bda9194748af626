"""Runs at a URL: trained here, kept there; killed, resumed elsewhere, with stores that fail."""

import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from rich.console import Console

from r2ac.launch.cli import main
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.local_copies import local_copies
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.mirror import Lease, Mirror, staging_path
from r2ac.launch.runs.run_files import LEASE_FILE
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store
from r2ac.learner.checkpoint import load_checkpoint
from tests.processes import wait_until

Capture = pytest.CaptureFixture[str]
StartTiny = Callable[..., "subprocess.Popen[str]"]
TrainTiny = Callable[..., Path]
Machine = Callable[[str], None]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """machine("b"): from now on this process works as on another machine, which keeps its copies elsewhere."""
    monkeypatch.setattr(Lease, "settle_seconds", 0)

    def choose(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine-{name}"))

    choose("a")
    return choose


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Where the run lies for those who look at it without a URL."""
    return tmp_path / "remote" / "run"


def url_of(remote: Path) -> str:
    return f"file://{remote}"


def write(mirror: Mirror, *steps: int) -> None:
    """What a training of so many steps leaves: its newest two checkpoints are kept."""
    (mirror.path / "checkpoints").mkdir(parents=True, exist_ok=True)
    (mirror.path / "config.json").write_text("{}")
    (mirror.path / "run.lock").write_text("process 1")
    for step in steps:
        (mirror.path / "checkpoints" / f"step_{step:012d}.safetensors").write_bytes(b"%d" % step * 100)
        with open(mirror.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"env_steps": step}) + "\n")
    for old in sorted((mirror.path / "checkpoints").iterdir())[:-2]:
        old.unlink()


def steps_at(run: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in run.glob("checkpoints/step_*"))


def die(mirror: Mirror) -> None:
    """Let go of the copy as a process does that is killed: nothing more is copied, and the lease stays."""
    mirror._ended.set()
    mirror._wake.set()
    mirror._thread.join()
    mirror._lock.close()


def test_a_run_is_copied_with_each_checkpoint_and_at_the_end(remote: Path) -> None:
    with Mirror(url_of(remote), Console(), new=True) as mirror:
        write(mirror, 0, 100)
        mirror.push()
        wait_until(lambda: steps_at(remote) == [0, 100])
        write(mirror, 200)
        mirror.push()
        wait_until(lambda: steps_at(remote) == [100, 200])
        assert not json.loads((remote / LEASE_FILE).read_text())["released"]
        write(mirror, 300)
    assert steps_at(remote) == [200, 300]
    assert [row["env_steps"] for row in read_metrics(remote)] == [0, 100, 200, 300]
    assert {path.name for path in remote.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints", LEASE_FILE}
    assert json.loads((remote / LEASE_FILE).read_text())["released"]
    assert not mirror.path.exists()


def test_the_url_has_a_checkpoint_however_slow_a_copy_is(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all that were there when a copy began are replaced before it sends them."""
    slow = threading.Event()
    sends = Store.write

    def send(store: Store, name: str, content: bytes | Path) -> None:
        if name == "metrics.jsonl" and slow.is_set():
            slow.clear()
            write(mirror, 300, 400)
        sends(store, name, content)

    monkeypatch.setattr(Store, "write", send)
    mirror = Mirror(url_of(remote), Console(), new=True).__enter__()
    write(mirror, 0, 100)
    mirror.push()
    wait_until(lambda: steps_at(remote) == [0, 100])
    write(mirror, 200)
    slow.set()
    mirror.push()
    wait_until(lambda: not slow.is_set() and "300" in (remote / "metrics.jsonl").read_text())
    die(mirror)
    assert steps_at(mirror.path) == [300, 400]
    assert steps_at(remote) == [0, 100]


def test_an_evaluation_of_another_machine_is_kept(remote: Path, machine: Machine, capsys: Capture) -> None:
    remote.mkdir(parents=True)
    (remote / "config.json").write_text("{}")
    url, found = url_of(remote), "evaluation.json"
    (remote / found).write_text("of before")

    def evaluate(name: str, text: str) -> AbstractContextManager[object]:
        machine(name)
        copies = local_copies(["evaluate", url], Console())
        (Path(copies.__enter__()[1]) / found).write_text(text)
        return copies

    first = evaluate("a", "of a")
    evaluate("b", "of b").__exit__(None, None, None)
    machine("a")
    first.__exit__(None, None, None)
    assert {path.read_text() for path in remote.glob("evaluation*.json")} == {"of a", "of b"}
    assert f"{url}/{found} was written by another process meanwhile: evaluation-" in capsys.readouterr().out

    machine("c")
    with Mirror(url, Console(), new=False) as mirror:
        evaluate("b", "while it is trained").__exit__(None, None, None)
        machine("c")
        write(mirror, 100)
    assert (remote / found).read_text() == "while it is trained"

    # Nor is it lost where the training is killed, and goes on in the folder that it left.
    killed = Mirror(url, Console(), new=False).__enter__()
    write(killed, 200)
    killed.push()
    wait_until(lambda: 200 in steps_at(remote))
    die(killed)
    evaluate("b", "after a kill").__exit__(None, None, None)
    machine("c")
    with Mirror(url, Console(), new=False) as mirror:
        write(mirror, 300)
    assert (remote / found).read_text() == "after a kill"


def test_a_run_that_never_begins_leaves_nothing(remote: Path) -> None:
    with pytest.raises(KeyError), Mirror(url_of(remote), Console(), new=True):
        raise KeyError
    assert list(remote.iterdir()) == []


def test_a_store_that_fails_is_told_and_tried_again(remote: Path) -> None:
    url, away = url_of(remote), remote.with_name("away")
    said = io.StringIO()
    mirror = Mirror(url, Console(file=said), new=True).__enter__()
    write(mirror, 0)
    mirror.push()
    wait_until(lambda: steps_at(remote) == [0])

    remote.rename(away)
    remote.mkdir()
    write(mirror, 100)
    mirror.push()
    wait_until(lambda: said.getvalue().endswith("\n"))
    (told,) = said.getvalue().splitlines()
    assert told.startswith(f"r2ac: {url} cannot be written: its {LEASE_FILE} is gone; the run goes on in {mirror.path}")
    assert told.endswith("the next checkpoint tries again")
    assert list(remote.iterdir()) == [], "nothing is written where a file system is missing"

    remote.rmdir()
    away.rename(remote)
    write(mirror, 200)
    mirror.push()
    wait_until(lambda: steps_at(remote) == [100, 200])

    (remote / "checkpoints").rename(away)
    (remote / "checkpoints").write_text("a file in the way")
    write(mirror, 300)
    with pytest.raises(StorageUnavailable, match="cannot be written: a file stands where a folder should be") as caught:
        mirror.__exit__(None, None, None)
    assert f"lies in {mirror.path}, and r2ac train --resume {url} on this machine brings it there" in str(caught.value)
    assert steps_at(mirror.path) == [200, 300]
    (remote / "checkpoints").unlink()
    away.rename(remote / "checkpoints")
    with Mirror(url, Console(), new=False) as again:
        assert steps_at(again.path) == [200, 300]
    assert steps_at(remote) == [200, 300]


def test_a_copy_goes_on_where_it_was_the_last_that_wrote(remote: Path) -> None:
    first = Mirror(url_of(remote), Console(), new=True).__enter__()
    write(first, 0, 100)
    first.push()
    wait_until(lambda: steps_at(remote) == [0, 100])
    write(first, 200)
    with pytest.raises(StorageError, match="in use by another process of this machine"):
        Mirror(url_of(remote), Console(), new=False).__enter__()
    die(first)
    with Mirror(url_of(remote), Console(), new=False) as second:
        assert steps_at(second.path) == [100, 200]
    assert steps_at(remote) == [100, 200]


def test_another_machine_waits_and_then_the_url_holds_the_truth(
    remote: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    url = url_of(remote)
    first = Mirror(url, Console(), new=True).__enter__()
    write(first, 0, 100)
    first.push()
    wait_until(lambda: steps_at(remote) == [0, 100])
    machine("b")
    with pytest.raises(StorageError, match=rf"{url} is in use by process {os.getpid()} on "):
        Mirror(url, Console(), new=False).__enter__()
    # The first machine stands still for long, and learns on.
    write(first, 150)
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "stale_seconds", 0.0)
        second = Mirror(url, Console(), new=False).__enter__()
    assert steps_at(second.path) == [0, 100]
    first.push()
    wait_until(lambda: first._lost is not None)
    with pytest.raises(StorageError, match="written by another process now"):
        first.push()
    with pytest.raises(StorageError, match="written by another process now"):
        first.__exit__(None, None, None)
    write(second, 300)
    second.__exit__(None, None, None)
    assert steps_at(remote) == [100, 300]

    machine("a")
    capsys.readouterr()
    with Mirror(url, Console(), new=False) as third:
        assert steps_at(third.path) == [100, 300]
        assert "was written by others since" in capsys.readouterr().out
    (aside,) = third.path.parent.glob("run.aside-*")
    assert steps_at(aside) == [100, 150], "nothing is thrown away"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["memory/tmaze", "--run-dir", "{url}"], ["already holds a run", "--resume {url}"]),
        (["--resume", "{url}-2"], ["{url}-2", "holds no run"]),
        (["--resume", "{url}", "--hidden-size", "3"], ["--hidden-size is 3", "goes on as it began"]),
        (["memory/tmaze", "--run-dir", "nope://a/b"], ["nope://a/b", "Protocol not known"]),
        (["memory/tmaze", "--run-dir", "{url}/config.json/x"], ["config.json/x cannot be", "a file stands where"]),
    ],
)
def test_what_cannot_be_is_one_sentence(
    remote: Path, train_tiny: TrainTiny, capsys: Capture, arguments: list[str], words: list[str]
) -> None:
    train_tiny(remote, {"--total-steps": 40})
    before = sorted(remote.rglob("*"))
    capsys.readouterr()
    given = [word.format(url=url_of(remote)) for word in arguments]
    assert main(["train", *given]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word.format(url=url_of(remote)) in error for word in words)
    assert [path for path in sorted(remote.rglob("*")) if path.name != LEASE_FILE] == before


def test_a_run_is_read_at_its_url_and_goes_on_elsewhere(
    remote: Path, train_tiny: TrainTiny, machine: Machine, capsys: Capture
) -> None:
    url = url_of(remote)
    train_tiny(Path("unused"), {"--run-dir": url, "--keep-checkpoints": 1})
    assert f"{url}/metrics.jsonl" in capsys.readouterr().out
    assert not staging_path(url).exists()
    first = load_checkpoint(find_checkpoint(remote))
    machine("b")
    evaluate = ["evaluate", url, "--episodes", "3", "--seeds", "1", "--workers", "0"]
    assert main(evaluate) == 0
    assert f"written to {url}: evaluation.json, evaluation.md" in capsys.readouterr().out
    written = (remote / "evaluation.json").read_bytes()
    machine("c")
    assert main(evaluate) == 0
    assert (remote / "evaluation.json").read_bytes() == written, "what is on file is not played again"
    assert main(["plot", url]) == 0
    assert (remote / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", url, "--output", f"{url}/curves.png"]) == 2
    assert "--output is file://" in capsys.readouterr().err

    assert main(["train", "--resume", url, "--total-steps", "3000"]) == 0
    rows = read_metrics(remote)
    assert [row["env_steps"] for row in rows] == list(range(200, 3001, 200))
    second = load_checkpoint(find_checkpoint(remote))
    assert (second.counters["env_steps"], second.counters["updates"]) == (3000, 75)
    assert second.counters["incarnation"] == first.counters["incarnation"] + 1
    assert steps_at(remote) == [3000]
    # A copy follows its URL: the newest checkpoint, alone.
    machine("b")
    assert main([*evaluate, "--greedy"]) == 0
    assert len(list((Path(os.environ["XDG_CACHE_HOME"])).rglob("step_*"))) == 1
    assert main(["inspect", f"{url}/checkpoints/step_000000003000.safetensors", "--rollouts", "4"]) == 0
    assert (remote / "inspect-3000.json").exists()


def test_a_list_of_tasks_at_a_url(remote: Path, machine: Machine, capsys: Capture) -> None:
    small = ["--num-actors", "0", "--hidden-size", "8", "--rollout-length", "5", "--streams-per-actor", "4"]
    small += ["--batch-size", "4", "--total-steps", "200"]
    command = ["train", "--suite", "memory/tmaze,memory/parity", *small, "--run-dir", url_of(remote)]
    assert main(command) == 0
    machine("b")
    assert main(["train", "--resume", url_of(remote), "--total-steps", "400"]) == 0
    assert [steps_at(remote / name) for name in ("memory-tmaze", "memory-parity")] == [[0, 200, 400]] * 2
    assert f"runs  {url_of(remote)}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_at_a_url_that_is_killed_goes_on(remote: Path, start_tiny: StartTiny, tmp_path: Path) -> None:
    url, total = url_of(remote), 20_000
    flags = {"--max-failures": 2, "--checkpoint-minutes": 0.002, "--total-steps": total, "--run-dir": url}
    process = start_tiny(Path("unused"), flags)
    staging = staging_path(url)
    wait_until(lambda: bool(steps_at(remote)) and steps_at(remote)[-1] > 0, process)
    (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(child, signal.SIGKILL)
    assert steps_at(staging)[-1] < total
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"it goes on from step {steps_at(remote)[0]:,}" not in errors
    assert f" of {url} in 1 s (restart 1 of 2)" in errors
    steps = [row["env_steps"] for row in read_metrics(remote)]
    assert steps == sorted(set(steps))
    assert steps[-1] == total
    counters = load_checkpoint(find_checkpoint(remote)).counters
    assert (counters["env_steps"], counters["updates"], counters["restarts"]) == (total, total // 40, 1)


def test_the_checkpoints_of_a_run_in_a_folder_below_stay(remote: Path) -> None:
    below = remote / "below" / "checkpoints" / f"step_{7:012d}.safetensors"
    below.parent.mkdir(parents=True)
    below.write_text("of another run")
    with Mirror(url_of(remote), Console(), new=True) as mirror:
        write(mirror, 0)
        mirror.push()
        wait_until(lambda: steps_at(remote) == [0])
        (mirror.path / "below" / "checkpoints" / below.name).unlink()
    assert below.read_text() == "of another run"
