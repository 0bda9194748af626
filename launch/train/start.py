"""Begins trainings and goes on with them: one, or one for each task of a suite; here, or in a child process that is
watched over."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.envs import MissingPackage, Task, find_tasks
from r2ac.launch.runs.mirror import Mirror, staging_path
from r2ac.launch.runs.run_directory import RunDirectory, default_run_directory, new_directory
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store
from r2ac.launch.runs.suite_run import SuiteRun
from r2ac.launch.runtime.supervisor import restarts, supervise
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.settings.flags import parse, take_flag, training_config, with_options
from r2ac.launch.settings.places import is_url
from r2ac.launch.train.group import train_in_group
from r2ac.launch.train.group_member import Place
from r2ac.launch.train.resume import Resumed, open_interrupted
from r2ac.launch.train.suite import train_suite
from r2ac.launch.train.summary import new_run_path
from r2ac.launch.train.train import train


def begin(config: TrainConfig[Any], url: str | None, flags: Sequence[str], console: Console) -> int:
    """A training with checked settings, which were read from ``flags``; at a URL if there is one."""
    if _is_watched_over(config):
        others = list(flags)
        take_flag(others, "--run-dir")
        with nullcontext(url) if url else new_run_path(config) as path:
            place = str(path)
            return _supervise(config, place, ["train", config.task, *others, "--run-dir", place])
    if url is None:
        return train(config, console)
    if config.num_learners:
        return train_in_group(config, console, Place(url, False, bool(restarts())))
    with Mirror(url, console, new=True) as mirror:
        return train(replace(config, run_dir=mirror.path), console, mirror=mirror)


def resume(place: str, arguments: Sequence[str], console: Console) -> int:
    """Go on with the run, or the trainings of a suite, at a path or a URL, with what the flags say."""
    if (begun := _suite_at(place)) is not None:
        # Of a flag that is given twice the last holds.
        return _train_suite(replace(begun, flags=(*begun.flags, *arguments)), console, ["--resume", place, *arguments])
    if restarts() is None:
        config = _continued(_read_config(place), Path(place), arguments)
        if _is_watched_over(config):
            return _supervise(config, place, ["train", "--resume", place, *arguments])
    if not is_url(place):
        return _go_on(Path(place), arguments, console)
    config = _continued(_read_config(place), Path(place), arguments)
    if config.num_learners:
        config = replace(config, run_dir=None)
        config.check()
        return train_in_group(config, console, Place(place, True, bool(restarts())))
    with Mirror(place, console, new=False, patient=bool(restarts())) as mirror:
        return _go_on(mirror.path, arguments, console, mirror)


def _go_on(path: Path, arguments: Sequence[str], console: Console, mirror: Mirror | None = None) -> int:
    # What was given up may not have ended: a learner on a machine out of reach.
    waits = partial(console.print, soft_wrap=True, markup=False) if restarts() else None
    resumed = open_interrupted(path, waits)
    return train(_continued(resumed.run.read_config(), path, arguments), console, resumed, mirror=mirror)


def _read_config(place: str) -> dict[str, Any]:
    """``config.json`` of the run at a path or a URL. Raises RunDirectoryError and what a store raises."""
    if is_url(place):
        # Of a run that died before it was first copied only this machine knows.
        copy = RunDirectory(staging_path(place))
        values = Store(place).read_json("config.json")
        if values is None and not copy.config_path.exists():
            raise StorageError(f"{place} holds no run: there is no config.json")
        return copy.read_config() if values is None else values
    return RunDirectory.open(Path(place), for_writing=False).read_config()


def _continued(values: dict[str, Any], path: Path, arguments: Sequence[str]) -> TrainConfig[Any]:
    """The settings of an interrupted run with what the flags say."""
    before = config_from_json(values, path / "config.json")
    default = replace(before, run_dir=path)
    config = parse(with_options(TrainConfig, default.env), "r2ac train --resume RUN", arguments, default)
    if config.run_dir != default.run_dir:
        raise ConfigError(f"--run-dir is {config.run_dir}, but a run goes on where it is, in {default.run_dir}")
    return config


def _is_watched_over(config: TrainConfig[Any]) -> bool:
    """Whether the training belongs into a child process; the child itself trains."""
    return config.max_failures > 0 and restarts() is None


def _supervise(config: TrainConfig[Any], place: str, words: list[str]) -> int:
    """Run this command as a child: what has come to a checkpoint goes on, what has not begins anew."""
    run = RunDirectory(staging_path(place) if is_url(place) else Path(place))
    again = words if words[1] == "--resume" or "--suite" in words else ["train", "--resume", place]

    def newest() -> int | None:
        names = [path.name for path in run.checkpoints.glob("step_*.safetensors")]
        if is_url(place):
            # The learner's own folder may lie on another machine.
            with suppress(StorageUnavailable):
                names += [name.rpartition("/")[2] for name in Store(place).files() if "checkpoints/step_" in name]
        steps = [int(name.removeprefix("step_").removesuffix(".safetensors")) for name in names if name[-1] == "s"]
        return max(steps, default=None)

    def words_of(restart: int) -> list[str]:
        if restart == 0 or again is words:
            return words
        if newest() is not None:
            return again
        if config.num_learners and config.ray_address != "local" and not is_url(place) and not run.config_path.exists():
            raise ConfigError(
                f"--run-dir is {place}, which its learners write but this process cannot see: it must be on a file "
                "system that all nodes share, or a URL"
            )
        if run.config_path.exists():
            RunDirectory.open(run.path, for_writing=True).discard()
        return words

    def state() -> str:
        step = newest()
        return f"with {place}" if step is None else f"from step {step:,} of {place}"

    def resume() -> str:
        begun = again is words or newest() is not None
        return f"{'go on with' if begun else 'begin again with'}: {shlex.join(('r2ac', *(again if begun else words)))}"

    return supervise(words_of, config.max_failures, state, resume)


def _suite_at(place: str) -> SuiteRun | None:
    return SuiteRun.open(place) if SuiteRun.at(place) else None


def begin_suite(first: TrainConfig[Any], names: str, given: str | None, flags: Sequence[str], console: Console) -> int:
    """A training on each task of a list, ``first`` being the settings of the first one; in the directory that is
    ``given`` one that has begun goes on."""
    if given is None:
        with new_directory(default_run_directory(names, first.agent.label, first.seed)) as path:
            suite = SuiteRun(str(path), names, tuple(flags))
            return _train_suite(suite, console, ["--suite", names, *flags, "--run-dir", suite.place])
    suite = SuiteRun(given, names, tuple(flags))
    if (begun := _suite_at(given)) not in (None, suite):
        assert begun is not None
        raise ConfigError(
            f"{given} holds a training on {begun.names} with other flags; r2ac train --resume {given} goes on with it"
        )
    return _train_suite(suite, console, ["--suite", names, *flags, "--run-dir", given])


def _train_suite(suite: SuiteRun, console: Console, words: Sequence[str]) -> int:
    """Train on the tasks of a list, or let a child do so that is started with ``words``."""
    tasks = find_tasks(suite.names)
    configs = [training_config(task.name, suite.flags) for task in tasks]
    for task, config in zip(tasks, configs, strict=True):
        # Before the first is begun: a wrong flag or a missing engine must not end it after days.
        if (sentence := task.suite.missing()) is not None:
            raise MissingPackage(sentence)
        config.check()
        task.suite.check_here(task.short_name, config.env)
    if _is_watched_over(configs[0]):
        return _supervise(configs[0], suite.place, ["train", *words])
    suite.write()

    def configure(task: Task, path: Path, resumed: Resumed | None) -> TrainConfig[Any]:
        if resumed is not None:
            flags = list(suite.flags)
            take_flag(flags, "--preset")
            return _continued(resumed.run.read_config(), path, flags)
        return replace(training_config(task.name, suite.flags), run_dir=path)

    return train_suite(suite, tasks, configure, console)
