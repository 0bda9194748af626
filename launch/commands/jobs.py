"""``r2ac jobs``: what became of submitted trainings."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from r2ac.launch.cluster.jobs.fetch import fetch
from r2ac.launch.cluster.jobs.follow import follow, wait_for_end
from r2ac.launch.cluster.jobs.job import Job, is_sender_id
from r2ac.launch.cluster.jobs.server import DEFAULT_ADDRESS, JobServer, cluster_address
from r2ac.launch.runtime.output import print_failures, reader_is_gone
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import parse

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
Cluster = Annotated[
    str | None,
    tyro.conf.arg(
        help="The dashboard of the cluster, http://HOST:PORT; if not given RAY_API_SERVER_ADDRESS or RAY_ADDRESS says, "
        f"else it is {DEFAULT_ADDRESS}."
    ),
]
JobName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="Id or name of a job.", metavar="JOB")]


@dataclass(frozen=True)
class ListArguments:
    """The jobs of a Ray cluster, the newest first."""

    cluster: Cluster = None


@dataclass(frozen=True)
class StatusArguments:
    """What a job does, and where its run lies."""

    job: JobName
    cluster: Cluster = None


@dataclass(frozen=True)
class LogsArguments:
    """What a job has printed so far."""

    job: JobName
    tail: int | None = None
    """Only so many lines, the last ones."""
    cluster: Cluster = None


@dataclass(frozen=True)
class FollowArguments:
    """What a job prints, until it has ended; ends as the job does: 0, 143 where it was stopped, else its exit code.
    Ctrl-C, and a reader such as head that has read enough, leave the job running."""

    job: JobName
    cluster: Cluster = None


@dataclass(frozen=True)
class StopArguments:
    """Ask a job to stop, and wait until it has: a training writes a checkpoint first (r2ac submit --stop-seconds)."""

    job: JobName
    wait_seconds: float = 330.0
    """How long to wait for its end; 0: not at all."""
    cluster: Cluster = None


@dataclass(frozen=True)
class FetchArguments:
    """Copy the run directory of a job here, also while it trains: all but the checkpoints before the newest."""

    job: JobName
    output: Path | None = None
    """A new directory; runs/<job's id> if not given."""
    checkpoint: bool = True
    """The newest checkpoint too, not only configuration, curves and evaluations."""
    limit_mib: int = 256
    """The most MiB that may come through the cluster's log; copies and downloads have no limit."""
    wait_seconds: float = 180.0
    """How long the node may take to send it."""
    cluster: Cluster = None


def jobs_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac jobs COMMAND …``."""
    rest = list(arguments)
    if not rest or rest[0] in ("-h", "--help"):
        console.print(HELP, markup=False, end="", soft_wrap=True)
        return 0 if rest else 2
    if rest[0] not in _COMMANDS:
        raise ConfigError(f"there is no command r2ac jobs {rest[0]!r}; those there are {', '.join(_COMMANDS)}")
    kind, command = _COMMANDS[rest[0]]
    parsed = parse(kind, f"r2ac jobs {rest[0]}", rest[1:])
    return command(parsed, console)


def follow_job(server: JobServer, job: Job, cluster: str | None, console: Console) -> int:
    """Show the log of a job until it has ended, or nobody reads it any more; returns what the job came to, 130 for
    Ctrl-C, or 141 where the reader is gone (as of what SIGPIPE ends)."""

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
        console.print(f"\n{job.id} goes on. Follow it again with: {again}", soft_wrap=True, markup=False)
        console.print(f"Stop it with: {stop}", soft_wrap=True, markup=False)
        return 130
    if job.status == "FAILED":
        print_failures([f"job {job.id} failed: {_summary(job)}"])
    else:
        console.print(f"{job.id} {_WORDS[job.status]}", soft_wrap=True, markup=False)
    return job.exit_code


def command_line(words: Sequence[str], job: Job, cluster: str | None) -> str:
    """A command about a job, with the cluster if it was named: for people to copy."""
    return shlex.join(("r2ac", *words, job.id, *(("--cluster", cluster) if cluster else ())))


_WORDS = {"PENDING": "waits", "RUNNING": "runs", "SUCCEEDED": "has succeeded", "FAILED": "has failed"}
_WORDS["STOPPED"] = "was stopped"


def _connect(cluster: str | None) -> JobServer:
    return JobServer.connect(cluster_address(cluster))


def _list(arguments: ListArguments, console: Console) -> int:
    server = _connect(arguments.cluster)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("job", "name", "trains", "status", "begun", "time"):
        table.add_column(column, no_wrap=column != "name", overflow="fold")
    jobs = [job for job in server.jobs() if not is_sender_id(job.id)]
    for job in jobs:
        table.add_row(*map(Text, (job.id, job.name, job.task, job.status.lower(), _clock(job.started), _time(job))))
    if jobs:
        console.print(table)
    else:
        console.print(f"there are no jobs on the cluster at {server.address}", markup=False, soft_wrap=True)
    return 0


def _status(arguments: StatusArguments, console: Console) -> int:
    job = _connect(arguments.cluster).find(arguments.job)
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


def _logs(arguments: LogsArguments, console: Console) -> int:
    if arguments.tail is not None and arguments.tail < 0:
        raise ConfigError(f"--tail is {arguments.tail}, but it must be at least 0")
    server = _connect(arguments.cluster)
    lines = server.log(server.find(arguments.job)).splitlines(keepends=True)
    # Of no lines the last 0 are none, and not all.
    sys.stdout.write("".join(lines if arguments.tail is None else lines[max(0, len(lines) - arguments.tail) :]))
    return 0


def _follow(arguments: FollowArguments, console: Console) -> int:
    server = _connect(arguments.cluster)
    return follow_job(server, server.find(arguments.job), arguments.cluster, console)


def _stop(arguments: StopArguments, console: Console) -> int:
    """0 where the job has ended, 1 where it still runs after --wait-seconds."""
    if not 0 <= arguments.wait_seconds < 1e9:
        raise ConfigError(f"--wait-seconds is {arguments.wait_seconds}, but it must be at least 0")
    server = _connect(arguments.cluster)
    job = server.find(arguments.job)
    if job.has_ended:
        console.print(f"{job.id} has ended already: it {_WORDS[job.status]}", markup=False, soft_wrap=True)
        return 0
    server.stop(job)
    if arguments.wait_seconds == 0:
        console.print(f"{job.id} was asked to stop", markup=False, soft_wrap=True)
        return 0
    try:
        job = wait_for_end(server, job, arguments.wait_seconds)
    except KeyboardInterrupt:
        console.print(f"\n{job.id} was asked to stop, and ends by itself", markup=False, soft_wrap=True)
        return 130
    if not job.has_ended:
        again = command_line(("jobs", "status"), job, arguments.cluster)
        print_failures(
            [f"job {job.id} was asked to stop, but has not ended after {arguments.wait_seconds:g} s: {again}"]
        )
        return 1
    console.print(f"{job.id} {_WORDS[job.status]}", markup=False, soft_wrap=True)
    if job.run_directory is not None and job.status == "STOPPED":
        again = command_line(("submit", "--resume"), job, arguments.cluster)
        console.print(f"Continue with: {again}", markup=False, soft_wrap=True)
    return 0


def _fetch(arguments: FetchArguments, console: Console) -> int:
    if arguments.limit_mib < 1:
        raise ConfigError(f"--limit-mib is {arguments.limit_mib}, but it must be at least 1")
    if not 0 < arguments.wait_seconds < 1e9:
        raise ConfigError(f"--wait-seconds is {arguments.wait_seconds}, but it must be above 0")
    server = _connect(arguments.cluster)
    job = server.find(arguments.job)
    output = arguments.output or Path("runs") / job.id
    limit = arguments.limit_mib * 2**20
    fetched = fetch(server, job, output, limit, arguments.checkpoint, arguments.wait_seconds)
    rows = [("files", f"{fetched.files:,} ({fetched.bytes / 2**20:,.1f} MiB), {fetched.way}")]
    print_table(console, f"{job.id}: fetched", rows, {"run": fetched.path})
    return 0


_COMMANDS: dict[str, tuple[type, Callable[..., int]]] = {
    "list": (ListArguments, _list),
    "status": (StatusArguments, _status),
    "logs": (LogsArguments, _logs),
    "follow": (FollowArguments, _follow),
    "stop": (StopArguments, _stop),
    "fetch": (FetchArguments, _fetch),
}


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
