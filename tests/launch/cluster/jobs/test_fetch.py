"""What is packed of a run, how it travels as text, and that nothing of what comes is trusted."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ac.launch.cluster.jobs.fetch import fetch, unpack
from r2ac.launch.cluster.jobs.job import RUN_DIRECTORY, Job
from r2ac.launch.cluster.jobs.pack import BEGIN, END, PackError, send
from r2ac.launch.cluster.jobs.server import JobError
from r2ac.launch.runtime.errors import RunDirectoryError

LIMIT = 2**20
NOBODY: Any = None


def make_run(path: Path) -> Path:
    """A run with three checkpoints, locks, unfinished files and a link that leads out."""
    (path / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", "events.out.tfevents.1", "evaluation.json", "run.lock", ".config.1"):
        (path / name).write_text(name)
    for step in (0, 900, 1000):
        (path / "checkpoints" / f"step_{step:012d}.safetensors").write_text(str(step))
    (path / "checkpoints" / ".step_000000002000.safetensors.r2ac-partial").write_text("half")
    (path / "link").symlink_to("/etc/passwd")
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


KEPT = {name: name for name in ("config.json", "metrics.jsonl", "events.out.tfevents.1", "evaluation.json")}
NEWEST = {"checkpoints/step_000000001000.safetensors": "1000"}


def job_at(place: str) -> Job:
    return Job("j", "RUNNING", {RUN_DIRECTORY: place}, "", None, None, None, None)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_run_travels_as_text(tmp_path: Path, checkpoints: bool) -> None:
    log = io.StringIO()
    send(make_run(tmp_path / "run"), log, LIMIT, "newest" if checkpoints else "none")
    (tmp_path / "output").mkdir()
    first, *rest = log.getvalue().splitlines(keepends=True)
    ray = "Running entrypoint for job j: exec python\n"
    unpack("".join([ray, first, ray, *rest, "bye\n"]), tmp_path / "output", LIMIT)
    assert contents(tmp_path / "output") == KEPT | (NEWEST if checkpoints else {})


def test_a_run_that_is_too_large_is_not_sent(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(PackError, match="more than"):
        send(tmp_path / "run", io.StringIO(), 20, "newest")
    with pytest.raises(PackError, match="there is no run"):
        send(tmp_path, io.StringIO(), LIMIT, "newest")


def log_of(members: list[tarfile.TarInfo], content: bytes = b"x") -> str:
    """As `send` writes it, with what it never writes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return text_of(archive.getvalue())


def text_of(packed: bytes, digest: str | None = None) -> str:
    header = json.dumps({"sha256": digest or hashlib.sha256(packed).hexdigest()})
    return f"{BEGIN}{header}\n{base64.b64encode(packed).decode()}\n{END}\n"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "log",
    [
        log_of([member("../outside")]),
        log_of([member("a/../../outside")]),
        log_of([member("link", tarfile.SYMTYPE, "/etc")]),
        log_of([member("hard", tarfile.LNKTYPE, "../outside")]),
        log_of([member("pipe", tarfile.FIFOTYPE)]),
        log_of([member("device", tarfile.CHRTYPE)]),
        log_of([member("large")], b"0" * (80 * 2**20)),
        text_of(gzip.compress(gzip.compress(b"nested"))),
        text_of(b"no archive"),
        text_of(gzip.compress(b"x"), digest="0" * 64),
        log_of([member("torn")]).replace(END, ""),
        f"{BEGIN}[]\n{END}\n",
        f"{BEGIN}no json\n{END}\n",
        "",
    ],
    ids=lambda log: log[:12],
)
def test_what_no_run_holds_is_refused(tmp_path: Path, log: str) -> None:
    (tmp_path / "output").mkdir()
    with pytest.raises(JobError, match="what the cluster sent is no run"):
        unpack(log, tmp_path / "output", LIMIT)
    assert [path.name for path in tmp_path.rglob("*")] == ["output"]


def test_absolute_names_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    unpack(log_of([member(f"{tmp_path}/outside")]), tmp_path / "output", LIMIT)
    assert not (tmp_path / "outside").exists()


@given(st.text(), st.binary(max_size=200))
def test_any_log_is_refused_in_one_sentence(text: str, packed: bytes) -> None:
    for log in (text, text_of(packed), f"{BEGIN}{text}{END}"):
        with pytest.raises(JobError):
            unpack(log, Path("/nonexistent"), LIMIT)


def test_a_run_at_a_url_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "store" / "run")
    files = fetch(NOBODY, job_at(run.as_uri()), tmp_path / "here" / "output", LIMIT, True, 1)
    names = contents(tmp_path / "here" / "output")
    names.pop("link", None)
    assert names == KEPT | NEWEST
    assert files.endswith(", read with fsspec")


@pytest.mark.parametrize("place", ["file:///nothing/there", "nosuchscheme://bucket/run"])
def test_a_url_without_a_run_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(JobError, match=r"there is no run at|cannot be reached"):
        fetch(NOBODY, job_at(place), tmp_path / "output", LIMIT, True, 1)
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("mine")
    with pytest.raises(RunDirectoryError, match="exists already"):
        fetch(NOBODY, job_at("/run"), tmp_path / "output", LIMIT, True, 1)
    assert (tmp_path / "output").read_text() == "mine"
