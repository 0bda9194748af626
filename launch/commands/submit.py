"""``r2ac submit``: a training as a job of a Ray cluster."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from r2ac.envs import Task, find_tasks
from r2ac.launch.cluster.jobs.job import new_job_id
from r2ac.launch.cluster.jobs.server import JobError, JobServer, cluster_address
from r2ac.launch.cluster.jobs.submission import Submission, check_modules, environment, is_place, place_below, submit
from r2ac.launch.commands.jobs import Cluster, command_line, follow_job
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.settings.flags import is_flag, parse, parse_known, take_flag, training_config, with_options

_LONGEST_NAME = 100
# What a submitted training begins with where `r2ac train` has the flag and the command line does not say otherwise.
_DEFAULTS = {"max_failures": "3"}


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
    """NAME=VALUE, as often as wanted: variables of the job and of its Ray processes. Whoever may use the cluster can
    read them."""
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


def submit_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac submit TASK [--flags]``.

    Returns:
        0, or with --follow what the job came to: 0, 143 where it was stopped, else its exit code.
    """
    own, words = parse_own(arguments)
    _check(own)
    # Flags are checked here as on the nodes, with what is sent along.
    sys.path[:0] = [str(module.absolute().parent) for module in own.with_module]
    address = cluster_address(own.cluster)
    earlier = take_flag(words, "--resume")
    # What can be seen without the cluster is said first.
    _refuse_words(words, earlier)
    submission = _new(own, words) if earlier is None else None
    server = JobServer.connect(address)
    submission = submission or _resumed(own, words, earlier or "", server)
    job = submit(server, submission)
    cluster = f"{address} (Ray {server.ray_version})"
    rows = [("job", job.id), ("cluster", cluster)]
    print_table(console, "submitted", rows, {"run directory": submission.run_directory})
    if own.follow:
        return follow_job(server, job, own.cluster, console)
    again = command_line(("jobs", "follow"), job, own.cluster)
    console.print(f"Follow it with: {again}", soft_wrap=True, markup=False)
    return 0


def parse_own(arguments: Sequence[str]) -> tuple[SubmitArguments, list[str]]:
    """The flags of this command, and all other words in their order; ends the program where they cannot be read."""
    if not arguments:
        raise ConfigError("the task is missing: r2ac submit TASK, such as memory/tmaze (r2ac envs lists them)")
    return parse_known(SubmitArguments, "r2ac submit", arguments)


def _check(own: SubmitArguments) -> None:
    """Raise ConfigError for the first setting of the job that is not allowed."""
    if not own.job_name.isprintable() or len(own.job_name) > _LONGEST_NAME:
        raise ConfigError(
            f"--job-name is {own.job_name!r:.120}, but it must be at most {_LONGEST_NAME} printable characters"
        )
    if not is_place(own.storage):
        raise ConfigError(
            f"--storage is {own.storage!r}, but a job has no directory of its own to begin from: it must be an "
            "absolute path on the nodes, ~/… or a URL"
        )
    for name in ("entrypoint_cpus", "entrypoint_gpus"):
        if not 0 <= getattr(own, name) < 1e6:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(own, name)}, but it must be at least 0")
    if not 1 <= own.stop_seconds < 1e6:
        raise ConfigError(f"--stop-seconds is {own.stop_seconds}, but it must be at least 1")
    if not own.python.isprintable() or not own.python.strip():
        raise ConfigError(f"--python is {own.python!r}, but it must name an interpreter on the nodes")
    try:
        environment(own.env)
        check_modules(own.with_module)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _new(own: SubmitArguments, words: list[str]) -> Submission:
    """A training that begins, checked as r2ac train checks it, but for what only the nodes know."""
    names = take_flag(words, "--suite")
    given = take_flag(words, "--run-dir")
    if names is None and (not words or words[0].startswith("-")):
        raise ConfigError("the task comes first, then the flags, such as r2ac submit memory/tmaze --seed 2")
    if names is not None and words and not words[0].startswith("-"):
        raise ConfigError(f"--suite {names} trains an agent on each of its tasks: {words[0]!r} cannot be given too")
    if given is not None and not is_place(given):
        raise ConfigError(
            f"--run-dir is {given!r}, but for a job it must be an absolute path on the nodes, ~/… or a URL"
        )
    label = names or words.pop(0)
    flags = [*words, *_defaults(words), "--ray-address", "auto"]
    tasks: Sequence[Task | str] = find_tasks(label) if names is not None else [label]
    configs = [_checked(task if isinstance(task, str) else task.name, flags) for task in tasks]
    job_id = new_job_id(label, secrets.token_hex(3))
    place = given or place_below(own.storage, job_id)
    config = None if names is not None else {**configs[0].to_json(), "run_dir": place}
    before = ("--suite", label) if names is not None else (label,)
    return _submission(own, job_id, label, (*before, *flags, "--run-dir"), place, (), config)


def _resumed(own: SubmitArguments, words: list[str], earlier: str, server: JobServer) -> Submission:
    """A training that goes on: that of an earlier job, or in a run directory that the nodes see."""
    flags = [*words, *_defaults(words), "--ray-address", "auto"]
    if is_place(earlier):
        place, label, known = earlier, Path(earlier).name, _config_here(earlier)
    else:
        job = server.find(earlier)
        if job.run_directory is None:
            raise JobError(f"job {job.id} was not made by r2ac submit: nobody knows where it writes")
        if not job.has_ended:
            raise JobError(f"job {job.id} is {job.status.lower()}: only a training that has ended can go on")
        place, label, known = job.run_directory, job.task, job.config
    config = None if known is None else _checked_on(known, flags, earlier)
    job_id = new_job_id(label, secrets.token_hex(3))
    return _submission(own, job_id, label, ("--resume",), place, tuple(flags), config)


def _submission(
    own: SubmitArguments,
    job_id: str,
    label: str,
    before: tuple[str, ...],
    place: str,
    after: tuple[str, ...],
    config: dict[str, Any] | None,
) -> Submission:
    return Submission(
        id=job_id,
        task=label,
        before=before,
        run_directory=place,
        after=after,
        name=own.job_name,
        config=config,
        env=environment(own.env),
        python=own.python,
        stop_seconds=own.stop_seconds,
        cpus=own.entrypoint_cpus,
        gpus=own.entrypoint_gpus,
        modules=own.with_module,
    )


def _checked(task: str, flags: Sequence[str]) -> TrainConfig[Any]:
    config = training_config(task, flags)
    config.check()
    return config


def _checked_on(known: dict[str, Any], flags: Sequence[str], source: str) -> dict[str, Any]:
    """The settings of an earlier run with what the flags say."""
    before = config_from_json({**known, "run_dir": None}, Path(source))
    config = parse(with_options(TrainConfig, before.env), "r2ac submit --resume", flags, before)
    if config.run_dir is not None:
        raise ConfigError(f"--run-dir is {config.run_dir}, but a run goes on where it is, in {known.get('run_dir')}")
    config.check()
    return {**config.to_json(), "run_dir": known.get("run_dir")}


def _config_here(place: str) -> dict[str, Any] | None:
    """The settings of a run that this machine sees too; None elsewhere: then the job checks its flags itself."""
    try:
        config = json.loads(Path(place).expanduser().joinpath("config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _refuse_words(words: Sequence[str], earlier: str | None) -> None:
    """Raise ConfigError for what a job cannot be given."""
    if earlier is not None and words and not words[0].startswith("-"):
        raise ConfigError(f"--resume goes on with the task of the run: {words[0]!r} cannot be given too")
    if any(is_flag(word, "--ray-address") for word in words):
        raise ConfigError("--ray-address cannot be given: a job uses the cluster that it runs on (--cluster names it)")


def _defaults(words: Sequence[str]) -> list[str]:
    """Flags that a submitted training has where nothing else is said and r2ac train knows them."""
    flags: list[str] = []
    for name in (field.name for field in fields(TrainConfig) if field.name in _DEFAULTS):
        flag = f"--{name.replace('_', '-')}"
        if not any(is_flag(word, flag) for word in words):
            flags += [flag, _DEFAULTS[name]]
    return flags
