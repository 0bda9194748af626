"""A training as a job: the command of the shell that runs it on a node, and the environment that it needs there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from r2ac.launch.cluster.jobs.job import CONFIG, NAME, PYTHON, RUN_DIRECTORY, TASK, Job
from r2ac.launch.cluster.jobs.server import Cluster, JobRequest, JobServer
from r2ac.launch.cluster.jobs.wheel import add_modules, build_wheel
from r2ac.launch.settings.config import ConfigError, require

_LONGEST_NAME = 100


@dataclass(frozen=True)
class SubmitArguments:
    """Send a training to a running Ray cluster: r2ac submit TASK [--flags], --suite LIST [--flags] or --resume JOB
    [--flags], with all flags of r2ac train (r2ac train TASK --help lists them) and those below. Flags are checked
    before anything is sent. This package is sent too; the nodes need its dependencies only."""

    cluster: Cluster = None
    job_name: str = ""
    """A name for people; r2ac jobs takes it in place of the job's id where it is the only one."""
    follow: bool = False
    """Show the log until the training has ended, and end as it did."""
    storage: str = "~/r2ac-runs"
    """Where on the nodes the run is written, in a directory named by the job: an absolute path (of a shared file
    system, if the run is to outlive the node), ~/… for the home directory there, or a URL."""
    env: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE, as often as wanted: variables of the job's processes; all users of the cluster can read them."""
    with_module: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A file x.py or a folder, as often as wanted, that is sent along and can be imported on the nodes: your own
    environments and wrappers."""
    entrypoint_cpus: float = 0.0
    """CPUs to hold for the learner's process; without CPUs and GPUs it runs on the head node."""
    entrypoint_gpus: float = 0.0
    """GPUs to hold for the learner's process."""
    python: str = "python"
    """The interpreter on the nodes that has r2ac's dependencies."""
    stop_seconds: int = 300
    """What the training gets to write a checkpoint when the job is stopped, before it is killed."""

    def check(self) -> None:
        """Raise ConfigError for the first setting of the job that is not allowed."""
        if not self.job_name.isprintable() or len(self.job_name) > _LONGEST_NAME:
            raise ConfigError(
                f"--job-name is {self.job_name!r:.120}, but it must be at most {_LONGEST_NAME} printable characters"
            )
        if not is_place(self.storage):
            raise ConfigError(
                f"--storage is {self.storage!r}, but a job has no directory of its own to begin from: it must be an "
                "absolute path on the nodes, ~/… or a URL"
            )
        for name, least in (("entrypoint_cpus", 0), ("entrypoint_gpus", 0), ("stop_seconds", 1)):
            require(least <= (value := getattr(self, name)) < 1e6, name, value, f"at least {least}")
        if not self.python.isprintable() or not self.python.strip():
            raise ConfigError(f"--python is {self.python!r}, but it must name an interpreter on the nodes")
        _check_modules(self.with_module)
        for pair in self.env:
            name, separator, value = pair.partition("=")
            if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) or "\0" in value:
                raise ConfigError(
                    f"--env is {pair!r}, but it must be NAME=VALUE, with a name of letters, digits and underscores"
                )


def training_request(
    arguments: SubmitArguments,
    job_id: str,
    task: str,
    place: str,
    before: Sequence[str],
    after: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> JobRequest:
    """A training as a job. ``place`` is the run directory as seen from the node; ``before`` and ``after`` are the words
    of `r2ac train` around it, of which the one before is --run-dir or --resume; ``task`` and ``config`` describe it in
    the job's metadata."""
    command = shlex.join((arguments.python, "-m", "r2ac.launch", "train", *before))
    known = "" if config is None else json.dumps(config)
    metadata = {NAME: arguments.job_name, TASK: task, RUN_DIRECTORY: place, PYTHON: arguments.python, CONFIG: known}
    variables = {name: value for name, _, value in (pair.partition("=") for pair in arguments.env)}
    return JobRequest(
        id=job_id,
        entrypoint=" ".join(("exec", command, quoted_place(place), *map(shlex.quote, after))),
        runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(arguments.stop_seconds), **variables}},
        metadata={key: value for key, value in metadata.items() if value},
        cpus=arguments.entrypoint_cpus,
        gpus=arguments.entrypoint_gpus,
    )


def is_place(word: str) -> bool:
    """Whether ``word`` is an absolute path, one below ``~/`` or a URL, of printable characters."""
    return word.isprintable() and (word.startswith(("/", "~/")) or re.match(r"[a-z][a-z0-9+.-]*://.", word) is not None)


def quoted_place(place: str) -> str:
    """A place as one word of the shell, with the home directory of the node."""
    if place.startswith("~/"):
        return f'"$HOME"/{shlex.quote(place[2:])}'
    return shlex.quote(place)


def submit_with_package(server: JobServer, request: JobRequest, modules: Sequence[Path] = ()) -> Job:
    """Send a job whose command and Ray processes import r2ac as it is here, and ``modules``. A zip archive (which a
    wheel is) as its working directory is put on the module path of each node; as one of its py_modules Ray would
    install the wheel with pip, with all dependencies."""
    with tempfile.TemporaryDirectory(prefix="r2ac-") as folder:
        package = Path(shutil.move(build_wheel(Path(folder)), Path(folder) / "r2ac.zip"))
        add_modules(package, modules)
        return server.submit(replace(request, runtime_env={**request.runtime_env, "working_dir": str(package)}))


def _check_modules(modules: Sequence[Path]) -> None:
    """Raise ConfigError for what cannot be imported by its name where it is sent."""
    names = ["r2ac"]
    for module in modules:
        name = module.name.removesuffix(".py")
        if not module.is_dir() and not (module.is_file() and module.suffix == ".py"):
            raise ConfigError(f"--with-module is {module}, but it must be a file that ends in .py, or a folder")
        if not name.isidentifier():
            raise ConfigError(f"--with-module is {module}, but {name!r} is no name that Python can import")
        if name in names:
            raise ConfigError(f"--with-module is {module}, but a module {name} is sent already")
        names.append(name)
