"""Bringing the run directory of a job here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import secrets
import shlex
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from r2ac.launch.cluster.jobs.follow import wait_for_end
from r2ac.launch.cluster.jobs.job import PYTHON, SENDER, Job, is_job_id, new_job_id
from r2ac.launch.cluster.jobs.pack import BEGIN, END
from r2ac.launch.cluster.jobs.server import JobError, JobRequest, JobServer
from r2ac.launch.cluster.jobs.submission import quoted_place, submit_with_package
from r2ac.launch.runs.run_files import files_below, wanted
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store
from r2ac.launch.runtime.errors import RunDirectoryError, os_reason
from r2ac.launch.settings.places import is_url

# A tar archive of empty files is a few kB a file.
_MOST_FILES = 20_000
_HEADERS = 64 * 2**20


@dataclass(frozen=True)
class Fetched:
    """A run that has been brought here."""

    path: Path
    files: int
    bytes: int
    way: str
    """How it came, in a few words."""


def fetch(server: JobServer, job: Job, output: Path, limit: int, checkpoints: bool, wait_seconds: float) -> Fetched:
    """Copy the run of a job into the new directory ``output``: all but locks and the checkpoints before the newest.

    A run directory that this machine sees too is copied, one that is a URL is read with fsspec, and any other one is
    sent by a small job that runs beside it and prints it.

    Args:
        limit: the most bytes that may come through the cluster.
        checkpoints: whether the newest checkpoint comes too.
        wait_seconds: how long that small job may take to begin and end.

    Raises:
        JobError: where the job has no run directory, or the run cannot be sent.
        RunDirectoryError: where it cannot be written here; then ``output`` is as it was.
    """
    place = job.run_directory
    if place is None:
        raise JobError(f"job {job.id} was not made by r2ac submit: nobody knows where it writes")
    if os.path.lexists(output):
        raise RunDirectoryError(f"{output} exists already, and a run that is fetched needs a new directory: --output")

    def fill(folder: Path) -> str:
        if (near := _seen_from_here(place)) is not None:
            _copy(near, folder, checkpoints)
            return "copied"
        if is_url(place):
            _download(place, folder, checkpoints)
            return "read with fsspec"
        unpack(_sent(server, job, place, limit, checkpoints, wait_seconds), folder, limit)
        return "sent through the cluster"

    return _written(output, fill)


def _written(output: Path, fill: Callable[[Path], str]) -> Fetched:
    """Let ``fill`` make the directory under another name, so that ``output`` is there whole or not at all."""
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        way = fill(partial)
        files = files_below(partial)
        size = sum((partial / name).stat().st_size for name in files)
        partial.rename(output)
    except OSError as error:
        raise RunDirectoryError(f"{output} cannot be written: {os_reason(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Fetched(output, len(files), size, way)


def _seen_from_here(place: str) -> Path | None:
    """The run directory, where the file system of the node is mounted here too; only a name that no other directory
    has proves that it is the same."""
    path = Path(place).expanduser()
    seen = path.is_absolute() and is_job_id(path.name) and not is_url(place)
    return path if seen and any((path / name).is_file() for name in ("config.json", "suite.json")) else None


def _copy(run: Path, folder: Path, checkpoints: bool) -> None:
    for name in wanted(files_below(run), "newest" if checkpoints else "none"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # The run goes on, and may have removed what was too old.
        with suppress(FileNotFoundError):
            shutil.copyfile(run / name, folder / name)


def _download(url: str, folder: Path, checkpoints: bool) -> None:
    """From an object store, as fsspec reads it. Raises JobError."""
    try:
        store = Store(url)
        names = wanted(store.files(), "newest" if checkpoints else "none")
        if not {"config.json", "suite.json"} & set(names):
            raise JobError(f"there is no run at {url}")
        for name in names:
            store.get(name, folder / name)
    except (StorageError, StorageUnavailable) as error:
        raise JobError(str(error)) from error


def _sent(server: JobServer, job: Job, place: str, limit: int, checkpoints: bool, seconds: float) -> str:
    """What a small job on the same node prints of the run."""
    if job.node is None:
        raise JobError(f"job {job.id} has not begun: there is nothing to fetch yet")
    words = (job.metadata.get(PYTHON, "python"), "-m", "r2ac.launch.cluster.jobs.pack", str(limit))
    choice = "all" if checkpoints else "no-checkpoints"
    request = JobRequest(
        id=new_job_id(SENDER, secrets.token_hex(3)),
        entrypoint=f"exec {shlex.join(words)} {choice} {quoted_place(place)}",
        runtime_env={},
        metadata={},
        node=job.node,
    )
    began = time.monotonic()
    sender = submit_with_package(server, request)
    try:
        sender = wait_for_end(server, sender, seconds)
        log = server.log(sender)
    finally:
        if not sender.has_ended:
            server.stop(sender)
    if sender.status == "SUCCEEDED":
        return log
    if not sender.has_ended:
        raise JobError(
            f"node {job.node}, where the run of job {job.id} lies, did not send it within "
            f"{time.monotonic() - began:.0f} s: it may have left the cluster (--wait-seconds gives it more time)"
        )
    said = [line.removeprefix("r2ac: ") for line in log.splitlines() if line.strip()]
    raise JobError(f"the run of job {job.id} cannot be sent: {said[-1] if said else sender.message}")


def _is_plain(member: tarfile.TarInfo) -> bool:
    # A sparse file may be far larger than the archive.
    return member.isfile() and not member.issparse()


def unpack(log: str, folder: Path, limit: int) -> None:
    """Write the files that `r2ac.launch.cluster.jobs.pack` printed into ``folder``.

    Nothing of the log is trusted: sizes are bounded before anything is unpacked, and only plain files and folders
    inside of ``folder`` are made.

    Raises:
        JobError: where the log is not whole, or holds what no run holds.
    """
    _, begun, rest = log.rpartition(BEGIN)
    first, _, rest = rest.partition("\n")
    body, ended, _ = rest.partition(END)
    try:
        if not (begun and ended):
            raise ValueError("marks are missing")
        expected = json.loads(first)
        # Ray's own line about the command may come late, between two of ours.
        lines = (line for line in body.splitlines() if not line.startswith("Running entrypoint "))
        packed = base64.b64decode("".join(lines), validate=True)
        if hashlib.sha256(packed).hexdigest() != expected["sha256"]:
            raise ValueError("the checksum is another one")
        unpacker = zlib.decompressobj(wbits=31)
        archive = unpacker.decompress(packed, limit + _HEADERS)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError(f"it holds more than {limit / 2**20:,.0f} MiB")
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            members = tar.getmembers()
            if len(members) > _MOST_FILES or not all(map(_is_plain, members)):
                raise ValueError("it holds what no run holds")
            tar.extractall(folder, members, filter="data")
    except (ValueError, KeyError, TypeError, binascii.Error, zlib.error, tarfile.TarError) as error:
        raise JobError(f"what the cluster sent is no run: {error}") from error
