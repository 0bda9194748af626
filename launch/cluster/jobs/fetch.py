"""Bringing the run directory of a job here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import shlex
import shutil
import tarfile
import time
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path

from r2ac.launch.cluster.jobs.job import PYTHON, SENDER, Job, is_job_id, new_job_id
from r2ac.launch.cluster.jobs.pack import BEGIN, END
from r2ac.launch.cluster.jobs.server import JobError, JobRequest, JobServer, wait_for_end
from r2ac.launch.cluster.jobs.submission import quoted_place, submit_with_package
from r2ac.launch.runs.run_files import OF_A_RUN, Choice, files_below, wanted
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store
from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as
from r2ac.launch.settings.places import is_url

# A tar archive of empty files is a few kB a file.
_MOST_FILES = 20_000
_HEADERS = 64 * 2**20


def fetch(server: JobServer, job: Job, output: Path, limit: int, checkpoints: bool, wait_seconds: float) -> str:
    """Copy the run of a job into the new directory ``output``: all but locks; of the checkpoints the newest, or none.
    Returns the number and size of the files and how they came, for people to read.

    Raises JobError where the job has no run directory, its run has more than ``limit`` bytes or does not arrive within
    ``wait_seconds``, and RunDirectoryError where it cannot be written here; then there is no ``output``.
    """
    if job.run_directory is None:
        raise JobError(f"job {job.id} was not made by r2ac submit: its run directory is unknown")
    if os.path.lexists(output):
        raise RunDirectoryError(f"{output} exists already, and a run that is fetched needs a new directory: --output")
    # Under another name, so that the output is there whole or not at all.
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    choice: Choice = "newest" if checkpoints else "none"
    with ExitStack() as at_the_end, os_errors_as(RunDirectoryError, f"{output} cannot be written"):
        at_the_end.callback(shutil.rmtree, partial, ignore_errors=True)
        partial.mkdir(parents=True)
        way = _bring(server, job, job.run_directory, partial, limit, choice, wait_seconds)
        files = files_below(partial)
        size = sum((partial / name).stat().st_size for name in files)
        partial.rename(output)
    return f"{len(files):,} ({size / 2**20:,.1f} MiB), {way}"


def _bring(
    server: JobServer, job: Job, place: str, folder: Path, limit: int, choice: Choice, wait_seconds: float
) -> str:
    """Fill the folder; returns how. A run directory that this machine sees too is copied, one at a URL is read with
    fsspec, any other is printed by a small job on the run's node."""
    if is_url(place):
        _download(place, folder, choice)
        return "read with fsspec"
    path = Path(place).expanduser()
    # Only a name that no other directory has proves that it is the same as on the node.
    if path.is_absolute() and is_job_id(path.name) and any((path / name).is_file() for name in OF_A_RUN):
        for name in wanted(files_below(path), choice):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # The run goes on, and may have removed what was too old.
            with suppress(FileNotFoundError):
                shutil.copyfile(path / name, folder / name)
        return "copied"
    unpack(_sent(server, job, place, limit, choice, wait_seconds), folder, limit)
    return "sent through the cluster"


def _download(url: str, folder: Path, choice: Choice) -> None:
    try:
        store = Store(url)
        names = wanted(store.files(), choice)
        if not set(OF_A_RUN) & set(names):
            raise JobError(f"there is no run at {url}")
        for name in names:
            store.get(name, folder / name)
    except (StorageError, StorageUnavailable) as error:
        raise JobError(str(error)) from error


def _sent(server: JobServer, job: Job, place: str, limit: int, choice: Choice, seconds: float) -> str:
    """What a small job on the same node prints of the run."""
    if job.node is None:
        raise JobError(f"job {job.id} has not begun: there is nothing to fetch yet")
    python = job.metadata.get(PYTHON, "python")
    words = (python, "-m", "r2ac.launch.cluster.jobs.pack", str(limit), choice)
    request = JobRequest(new_job_id(SENDER), f"exec {shlex.join(words)} {quoted_place(place)}", node=job.node)
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


def unpack(log: str, folder: Path, limit: int) -> None:
    """Write the files that `r2ac.launch.cluster.jobs.pack` printed into ``folder``. The log is not trusted: sizes are
    bounded before anything is unpacked, and only plain files inside of ``folder`` are made. Raises JobError where the
    log is not whole, or holds anything else."""
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
            # A sparse file may be far larger than the archive.
            plain = all(member.isfile() and not member.issparse() for member in members)
            if len(members) > _MOST_FILES or not plain:
                raise ValueError("it holds what no run holds")
            tar.extractall(folder, members, filter="data")
    except (ValueError, KeyError, TypeError, binascii.Error, zlib.error, tarfile.TarError) as error:
        raise JobError(f"what the cluster sent is no run: {error}") from error
