"""The Jobs API of a running Ray cluster, with errors in one sentence each."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import tyro

from r2ac.envs import MissingPackage
from r2ac.envs.suite import missing_modules
from r2ac.launch.cluster.connect import ConnectionFailed
from r2ac.launch.cluster.jobs.job import Job
from r2ac.launch.runtime.errors import RunError, last_line
from r2ac.launch.settings.config import ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
Cluster = Annotated[
    str | None,
    tyro.conf.arg(
        help="The dashboard of the cluster, http://HOST:PORT; if not given RAY_API_SERVER_ADDRESS or RAY_ADDRESS says, "
        f"else it is {DEFAULT_ADDRESS}."
    ),
]
"""The flag --cluster."""
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_OLDEST_RAY = (2, 49)
_ANSWER_SECONDS = 30
_BEGIN_SECONDS = 60
_ATTEMPTS, _PAUSE_SECONDS = 5, 2.0


class JobError(RunError):
    """A job does not exist or cannot do what it is asked; the message is one sentence."""


@dataclass(frozen=True)
class JobRequest:
    """A job that is to be run."""

    id: str
    entrypoint: str
    """A command of the shell."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0
    """Held for the command itself; with none of either Ray runs it on the head node."""
    node: str | None = None
    """Address of the node that it must run on."""


def cluster_address(given: str | None) -> str:
    """Where the dashboard listens: as given, else by RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else on this machine.
    Raises ConfigError for what is no HTTP address."""
    known = (("--cluster", given), *((name, os.environ.get(name)) for name in _ADDRESS_VARIABLES))
    source, address = next(((name, value) for name, value in known if value), ("", DEFAULT_ADDRESS))
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"{source} is {address!r}, but jobs are sent to the dashboard of a cluster, such as {DEFAULT_ADDRESS}"
        )
    return address.rstrip("/")


class JobServer:
    """A cluster that takes jobs, at the address of its dashboard, with the token that Ray finds here. All methods raise
    JobError or ConnectionFailed; the constructor raises ConnectionFailed for a cluster that cannot be reached, refuses
    the token or runs another Ray, and MissingPackage without Ray's client."""

    def __init__(self, address: str) -> None:
        if missing := missing_modules("aiohttp", "pydantic", "requests"):
            raise MissingPackage(f"Ray's Jobs API needs {', '.join(missing)}: pip install 'ray[default]'")
        headers = _token_header()
        self.address = address
        self.ray_version = _probe(address, headers)
        """The Ray that runs there."""
        from ray.job_submission import JobSubmissionClient

        # They report each upload and each connection on standard error.
        for name in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        with _explained(address, self.ray_version), _no_other_address():
            self._client = JobSubmissionClient(address, headers=headers)

    def jobs(self) -> list[Job]:
        """Every submitted job that the cluster remembers, the newest first."""
        with _explained(self.address, self.ray_version):
            details = self._client.list_jobs()
        found = [_job(each) for each in details if each.submission_id]
        return sorted(found, key=lambda job: job.started or datetime.min.replace(tzinfo=UTC), reverse=True)

    def find(self, word: str) -> Job:
        """The job whose id, or else whose name, is ``word``. Raises JobError where there is none or more than one."""
        jobs = self.jobs()
        found = [job for job in jobs if job.id == word] or [job for job in jobs if job.name == word]
        if not found:
            where = f"on the cluster at {self.address}"
            raise JobError(f"there is no job {word!r} {where}; r2ac jobs list shows those there")
        if len(found) > 1:
            ids = ", ".join(job.id for job in found)
            raise JobError(f"{len(found)} jobs are called {word!r}, so that one must be named by its id: {ids}")
        return found[0]

    def state(self, job: Job) -> Job:
        """The same job as it is now."""
        with _explained(self.address, self.ray_version):
            return _job(self._client.get_job_info(job.id))

    def submit(self, request: JobRequest) -> Job:
        """Send a job with the local files that it names; waits for a cluster that has just begun."""
        resources = {f"node:{request.node}": 0.001} if request.node else None
        until = time.monotonic() + _BEGIN_SECONDS
        with _explained(self.address, self.ray_version):
            while True:
                try:
                    self._client.submit_job(
                        submission_id=request.id,
                        entrypoint=request.entrypoint,
                        runtime_env=dict(request.runtime_env),
                        metadata=dict(request.metadata),
                        entrypoint_num_cpus=request.cpus or None,
                        entrypoint_num_gpus=request.gpus or None,
                        entrypoint_resources=resources,
                    )
                    return _job(self._client.get_job_info(request.id))
                except RuntimeError as error:
                    if "No available agent" not in str(error) or time.monotonic() > until:
                        raise
                time.sleep(1.0)

    def stop(self, job: Job) -> None:
        """Ask a job to stop; its processes get SIGTERM. Returns at once."""
        with _explained(self.address, self.ray_version):
            self._client.stop_job(job.id)

    def log(self, job: Job) -> str:
        """All that a job has printed so far."""
        with _explained(self.address, self.ray_version):
            return str(self._client.get_job_logs(job.id))

    async def tail(self, job: Job) -> AsyncIterator[str]:
        """What a job prints from its beginning, piece by piece, until it ends or the connection breaks."""
        with _explained(self.address, self.ray_version):
            async for piece in self._client.tail_job_logs(job.id):
                yield piece


def follow(server: JobServer, job: Job, write: Callable[[str], object]) -> Job:
    """Give the log of a job to ``write``, from its beginning, until the job has ended; returns the job as it then is.
    A broken connection is made anew; raises ConnectionFailed or JobError after some failures in a row."""
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


def _probe(address: str, headers: Mapping[str, str]) -> str:
    """The version of Ray at ``address``; raises ConnectionFailed where no compatible Ray answers."""
    import ray
    import requests
    from ray.dashboard.modules.version import CURRENT_VERSION

    try:
        answer = requests.get(f"{address}/api/version", headers=headers, timeout=_ANSWER_SECONDS)
    except requests.RequestException as error:
        raise ConnectionFailed(f"there is no Ray cluster at {address}: {_reason(error)}") from error
    if answer.status_code in (401, 403):
        has = "refuses the token given" if headers else "wants a token"
        raise ConnectionFailed(
            f"the cluster at {address} {has}: set RAY_AUTH_TOKEN to the cluster's, or RAY_AUTH_TOKEN_PATH to a file "
            "that holds it (and RAY_AUTH_MODE not to disabled)"
        )
    try:
        values = answer.json()
        ray_version, api_version = str(values["ray_version"]), str(values["version"])
        number = tuple(int(part) for part in ray_version.split(".")[:2])
    except (ValueError, KeyError, TypeError) as error:
        status = f"HTTP {answer.status_code}"
        raise ConnectionFailed(f"what answers at {address} is not Ray's dashboard ({status})") from error
    if number < _OLDEST_RAY:
        oldest = ".".join(map(str, _OLDEST_RAY))
        raise ConnectionFailed(f"the cluster at {address} runs Ray {ray_version}, but r2ac needs at least {oldest}")
    if api_version != CURRENT_VERSION:
        raise ConnectionFailed(
            f"the cluster at {address} runs Ray {ray_version}, whose Jobs API (version {api_version}) is not that of "
            f"Ray {ray.__version__} here (version {CURRENT_VERSION}): install ray=={ray_version} here"
        )
    return ray_version


def _token_header() -> dict[str, str]:
    """The header with the token that Ray's own commands would send; empty without one."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if not token:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return {}
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def _no_other_address() -> Iterator[None]:
    """Without the variables that Ray's client prefers to the address that it is given."""
    before = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def _explained(address: str, ray_version: str) -> Iterator[None]:
    """Errors of Ray's client as one sentence each."""
    import aiohttp
    from ray.exceptions import RayError

    try:
        yield
    except (OSError, aiohttp.ClientError) as error:
        raise ConnectionFailed(f"the cluster at {address} does not answer any more: {_reason(error)}") from error
    except (RayError, RuntimeError, TypeError, ValueError) as error:
        # A server may have sent a traceback.
        sentence = last_line(error).rstrip(".")
        if isinstance(error, RayError):
            raise ConnectionFailed(f"the cluster at {address} refuses: {sentence}") from error
        raise JobError(f"the cluster at {address} (Ray {ray_version}) refuses: {sentence}") from error


def _reason(error: BaseException) -> str:
    """The system's own error, from below the libraries that wrap it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        nested = getattr(cause, "reason", None) or next((a for a in cause.args if isinstance(a, BaseException)), None)
        cause = nested if isinstance(nested, BaseException) else cause.__cause__ or cause.__context__
    return "no answer in time" if "timed out" in str(error).lower() else f"no answer in HTTP ({type(error).__name__})"


def _job(details: Any) -> Job:
    """From Ray's JobDetails."""
    agent = details.driver_agent_http_address
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        metadata=dict(details.metadata or {}),
        message=details.message or "",
        started=_time(details.start_time),
        ended=_time(details.end_time),
        driver_exit_code=details.driver_exit_code,
        node=urlsplit(agent).hostname if agent else None,
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
