"""A training as a job: the command of the shell that runs it on a node, and the environment that it needs there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r2ac.launch.cluster.jobs import job
from r2ac.launch.cluster.jobs.job import Job
from r2ac.launch.cluster.jobs.server import JobRequest, JobServer
from r2ac.launch.cluster.jobs.wheel import add_modules, build_wheel

_MODULE = "r2ac.launch"
_STOP_SECONDS = "RAY_JOB_STOP_WAIT_TIME_S"


@dataclass(frozen=True)
class Submission:
    """One training, checked, and how it is to run."""

    id: str
    task: str
    """What is trained, for people to read."""
    before: tuple[str, ...]
    """The words of `r2ac train` before the run directory; the last is --run-dir or --resume."""
    run_directory: str
    """As seen from the node: see `is_place`."""
    after: tuple[str, ...] = ()
    """The words behind it."""
    name: str = ""
    config: Mapping[str, Any] | None = None
    """The settings as JSON, where they are known here."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables for the command and for all its Ray processes."""
    python: str = "python"
    """The interpreter on the node that has the dependencies."""
    stop_seconds: int = 300
    """What a training gets to write its checkpoint when the job is stopped, before it is killed."""
    cpus: float = 0.0
    gpus: float = 0.0
    modules: tuple[Path, ...] = ()
    """Files and folders that the nodes can import beside r2ac."""

    @property
    def entrypoint(self) -> str:
        """The command of the shell; whatever people chose in it is quoted."""
        words = (self.python, "-m", _MODULE, "train", *self.before)
        return " ".join(("exec", shlex.join(words), quoted_place(self.run_directory), *map(shlex.quote, self.after)))

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps with the job."""
        known = {
            job.NAME: self.name,
            job.TASK: self.task,
            job.RUN_DIRECTORY: self.run_directory,
            job.PYTHON: self.python,
            job.CONFIG: json.dumps(self.config) if self.config is not None else "",
        }
        return {key: value for key, value in known.items() if value}


def is_place(word: str) -> bool:
    """Whether ``word`` says where something lies without regard to a working directory: an absolute path, one below
    ``~/`` (the home directory of whoever runs the cluster), or a URL. Control characters are not allowed."""
    return word.isprintable() and (word.startswith(("/", "~/")) or re.match(r"[a-z][a-z0-9+.-]*://.", word) is not None)


def place_below(place: str, name: str) -> str:
    """``place/name``."""
    return f"{place.rstrip('/')}/{name}"


def quoted_place(place: str) -> str:
    """A place as one word of the shell, which puts in the home directory of the node."""
    if place.startswith("~/"):
        return f'"$HOME"/{shlex.quote(place[2:])}'
    return shlex.quote(place)


def submit(server: JobServer, submission: Submission) -> Job:
    """Send the training to the cluster, with this package beside it; it begins when there is room for it."""
    stop = {_STOP_SECONDS: str(submission.stop_seconds)}
    request = JobRequest(
        id=submission.id,
        entrypoint=submission.entrypoint,
        runtime_env={"env_vars": {**stop, **submission.env}},
        metadata=submission.metadata,
        cpus=submission.cpus,
        gpus=submission.gpus,
    )
    return submit_with_package(server, request, submission.modules)


def submit_with_package(server: JobServer, request: JobRequest, modules: Sequence[Path] = ()) -> Job:
    """Send a job whose command and Ray processes import r2ac as it is here, whether or not the nodes have it, and
    ``modules``.

    A wheel is a zip archive. Ray unpacks a zip archive that is the working directory of a job on each node, and puts it
    on the module path; a wheel as one of its py_modules it would install with pip, with all dependencies once more.
    """
    with tempfile.TemporaryDirectory(prefix="r2ac-") as folder:
        package = Path(shutil.move(build_wheel(Path(folder)), Path(folder) / "r2ac.zip"))
        add_modules(package, modules)
        return server.submit(replace(request, runtime_env={**request.runtime_env, "working_dir": str(package)}))


def check_modules(modules: Sequence[Path]) -> None:
    """Raises ValueError, with one sentence, for what cannot be imported by its name where it is sent."""
    names = ["r2ac"]
    for module in modules:
        name = module.name.removesuffix(".py")
        if not module.is_dir() and not (module.is_file() and module.suffix == ".py"):
            raise ValueError(f"--with-module is {module}, but it must be a file that ends in .py, or a folder")
        if not name.isidentifier():
            raise ValueError(f"--with-module is {module}, but {name!r} is no name that Python can import")
        if name in names:
            raise ValueError(f"--with-module is {module}, but a module {name} is sent already")
        names.append(name)


def environment(pairs: Sequence[str]) -> dict[str, str]:
    """The variables of ``NAME=VALUE``, … Raises ValueError, with one sentence, for what is none."""
    variables = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) or "\0" in value:
            raise ValueError(
                f"--env is {pair!r}, but it must be NAME=VALUE, with a name of letters, digits and underscores"
            )
        variables[name] = value
    return variables
