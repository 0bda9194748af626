"""``r2ac jobs``: what became of submitted trainings."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from r2ac.launch.cluster.jobs.fetch import fetch
from r2ac.launch.cluster.jobs.job import Job, is_sender_id
from r2ac.launch.cluster.jobs.server import Cluster, JobServer, cluster_address, follow, wait_for_end
from r2ac.launch.runtime.output import print_failures, reader_is_gone
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError, require
from r2ac.launch.settings.parser import parse

HELP = """\
usage: r2ac jobs COMMAND …

  r2ac jobs list               the jobs of the cluster, the newest first
  r2ac jobs status JOB         what a job does, and where its run lies
  r2ac jobs logs JOB           what it has printed; --tail N: the last lines
  r2ac jobs follow JOB         the same as it comes, until the job has ended; Ctrl-C leaves it running
  r2ac jobs stop JOB           let it write a checkpoint and end
  r2ac jobs fetch JOB          copy its run directory here

JOB is what r2ac submit printed, or the name that it was given. Every command takes --cluster http://HOST:PORT; see
r2ac jobs COMMAND --help.
"""


def jobs_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac jobs COMMAND …``."""
    rest = list(arguments)
    if not rest or rest[0] in ("-h", "--help"):
        console.print(HELP, markup=False, end="", soft_wrap=True)
        return 0 if rest else 2
    if rest[0] not in _COMMANDS:
        raise ConfigError(f"there is no command r2ac jobs {rest[0]!r}; those there are {', '.join(_COMMANDS)}")
    return int(parse(_COMMANDS[rest[0]], f"r2ac jobs {rest[0]}", rest[1:]).run(console))


@dataclass(frozen=True)
class _ListJobs:
    """The jobs of a Ray cluster, the newest first."""

    cluster: Cluster = None

    def run(self, console: Console) -> int:
        server = JobServer(cluster_address(self.cluster))
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column in ("job", "name", "trains", "status", "begun", "time"):
            table.add_column(column, no_wrap=column != "name", overflow="fold")
        for job in server.jobs():
            if not is_sender_id(job.id):
                words = (job.id, job.name, job.task, job.status.lower(), _clock(job.started), _time(job))
                table.add_row(*map(Text, words))
        if table.rows:
            console.print(table)
        else:
            _say(console, f"there are no jobs on the cluster at {server.address}")
        return 0


@dataclass(frozen=True)
class _JobArguments:
    job: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="Id or name of a job.", metavar="JOB")]
    cluster: Cluster = None

    def find(self) -> tuple[JobServer, Job]:
        """The cluster, and the job there."""
        server = JobServer(cluster_address(self.cluster))
        return server, server.find(self.job)


@dataclass(frozen=True)
class _JobStatus(_JobArguments):
    """What a job does, and where its run lies."""

    def run(self, console: Console) -> int:
        _, job = self.find()
        rows = [
            ("name", job.name),
            ("trains", job.task),
            ("status", job.status.lower()),
            ("begun", _clock(job.started)),
            ("time", _time(job)),
            ("node", job.node or ""),
            ("exit code", str(job.exit_code) if job.has_ended else ""),
            ("message", _summary(job) if job.status in ("PENDING", "FAILED") else ""),
        ]
        places = {"run directory": job.run_directory} if job.run_directory else {}
        print_table(console, job.id, [(name, value) for name, value in rows if value], places)
        return 0


@dataclass(frozen=True)
class _JobLogs(_JobArguments):
    """What a job has printed so far."""

    tail: int | None = None
    """Only so many lines, the last ones."""

    def run(self, console: Console) -> int:
        require(self.tail is None or self.tail >= 0, "tail", self.tail, "at least 0")
        server, job = self.find()
        lines = server.log(job).splitlines(keepends=True)
        # Of no lines the last 0 are none, and not all.
        sys.stdout.write("".join(lines if self.tail is None else lines[max(0, len(lines) - self.tail) :]))
        return 0


@dataclass(frozen=True)
class _FollowJob(_JobArguments):
    """What a job prints, until it has ended; ends as the job does: 0, 143 where it was stopped, else its exit code.
    Ctrl-C, and a reader such as head that has read enough, leave the job running."""

    def run(self, console: Console) -> int:
        return follow_job(*self.find(), self.cluster, console)


@dataclass(frozen=True)
class _StopJob(_JobArguments):
    """Ask a job to stop, and wait until it has: a training writes a checkpoint first (r2ac submit --stop-seconds)."""

    wait_seconds: float = 330.0
    """How long to wait for its end; 0: not at all."""

    def run(self, console: Console) -> int:
        """0 where the job has ended, 1 where it still runs after --wait-seconds."""
        require(0 <= self.wait_seconds < 1e9, "wait_seconds", self.wait_seconds, "at least 0")
        server, job = self.find()
        if job.has_ended:
            _say(console, f"{job.id} has ended already: it {_WORDS[job.status]}")
            return 0
        server.stop(job)
        if self.wait_seconds == 0:
            _say(console, f"{job.id} was asked to stop")
            return 0
        try:
            job = wait_for_end(server, job, self.wait_seconds)
        except KeyboardInterrupt:
            _say(console, f"\n{job.id} was asked to stop, and ends by itself")
            return 130
        if not job.has_ended:
            asked = f"job {job.id} was asked to stop, but has not ended after {self.wait_seconds:g} s"
            print_failures([f"{asked}: {command_line(('jobs', 'status'), job, self.cluster)}"])
            return 1
        _say(console, f"{job.id} {_WORDS[job.status]}")
        if job.run_directory is not None and job.status == "STOPPED":
            _say(console, f"Continue with: {command_line(('submit', '--resume'), job, self.cluster)}")
        return 0


@dataclass(frozen=True)
class _FetchJob(_JobArguments):
    """Copy the run directory of a job here, also while it trains: all but the checkpoints before the newest."""

    output: Path | None = None
    """A new directory; runs/<job's id> if not given."""
    checkpoint: bool = True
    """The newest checkpoint too, not only configuration, curves and evaluations."""
    limit_mib: int = 256
    """The most MiB that may come through the cluster's log; copies and downloads have no limit."""
    wait_seconds: float = 180.0
    """How long the node may take to send it."""

    def run(self, console: Console) -> int:
        require(self.limit_mib >= 1, "limit_mib", self.limit_mib, "at least 1")
        require(0 < self.wait_seconds < 1e9, "wait_seconds", self.wait_seconds, "above 0")
        server, job = self.find()
        output = self.output or Path("runs") / job.id
        files = fetch(server, job, output, self.limit_mib * 2**20, self.checkpoint, self.wait_seconds)
        print_table(console, f"{job.id}: fetched", [("files", files)], {"run": output})
        return 0


_COMMANDS = {
    "list": _ListJobs,
    "status": _JobStatus,
    "logs": _JobLogs,
    "follow": _FollowJob,
    "stop": _StopJob,
    "fetch": _FetchJob,
}


def follow_job(server: JobServer, job: Job, cluster: str | None, console: Console) -> int:
    """Show the log of a job until it has ended; returns its exit code, 130 for Ctrl-C, or 141 (SIGPIPE's) where the
    log's reader is gone."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        if reader_is_gone():
            raise BrokenPipeError

    try:
        job = follow(server, job, write)
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        again, stop = (command_line(("jobs", word), job, cluster) for word in ("follow", "stop"))
        _say(console, f"\n{job.id} goes on. Follow it again with: {again}")
        _say(console, f"Stop it with: {stop}")
        return 130
    if job.status == "FAILED":
        print_failures([f"job {job.id} failed: {_summary(job)}"])
    else:
        _say(console, f"{job.id} {_WORDS[job.status]}")
    return job.exit_code


def command_line(words: Sequence[str], job: Job, cluster: str | None) -> str:
    """A command about a job, with the cluster if it was named: for people to copy."""
    return shlex.join(("r2ac", *words, job.id, *(("--cluster", cluster) if cluster else ())))


_WORDS = {"SUCCEEDED": "has succeeded", "FAILED": "has failed", "STOPPED": "was stopped"}


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, soft_wrap=True, markup=False)


def _clock(time: datetime | None) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time else ""


def _time(job: Job) -> str:
    if job.seconds is None:
        return ""
    minutes, seconds = divmod(max(round(job.seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _summary(job: Job) -> str:
    """The last line of what Ray says of a job: of one that failed, the last that it printed."""
    lines = [line.strip() for line in job.message.splitlines() if line.strip()]
    return lines[-1].removeprefix("r2ac: ") if lines else "nothing is said about it"
