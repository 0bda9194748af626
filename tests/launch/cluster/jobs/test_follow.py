"""Following the log of a job."""

import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rich.console import Console

from r2ac.launch.cluster.jobs.job import Job
from r2ac.launch.commands.jobs import follow_job
from r2ac.launch.runtime.output import SafeStream

JOB = Job("job", "RUNNING", {}, "", None, None, None, None)


class Chatty:
    """A server whose job prints lines; it must not be asked for more than ``lines`` of them."""

    def __init__(self, lines: int) -> None:
        self.lines = lines

    async def tail(self, job: Job) -> AsyncIterator[str]:
        for number in range(self.lines):
            yield f"line {number}\n"
        pytest.fail("the whole log was read")


def test_a_log_that_nobody_reads_any_more_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Chatty(lines=2)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", SafeStream(pipe))
        assert follow_job(server, JOB, None, Console()) == 141
