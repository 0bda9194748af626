"""Trainings as jobs of a real cluster: submitted, followed, stopped, gone on with and fetched."""

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from r2ac.launch.cli import main
from r2ac.launch.cluster.jobs.fetch import fetch
from r2ac.launch.cluster.jobs.job import new_job_id
from r2ac.launch.cluster.jobs.server import JobRequest, JobServer, wait_for_end
from r2ac.launch.cluster.jobs.submission import submit_with_package
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.learner.checkpoint import load_checkpoint
from tests.processes import wait_until

Capture = pytest.CaptureFixture[str]


class Cluster(Protocol):
    """What the fixture `cluster` gives."""

    address: str
    token: str
    folder: Path


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY = [
    "memory/tmaze",
    "--algorithm",
    "vtrace",
    "--streams-per-actor",
    "8",
    "--batch-size",
    "8",
    "--rollout-length",
    "5",
]
TINY += ["--hidden-size", "8", "--corridor-length", "4"]
# A machine that is busy starts processes late.
PATIENT = ["--wait-seconds", "600"]
NASTY = """a'b "c" $(touch OWNED) `touch OWNED`; touch OWNED & [bold] *"""


def command(capsys: Capture, *words: str, code: int = 0) -> str:
    """What `r2ac` says on standard output, and on standard error where it fails."""
    capsys.readouterr()
    assert main(words) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def submitted(output: str) -> str:
    """The id of the job that was submitted."""
    return next(line.split()[1] for line in output.splitlines() if line.split()[:1] == ["job"])


def wait_for_lines(run: Path, lines: int) -> None:
    """Until a training has written so many lines of metrics."""

    def are_there() -> bool:
        with suppress(RunDirectoryError):
            return len(read_metrics(run)) >= lines
        return False

    wait_until(are_there, seconds=300)


def test_a_training_is_submitted_followed_told_of_and_fetched(
    cluster: Cluster, tmp_path: Path, capsys: Capture
) -> None:
    storage = tmp_path / NASTY.replace("/", "")
    flags = ["--num-actors", "1", "--total-steps", "2000", "--log-steps", "200", "--storage", str(storage)]
    output = command(capsys, "submit", *TINY, *flags, "--job-name", NASTY, "--env", f"NASTY={NASTY}", "--follow")
    job = submitted(output)
    assert "memory/tmaze: trained" in output
    assert f"{job} has succeeded" in output

    assert [path.name for path in storage.iterdir()] == [job]
    assert read_metrics(storage / job)[-1]["env_steps"] == 2000

    listed = command(capsys, "jobs", "list")
    assert job in listed
    assert "succeeded" in listed
    status = command(capsys, "jobs", "status", NASTY)
    assert job in status
    assert NASTY in status
    assert str(storage / job) in status
    logs = command(capsys, "jobs", "logs", job)
    assert command(capsys, "jobs", "logs", job, "--tail", "2") == "".join(logs.splitlines(keepends=True)[-2:])

    fetched = tmp_path / "fetched"
    assert "copied" in command(capsys, "jobs", "fetch", job, "--output", str(fetched))
    assert load_checkpoint(find_checkpoint(fetched)).counters["env_steps"] == 2000
    assert [path.name for path in (fetched / "checkpoints").iterdir()] == ["step_000000002000.safetensors"]
    assert "exists already" in command(capsys, "jobs", "fetch", job, "--output", str(fetched), code=2)
    for folder in (tmp_path, cluster.folder, Path.cwd()):
        assert not list(folder.rglob("OWNED"))


def test_a_training_that_is_stopped_keeps_a_checkpoint_and_goes_on(
    cluster: Cluster, tmp_path: Path, capsys: Capture
) -> None:
    """The run directory has a name that says nothing, so that the run is fetched through the cluster."""
    run = tmp_path / NASTY.replace("/", "")
    flags = ["--num-actors", "0", "--total-steps", "1000000000", "--log-steps", "400", "--run-dir", str(run)]
    job = submitted(command(capsys, "submit", *TINY, *flags, "--job-name", "long"))
    assert "run directory" in command(capsys, "jobs", "status", "long")

    following = follow_in_a_process("long")
    wait_for_lines(run, 3)
    assert following.stdout is not None
    assert any("Running entrypoint" in line for line in following.stdout)
    following.send_signal(signal.SIGINT)
    rest, _ = following.communicate(timeout=120)
    assert following.returncode == 130
    assert f"{job} goes on" in rest

    curves = tmp_path / "curves"
    output = command(capsys, "jobs", "fetch", "long", "--output", str(curves), "--no-checkpoint", *PATIENT)
    assert "sent through the cluster" in output
    assert json.loads((curves / "config.json").read_text())["run_dir"] == str(run)
    assert len(read_metrics(curves)) >= 3
    assert not (curves / "checkpoints").exists()
    assert "fetch" not in command(capsys, "jobs", "list")

    assert "was stopped" in command(capsys, "jobs", "stop", "long")
    assert "stopped by SIGTERM" in command(capsys, "jobs", "logs", "long")
    steps = load_checkpoint(find_checkpoint(run)).counters["env_steps"]
    assert steps > 0
    assert steps >= read_metrics(run)[-1]["env_steps"]
    assert "has ended already" in command(capsys, "jobs", "stop", "long")

    again = str(steps + 400)
    output = command(capsys, "submit", "--resume", "long", "--total-steps", again, "--follow")
    assert submitted(output) != job
    whole = tmp_path / "whole"
    command(capsys, "jobs", "fetch", submitted(output), "--output", str(whole), *PATIENT)
    assert load_checkpoint(find_checkpoint(whole)).counters["env_steps"] == steps + 400
    for folder in (tmp_path, cluster.folder):
        assert not list(folder.rglob("OWNED"))


def follow_in_a_process(job: str) -> "subprocess.Popen[str]":
    program = [sys.executable, "-m", "r2ac.launch", "jobs", "follow", job]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_nodes_import_the_package_that_was_sent(cluster: Cluster, tmp_path: Path) -> None:
    """Though r2ac is installed there too; modules that go along can be imported by the job and by its Ray processes,
    and variables come as they are."""
    server = JobServer(cluster.address)
    said, module = tmp_path / "said", tmp_path / "goes_along.py"
    module.write_text("import os\nplace = f'{__file__} in {os.getpid()}'\n")
    program = (
        "import os, pathlib, goes_along, ray, r2ac.launch, importlib.metadata as m; ray.init(); "
        "far = ray.get(ray.remote(lambda: __import__('goes_along').place).remote()); "
        "words = (r2ac.launch.__file__, m.version('r2ac'), goes_along.place, far, os.environ['X']); "
        f"pathlib.Path({str(said)!r}).write_text('|'.join(words))"
    )
    request = JobRequest(
        id=new_job_id("probe"),
        entrypoint=shlex.join(("python", "-c", program)),
        runtime_env={"env_vars": {"X": 'a\'b\n"c" `id` $(id); \\'}},
        metadata={},
    )
    job = wait_for_end(server, submit_with_package(server, request, [module]), 300)
    assert job.status == "SUCCEEDED", server.log(job)
    file, version, here, far, variable = said.read_text().split("|")
    assert all("/runtime_resources/working_dir_files/" in each for each in (file, here, far))
    assert here != far
    assert version
    assert variable == 'a\'b\n"c" `id` $(id); \\'


def test_a_job_that_fails_is_told_of_with_its_exit_code(cluster: Cluster, tmp_path: Path, capsys: Capture) -> None:
    flags = ["--python", "no-such-python", "--storage", str(tmp_path), "--follow"]
    message = command(capsys, "submit", *TINY, *flags, code=127)
    assert "no-such-python" in message
    assert "failed" in message


def test_what_is_no_run_cannot_be_fetched(cluster: Cluster, tmp_path: Path, capsys: Capture) -> None:
    server = JobServer(cluster.address)
    other = server.submit(JobRequest("other-1", "sleep 0.1", runtime_env={}, metadata={"job_name": "twice"}))
    server.submit(JobRequest("other-2", "sleep 0.1", runtime_env={}, metadata={"job_name": "twice"}))
    assert "r2ac submit" in command(capsys, "jobs", "fetch", "other-1", code=2)
    assert "r2ac submit" in command(capsys, "submit", "--resume", "other-1", code=2)
    assert "other-1" in (message := command(capsys, "jobs", "stop", "twice", code=2))
    assert "other-2" in message
    for nothing in ("other-3", "../../api", "", "*"):
        assert repr(nothing) in command(capsys, "jobs", "status", nothing, code=2)

    gone = replace(wait_for_end(server, other, 300), metadata={"r2ac_run_directory": str(tmp_path / "gone")})
    with pytest.raises(ValueError, match="there is no run in"):
        fetch(server, gone, tmp_path / "output", 2**20, checkpoints=True, wait_seconds=300)
    assert not list(tmp_path.iterdir())


def test_the_token_is_asked_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token-than-the-cluster-has")
    assert "refuses the token" in command(capsys, "jobs", "list", code=2)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    message = command(capsys, "jobs", "list", code=2)
    assert "wants a token" in message
    assert "RAY_AUTH_TOKEN_PATH" in message


def test_the_token_may_lie_in_a_file(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "token").write_text(cluster.token + "\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    command(capsys, "jobs", "list")
