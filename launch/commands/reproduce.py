"""``r2ac reproduce``: the experiments of the study, and the page that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from r2ac.launch.experiments.experiment import (
    Experiment,
    Scale,
    estimated_hours,
    find_experiment,
    read_experiments,
)
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.process import available_cores
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.settings.config import ConfigError, require
from r2ac.launch.settings.parser import parse


@dataclass(frozen=True)
class ReproduceArguments:
    """Make the trainings of an experiment that are missing, evaluate them, and write its results and its part of the
    page; without a name, list the experiments. Interrupted, the same command goes on."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """The experiment; the list of all if not given."""
    scale: Scale = "small"
    """small: for 2 cores; gpu: for a machine with a GPU; paper: for a cluster."""
    tasks: tuple[str, ...] = ()
    """Rows of its table to make; all if not given."""
    seeds: int | None = None
    """Trainings of each kind, with seeds 1, 2, …; as many as the experiment says if not given."""
    jobs: int | None = None
    """Trainings side by side, each in a process with one thread; as many as there are cores if not given; 0: one after
    the other in this process."""
    train: bool = True
    """Make what is missing; --no-train only writes the page from the results."""
    output_dir: Path = Path("runs/study")
    """Where the runs are kept."""
    results_dir: Path = Path("results")
    """Where the results are kept, a compact JSON for each experiment and scale; what is there, by today's settings, is
    not trained again."""
    page: Path = Path("docs/study.md")
    """The page (Markdown); its figures are written into a folder beside it."""


def reproduce_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac reproduce [NAME] [--flags]``: 1 where a training failed, 2 where nothing of the experiment can run here,
    128 + the signal's number where one came."""
    parsed = parse(ReproduceArguments, "r2ac reproduce", arguments)
    require(parsed.seeds is None or parsed.seeds >= 1, "seeds", parsed.seeds, "at least 1")
    require(parsed.jobs is None or parsed.jobs >= 0, "jobs", parsed.jobs, "at least 0")
    if not parsed.name:
        return _list(parsed, console)
    return _reproduce(find_experiment(parsed.name, parsed.scale).with_seeds(parsed.seeds), parsed, console)


def _list(arguments: ReproduceArguments, console: Console) -> int:
    from r2ac.launch.experiments.records import read_records

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in ("experiment", "scale", "done", "of", "CPU hours for all", ""):
        table.add_column(heading, justify="left" if heading in ("experiment", "scale", "") else "right", no_wrap=True)
    notes = []
    for experiment in read_experiments():
        experiment = experiment.with_seeds(arguments.seeds)
        records = read_records(arguments.results_dir / experiment.file_name)
        done = sum(one.key in records and records[one.key].command == one.command for one in experiment.trainings)
        count = len(experiment.trainings)
        hours = f"{estimated_hours(experiment, experiment.trainings, records):.1f}"
        table.add_row(experiment.name, experiment.scale, str(done), str(count), hours, experiment.title)
        for sentence in dict.fromkeys(experiment.problems().values()):
            notes.append(f"{experiment.name} ({experiment.scale}) cannot be whole here: {sentence}")
    console.print(table)
    where = arguments.results_dir.absolute()
    there = "" if where.is_dir() else ", which does not exist"
    again = "a training whose task has other settings today is made again"
    _print(console, f"done: what has results in {where}{there} (--results-dir); {again}")
    for note in notes:
        _print(console, note)
    return 0


def _reproduce(experiment: Experiment, arguments: ReproduceArguments, console: Console) -> int:
    from r2ac.launch.experiments.records import read_records, write_records
    from r2ac.launch.experiments.study_page import write_part
    from r2ac.launch.experiments.trainings import current_records, jobs_of, make_trainings

    for task in arguments.tasks:
        require(task in experiment.tasks, "tasks", task, f"among {', '.join(map(repr, experiment.tasks))}")
    path = arguments.results_dir / experiment.file_name
    records = read_records(path)
    failures = list(dict.fromkeys(experiment.problems().values()))
    planned = jobs_of(experiment, arguments.output_dir)
    with StopSignals() as signals:
        if arguments.train:
            jobs = [one for one in planned if not arguments.tasks or one.training.task in arguments.tasks]
            if not jobs:
                raise ConfigError(f"nothing of {experiment.name} can run here: {failures[0]}")
            current = current_records(planned, records)
            missing = [job for job in jobs if job.training.key not in current]
            outdated = sum(job.training.key in records for job in missing)
            hours = estimated_hours(experiment, [job.training for job in missing], current)
            time = f"{hours:.1f} CPU hours" if hours >= 1 else f"{max(60 * hours, 1):.0f} CPU minutes"
            to_make = f"{len(missing)} to make in about {time}" if missing else "all made"
            line = f"{experiment.title}: {len(jobs)} trainings, {to_make}"
            _print(console, line + (f"; {outdated} of them had other settings" if outdated else ""))
            # What cannot be written is to be known before the hours that it takes.
            write_records(path, experiment, read_records(path).values())
            write_part(arguments.page, experiment, current.values())
            at_once = available_cores() if arguments.jobs is None else arguments.jobs
            for number, (job, result) in enumerate(make_trainings(experiment, missing, at_once, signals), start=1):
                what = f"{number} of {len(missing)}  {job.training}"
                if isinstance(result, str):
                    failures.append(result)
                    _print(console, f"{what}: failed")
                    continue
                # Read again: another process may have written there.
                records = {**read_records(path), result.key: result}
                write_records(path, experiment, records.values())
                _print(console, f"{what}: {result}")
    write_part(arguments.page, experiment, current_records(planned, records).values())
    print_failures(failures)
    _print(console, f"  results  {path}\n  page     {arguments.page}")
    if signals.received is not None:
        _print(console, f"Stopped by {signals.received.name}: the same command goes on.")
        return 128 + signals.received
    return 1 if failures else 0


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
