"""``r2ac submit``: a training as a job of a Ray cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.envs import find_tasks
from r2ac.launch.cluster.jobs.job import RUN_DIRECTORY, new_job_id
from r2ac.launch.cluster.jobs.server import JobError, JobRequest, JobServer, cluster_address
from r2ac.launch.cluster.jobs.submission import SubmitArguments, is_place, submit_with_package, training_request
from r2ac.launch.commands.jobs import command_line, follow_job
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError, config_from_json
from r2ac.launch.settings.flags import changed_config, is_flag, take_flag, training_config
from r2ac.launch.settings.parser import parse_known


def submit_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac submit TASK [--flags]``; with --follow the exit code is the job's, 143 where it was stopped."""
    own, words = parse_own(arguments)
    own.check()
    # Flags are checked here as on the nodes, with what is sent along.
    sys.path[:0] = [str(module.absolute().parent) for module in own.with_module]
    address = cluster_address(own.cluster)
    earlier = take_flag(words, "--resume")
    # What can be seen without the cluster is said first.
    if earlier is not None and words and not words[0].startswith("-"):
        raise ConfigError(f"--resume goes on with the task of the run: {words[0]!r} cannot be given too")
    if any(is_flag(word, "--ray-address") for word in words):
        raise ConfigError("--ray-address cannot be given: a job uses the cluster that it runs on (--cluster names it)")
    request = _new(own, words) if earlier is None else None
    server = JobServer(address)
    request = request or _resumed(own, words, earlier or "", server)
    job = submit_with_package(server, request, own.with_module)
    rows = [("job", job.id), ("cluster", f"{address} (Ray {server.ray_version})")]
    print_table(console, "submitted", rows, {"run directory": request.metadata[RUN_DIRECTORY]})
    if own.follow:
        return follow_job(server, job, own.cluster, console)
    again = command_line(("jobs", "follow"), job, own.cluster)
    console.print(f"Follow it with: {again}", soft_wrap=True, markup=False)
    return 0


def parse_own(arguments: Sequence[str]) -> tuple[SubmitArguments, list[str]]:
    """The flags of this command, and all other words in their order."""
    if not arguments:
        raise ConfigError("the task is missing: r2ac submit TASK, such as memory/tmaze (r2ac envs lists them)")
    return parse_known(SubmitArguments, "r2ac submit", arguments)


def _new(own: SubmitArguments, words: list[str]) -> JobRequest:
    """A training that begins, checked as r2ac train checks it, but for what only the nodes know."""
    names = take_flag(words, "--suite")
    given = take_flag(words, "--run-dir")
    if names is None and (not words or words[0].startswith("-")):
        raise ConfigError("the task comes first, then the flags, such as r2ac submit memory/tmaze --seed 2")
    if names is not None and words and not words[0].startswith("-"):
        raise ConfigError(f"--suite {names} names all tasks, joined by commas: {words[0]!r} cannot be given too")
    if given is not None and not is_place(given):
        places = "an absolute path on the nodes, ~/… or a URL"
        raise ConfigError(f"--run-dir is {given!r}, but for a job it must be {places}")
    label = names or words.pop(0)
    flags = _on_the_cluster(words)
    job_id = new_job_id(label)
    place = given or f"{own.storage.rstrip('/')}/{job_id}"
    tasks = [label] if names is None else [task.name for task in find_tasks(label)]
    configs = [training_config(task, flags, label) for task in tasks]
    for config in configs:
        config.check()
    known = {**configs[0].to_json(), "run_dir": place} if names is None else None
    before = (label,) if names is None else ("--suite", label)
    return training_request(own, job_id, label, place, (*before, *flags, "--run-dir"), config=known)


def _resumed(own: SubmitArguments, words: list[str], earlier: str, server: JobServer) -> JobRequest:
    """A training that goes on: that of an earlier job, or in a run directory that the nodes see."""
    flags = _on_the_cluster(words)
    if is_place(earlier):
        place, label, known = earlier, Path(earlier).name, _config_here(earlier)
    else:
        job = server.find(earlier)
        if job.run_directory is None:
            raise JobError(f"job {job.id} was not made by r2ac submit: its run directory is unknown")
        if not job.has_ended:
            raise JobError(f"job {job.id} is {job.status.lower()}: only a training that has ended can go on")
        place, label, known = job.run_directory, job.task, job.config
    config = None if known is None else _checked_on(known, flags, earlier)
    return training_request(own, new_job_id(label), label, place, ("--resume",), flags, config)


def _checked_on(known: dict[str, Any], flags: Sequence[str], source: str) -> dict[str, Any]:
    """The settings of an earlier run with what the flags say."""
    before = config_from_json({**known, "run_dir": None}, Path(source))
    config = changed_config(before, "r2ac submit --resume", flags)
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


def _on_the_cluster(words: Sequence[str]) -> list[str]:
    """The flags of a submitted training: those given, the cluster's Ray, and more failures allowed where none are."""
    failures = [] if any(is_flag(word, "--max-failures") for word in words) else ["--max-failures", "3"]
    return [*words, *failures, "--ray-address", "auto"]
