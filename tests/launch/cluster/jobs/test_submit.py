"""What r2ac submit refuses before anything is sent, the command it makes, and clusters that it cannot talk to."""

import json
import shlex
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ac.launch.cli import main
from r2ac.launch.cluster.jobs.job import Job, is_job_id, is_sender_id, new_job_id
from r2ac.launch.cluster.jobs.server import JobRequest, cluster_address
from r2ac.launch.cluster.jobs.submission import SubmitArguments, is_place, training_request
from r2ac.launch.commands import submit

Capture = pytest.CaptureFixture[str]
NOWHERE = ["--cluster", "http://127.0.0.1:1"]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def refused(capsys: Capture, *words: str) -> str:
    """What the command says when it refuses, in one line on standard error."""
    capsys.readouterr()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("r2ac: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["memory/tmaz"], "memory/tmaze"),
        (["memory/tmaze", "--batch-size", "1000"], "--batch-size"),
        (["memory/tmaze", "--ray-address", "auto"], "--ray-address"),
        (["memory/tmaze", "--ray-address=local"], "--ray-address"),
        (["memory/tmaze", "--inference", "worker", "--inference-device", "cuda:1"], "--inference-device"),
        (["memory/tmaze", "--run-dir", "runs/here"], "--run-dir"),
        (["memory/tmaze", "--storage", "runs"], "--storage"),
        (["memory/tmaze", "--storage", "/a\nb"], "--storage"),
        (["memory/tmaze", "--job-name", "a\x1b[31m"], "--job-name"),
        (["memory/tmaze", "--job-name", "a" * 101], "--job-name"),
        (["memory/tmaze", "--env", "1A=2"], "--env"),
        (["memory/tmaze", "--env", "A"], "--env"),
        (["memory/tmaze", "--env", "A;B=2"], "--env"),
        (["memory/tmaze", "--entrypoint-gpus", "-1"], "--entrypoint-gpus"),
        (["memory/tmaze", "--entrypoint-cpus", "nan"], "--entrypoint-cpus"),
        (["memory/tmaze", "--stop-seconds", "0"], "--stop-seconds"),
        (["memory/tmaze", "--python", ""], "--python"),
        (["memory/tmaze", "--with-module", "nowhere.py"], "--with-module is nowhere.py, but it must be a file"),
        (["memory/tmaze", "--with-module", "pyproject.toml"], "--with-module is pyproject.toml, but it must be a file"),
        (["memory/tmaze", "--with-module", "tests", "--with-module", "tests"], "a module tests is sent already"),
        (["--seed", "2"], "the task comes first"),
        (["--suite", "memory", "memory/tmaze"], "memory/tmaze"),
        (["--suite", "nonsense"], "nonsense"),
        (["--resume", "job", "memory/tmaze"], "memory/tmaze"),
        (["memory/tmaze", "--cluster", "here"], "--cluster"),
        ([], "the task is missing"),
    ],
)
def test_bad_input_is_told_before_a_cluster_is_asked(capsys: Capture, words: list[str], said: str) -> None:
    given_cluster = [] if "--cluster" in words or not words else NOWHERE
    message = refused(capsys, "submit", *words, *given_cluster)
    assert said in message
    assert "127.0.0.1:1:" not in message


@pytest.mark.parametrize("words", [["--nonsense", "3"], ["--learning-rate", "fast"], ["--entrypoint-gpus", "all"]])
def test_flags_that_cannot_be_read_are_named(capsys: Capture, words: list[str]) -> None:
    assert main(["submit", "memory/tmaze", *words, *NOWHERE]) == 2
    assert words[0] in capsys.readouterr().err


def test_nobody_listens(capsys: Capture) -> None:
    for words in (["submit", "memory/tmaze"], ["submit", "--suite", "memory"], ["jobs", "list"], ["jobs", "stop", "x"]):
        assert "no Ray cluster at http://127.0.0.1:1: Connection refused" in refused(capsys, *words, *NOWHERE)


def test_commands_of_jobs_are_named(capsys: Capture) -> None:
    assert "list, status, logs, follow, stop, fetch" in refused(capsys, "jobs", "show")
    assert main(["jobs", "--help"]) == 0
    for flag, value in (("--tail", "-1"), ("--limit-mib", "0"), ("--wait-seconds", "-1.0")):
        command = {"--tail": "logs", "--limit-mib": "fetch", "--wait-seconds": "stop"}[flag]
        assert flag in refused(capsys, "jobs", command, "x", flag, value, *NOWHERE)


def test_the_address_comes_from_the_flag_or_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "https://b:1/")
    assert cluster_address(None) == "https://b:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://a:1")
    assert cluster_address(None) == "http://a:1"
    assert cluster_address("http://[::1]:8265") == "http://[::1]:8265"
    for wrong in ("auto", "127.0.0.1:6379", "ray://a:1", "file:///etc", "http://", "http://a:port", "http://[::1"):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", wrong)
        with pytest.raises(ValueError, match="RAY_API_SERVER_ADDRESS"):
            cluster_address(None)


PRINTABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)


@given(python=PRINTABLE, flag=PRINTABLE, folder=PRINTABLE, home=st.booleans())
def test_the_shell_reads_every_word_as_it_was_written(python: str, flag: str, folder: str, home: bool) -> None:
    """A real shell, with printf in the place of the interpreter."""
    place = f"{'~' if home else ''}/{folder}"
    arguments = SubmitArguments(python=python)
    request = training_request(arguments, "id", "t", place, ("memory/tmaze", flag, "--run-dir"), (flag,))
    command = request.entrypoint.replace(f"exec {shlex.quote(python)} ", r"printf '%s\0' ", 1)
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True, env={"HOME": "/ho me"})
    there = f"{'/ho me' if home else ''}/{folder}"
    words = ["-m", "r2ac.launch", "train", "memory/tmaze", flag, "--run-dir", there, flag]
    assert done.stdout.decode().split("\0")[:-1] == words


@given(st.text(max_size=60))
def test_ids_are_safe_in_paths_and_addresses(task: str) -> None:
    job = new_job_id(task)
    assert job.isascii()
    assert is_job_id(job)
    assert set(job) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert is_sender_id(new_job_id("fetch"))
    assert not is_sender_id(new_job_id("memory/tmaze"))


def test_places() -> None:
    for place in ("/runs", "~/runs", "s3://bucket/runs", "file:///runs"):
        assert is_place(place)
    for word in ("runs", "", "~", "~root/runs", "./runs", "/a\nb", "s3:/bucket"):
        assert not is_place(word)


def test_modules_are_sent_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flags are checked with them, though they lie elsewhere; what was compiled and what is hidden stays here."""
    alone, package = tmp_path / "my_own_walk.py", tmp_path / "my_wrappers"
    alone.write_text("from tests.own_envs import deaf\n")
    for name in ("__init__.py", "inside/data.json", "__pycache__/old.pyc", ".git/config"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("from my_own_walk import deaf" if name == "__init__.py" else "")
    sent: dict[str, bytes] = {}

    class Recorder:
        ray_version = "2.60.0"

        def submit(self, request: JobRequest) -> Job:
            with zipfile.ZipFile(request.runtime_env["working_dir"]) as archive:
                sent.update({name: archive.read(name) for name in archive.namelist()})
            assert "--wrappers my_wrappers:deaf" in request.entrypoint
            return Job(request.id, "PENDING", {}, "", None, None, None, None)

    monkeypatch.setattr(submit, "JobServer", lambda address: Recorder())
    monkeypatch.setattr(sys, "path", list(sys.path))
    flags = ["--wrappers", "my_wrappers:deaf", "--with-module", str(alone), "--with-module", str(package)]
    assert main(["submit", "gym/my_own_walk:own/Walk-v0", *flags]) == 0
    assert sent["my_own_walk.py"] == alone.read_bytes()
    assert [name for name in sent if name.startswith("my_wrappers")] == [
        "my_wrappers/__init__.py",
        "my_wrappers/inside/data.json",
    ]
    assert "r2ac/launch/cli.py" in sent


class Answer(BaseHTTPRequestHandler):
    """Answers every question with the text of the server."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.text.encode())  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"version": "4", "ray_version": "2.9.3"}), "runs Ray 2.9.3, but r2ac needs at least 2.49"),
        (json.dumps({"version": "5", "ray_version": "9.0.0"}), "install ray==9.0.0 here"),
        (json.dumps({"version": "4"}), "is not Ray's dashboard"),
        ("[]", "is not Ray's dashboard"),
        ("<html>", "is not Ray's dashboard"),
    ],
)
def test_another_ray_or_none(capsys: Capture, answering: HTTPServer, text: str, said: str) -> None:
    answering.text = text  # type: ignore[attr-defined]
    address = f"http://127.0.0.1:{answering.server_port}"
    message = refused(capsys, "submit", "memory/tmaze", "--cluster", address)
    assert said in message
    assert address in message


def test_nothing_is_left_behind(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capsys, "submit", "memory/tmaze", *NOWHERE)
    refused(capsys, "jobs", "fetch", "x", *NOWHERE)
    assert not list(tmp_path.iterdir())
