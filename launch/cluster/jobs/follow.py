"""The log of a job as it comes, until the job has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from r2ac.launch.cluster.connect import ConnectionFailed
from r2ac.launch.cluster.jobs.job import Job
from r2ac.launch.cluster.jobs.server import JobError, JobServer

_ATTEMPTS = 5
_PAUSE_SECONDS = 2.0


def follow(server: JobServer, job: Job, write: Callable[[str], object]) -> Job:
    """Give the log of a job to ``write``, from its beginning, until the job has ended; returns the job as it then is.

    A connection that breaks is made anew, and goes on where it was.

    Raises:
        ConnectionFailed: when the cluster stays away.
    """
    written = failures = 0

    async def write_new() -> None:
        """Every character once, however often the log is read from its beginning."""
        nonlocal written
        seen = 0
        async for piece in server.tail(job):
            new = piece[max(0, written - seen) :]
            seen += len(piece)
            written += len(new)
            write(new)

    while True:
        before = written
        try:
            asyncio.run(write_new())
            job = wait_for_end(server, job, _PAUSE_SECONDS)
            if job.has_ended:
                return job
        except (ConnectionFailed, JobError):
            failures = 0 if written > before else failures + 1
            if failures == _ATTEMPTS:
                raise
            time.sleep(_PAUSE_SECONDS)


def wait_for_end(server: JobServer, job: Job, seconds: float) -> Job:
    """The job once it has ended, or as it is after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (job := server.state(job)).has_ended and time.monotonic() < deadline:
        time.sleep(0.25)
    return job
