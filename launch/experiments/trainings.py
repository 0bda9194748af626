"""Makes the trainings of an experiment that are missing: side by side, each in a process of its own with one thread."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.evaluation.plan import make_plan
from r2ac.launch.evaluation.prediction import prediction_errors
from r2ac.launch.evaluation.protocols import Settings
from r2ac.launch.evaluation.session import play_plan
from r2ac.launch.evaluation.workers import Workers
from r2ac.launch.experiments.experiment import Experiment, SeededTraining
from r2ac.launch.experiments.records import TrainingRecord, Usage, digest_of, make_record
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.run_directory import RunDirectory, write_atomically
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.settings.config import TrainConfig, config_from_json
from r2ac.launch.settings.flags import training_config
from r2ac.launch.train.start import begin_suite

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class PlannedTraining:
    """A training that is to be made, its settings, and the folder that belongs to it alone."""

    training: SeededTraining
    config: TrainConfig[Any]
    digest: str
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / self.training.words[0].replace("/", "-")

    @property
    def words(self) -> list[str]:
        """Of the command. A training on a list of one task begins, goes on or has ended already, by one command."""
        return ["train", "--suite", self.training.words[0], *self.flags, "--run-dir", str(self.folder)]

    @property
    def flags(self) -> list[str]:
        return [*self.training.words[1:], "--seed", str(self.training.seed)]

    @property
    def usage(self) -> Usage:
        """Of all processes that have trained here."""
        path = self.folder / "usage.json"
        return Usage(**json.loads(path.read_text())) if path.exists() else Usage()

    def add_usage(self, more: Usage) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "usage.json", json.dumps(asdict(self.usage + more)) + "\n")


def jobs_of(experiment: Experiment, output_dir: Path) -> list[PlannedTraining]:
    """One for each training that can run here. Raises ConfigError and InvalidOption for settings that cannot be."""
    problems = experiment.problems()
    configs: dict[tuple[str, ...], TrainConfig[Any]] = {}
    jobs = []
    for training in experiment.trainings:
        if training.task in problems:
            continue
        task, *flags = training.words
        if training.words not in configs:
            configs[training.words] = training_config(task, flags)
            configs[training.words].check()
        config = replace(configs[training.words], seed=training.seed)
        digest = digest_of(training.words, config)
        jobs.append(PlannedTraining(training, config, digest, output_dir / f"{digest}-seed{training.seed}"))
    return jobs


Records = Mapping[tuple[str, str, int], TrainingRecord]


def current_records(jobs: Sequence[PlannedTraining], records: Records) -> Records:
    """Without the records of other settings than these trainings have today. A row whose engine is missing has no
    trainings here: its records stay."""
    digests = {(job.training.task, job.training.agent): job.digest for job in jobs}
    return {key: record for key, record in records.items() if digests.get(key[:2], record.digest) == record.digest}


def make_trainings(
    experiment: Experiment, jobs: Sequence[PlannedTraining], at_once: int, signals: StopSignals
) -> Iterator[tuple[PlannedTraining, TrainingRecord | str]]:
    """Train and evaluate, ``at_once`` at a time (0: in this process), until all are done or a signal comes. Yields
    each job that ended, with its record, or with a sentence that says why there is none. What a signal interrupted is
    not among them: the same command goes on with it."""
    ended = _side_by_side(jobs, at_once, signals) if at_once else _here(jobs, signals)
    for job, sentence in ended:
        try:
            yield job, sentence or _record(experiment, job)
        except RunError as error:
            yield job, str(error)


def _record(experiment: Experiment, job: PlannedTraining) -> TrainingRecord:
    """Raises RunError where the agent cannot be evaluated."""
    evaluation = None
    if experiment.score == "prediction":
        evaluation, _ = prediction_errors(TrainedAgent.load(job.run))
    elif experiment.episodes:
        settings = Settings(episodes=experiment.episodes, seeds=1, device="cpu")
        plan = make_plan([job.run], None, settings)
        # A signal must not leave it half done: it takes seconds.
        play_plan(plan, Console(quiet=True), Workers(0), StopSignals())
        if plan.failures:
            raise RunError(plan.failures[0].sentence)
        evaluation = plan.rows[0].evaluation.mean_return
    run = RunDirectory(job.run)
    # What it was trained with, which counts where a preset has changed meanwhile.
    config = config_from_json(run.read_config(), run.config_path)
    return make_record(experiment, job.training, config, job.run, job.usage, evaluation)


def _here(jobs: Sequence[PlannedTraining], signals: StopSignals) -> Iterator[tuple[PlannedTraining, str]]:
    for job in jobs:
        if signals.received is not None:
            return
        before = _usage(resource.getrusage(resource.RUSAGE_SELF))
        code = begin_suite(job.config, job.training.words[0], str(job.folder), job.flags, Console(quiet=True))
        after = _usage(resource.getrusage(resource.RUSAGE_SELF))
        job.add_usage(Usage(after.cpu_seconds - before.cpu_seconds, after.peak_mb))
        if code > 128:
            # The training took it; now it is for those who wait for the next one.
            signal.raise_signal(code - 128)
            return
        yield job, f"the training {job.training} failed" if code else ""


def _side_by_side(
    jobs: Sequence[PlannedTraining], at_once: int, signals: StopSignals
) -> Iterator[tuple[PlannedTraining, str]]:
    waiting, running = deque(jobs), list[tuple[PlannedTraining, subprocess.Popen[bytes]]]()
    asked = False
    try:
        while running or (waiting and signals.received is None):
            while waiting and len(running) < at_once and signals.received is None:
                job = waiting.popleft()
                running.append((job, _start(job)))
            if signals.received is not None and not asked:
                asked = True
                # A terminal sends Ctrl-C to them too; of SIGTERM one more does nothing.
                for _, process in running:
                    process.send_signal(signal.SIGTERM)
            time.sleep(_POLL_SECONDS)
            for job, process in list(running):
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if not pid:
                    continue
                running.remove((job, process))
                process.returncode = os.waitstatus_to_exitcode(status)
                job.add_usage(_usage(used))
                if signals.received is None or process.returncode == 0:
                    yield job, _failure(job) if process.returncode else ""
    finally:
        for _, process in running:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _start(job: PlannedTraining) -> subprocess.Popen[bytes]:
    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.folder / "output.txt", "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "r2ac.launch", *job.words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _failure(job: PlannedTraining) -> str:
    lines = (job.folder / "output.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line for line in lines if line.startswith("r2ac: ")), lines[-1] if lines else "it said nothing")
    said = said.removeprefix("r2ac: ")
    return f"the training {job.training} failed: {said} (all that it said is in {job.folder}/output.txt)"


def _usage(used: resource.struct_rusage) -> Usage:
    # ru_maxrss is in KiB.
    return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
