"""What is kept of the trainings of an experiment: one compact JSON file, a training a line."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from r2ac.launch.experiments.experiment import Experiment, SeededTraining
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.run_directory import write_atomically
from r2ac.launch.runs.run_groups import changed_settings
from r2ac.launch.runtime.errors import RunError, os_errors_as
from r2ac.launch.runtime.process import available_cores
from r2ac.launch.settings.config import TrainConfig

PARTS = 40
"""A curve has so many points; what a task is solved by is a mean over a part."""


@dataclass(frozen=True)
class Usage:
    """What the processes of a training have taken."""

    cpu_seconds: float = 0.0
    peak_mb: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu_seconds + other.cpu_seconds, max(self.peak_mb, other.peak_mb))


@dataclass(frozen=True)
class TrainingRecord:
    """A training that has ended."""

    task: str
    agent: str
    seed: int
    command: str
    digest: str
    """Of the command and of all settings that it stands for: another one is another training."""
    steps: int
    curve: tuple[float | None, ...]
    """The mean return of the training episodes in each of 40 equal parts of the budget; None where none ended."""
    solved: tuple[int, float] | None
    """Steps and seconds until the mean return over a fortieth of the budget reached the threshold; None: never."""
    threshold: float | None
    """None where the task has no best return."""
    reference: tuple[float, float] | None
    """The lowest and the highest reference score of the task."""
    evaluation: float | None
    """The mean return of held-out episodes, or the error of predictions, after the training; None: not evaluated."""
    seconds: float
    cpu_seconds: float
    peak_mb: float
    versions: str
    hardware: str
    date: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.task, self.agent, self.seed

    def __str__(self) -> str:
        solved = "" if self.solved is None else f", solved after {self.solved[0]:,} steps, {self.solved[1]:.0f} s"
        return f"{self.result:.3f} after {self.steps:,} steps{solved}, {self.cpu_seconds:.0f} s of the processor"

    @property
    def is_solved(self) -> bool:
        """Whether the threshold was reached, and the trained agent has not lost it again."""
        return self.solved is not None and self.threshold is not None and self.result >= self.threshold

    @property
    def result(self) -> float:
        """The evaluation, or without one the end of the curve; NaN where there is neither."""
        if self.evaluation is not None:
            return self.evaluation
        return next((point for point in reversed(self.curve) if point is not None), float("nan"))


def digest_of(words: Sequence[str], config: TrainConfig[Any]) -> str:
    """Which training it is, whatever its seed and wherever it runs."""
    text = json.dumps([words, changed_settings(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_record(
    experiment: Experiment,
    training: SeededTraining,
    config: TrainConfig[Any],
    run: Path,
    usage: Usage,
    evaluation: float | None,
) -> TrainingRecord:
    """The record of a training that has ended in ``run``. Raises RunDirectoryError where its metrics are damaged."""
    rows = read_metrics(run)
    scores = config.tasks[0].reference_scores(config.env)
    share = experiment.solved_at.get(training.words[0], experiment.solved)
    threshold = None if scores is None else share * scores.high
    curve, solved = _curve(rows, config.total_steps, threshold)
    return TrainingRecord(
        *training.key,
        command=training.command,
        digest=digest_of(training.words, config),
        steps=int(rows[-1]["env_steps"]),
        curve=curve,
        solved=solved,
        threshold=threshold,
        reference=None if scores is None else (scores.low, scores.high),
        evaluation=None if evaluation is None else round(evaluation, 5),
        seconds=round(rows[-1]["wall_time"], 1),
        cpu_seconds=round(usage.cpu_seconds, 1),
        peak_mb=round(usage.peak_mb),
        versions=f"r2ac {version('r2ac')}, torch {version('torch')}, Python {platform.python_version()}",
        hardware=hardware(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def read_records(path: Path) -> dict[tuple[str, str, int], TrainingRecord]:
    """What a file holds, by task, agent and seed; nothing where there is none. Raises RunError where it is damaged."""
    with os_errors_as(RunError, f"{path} cannot be read"):
        text = path.read_text(encoding="utf-8") if path.exists() else '{"trainings": []}'
    try:
        records = [_from_json(values) for values in json.loads(text)["trainings"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged or of another r2ac: {error!r}; without it all is trained again") from error
    return {record.key: record for record in records}


def write_records(path: Path, experiment: Experiment, records: Iterable[TrainingRecord]) -> None:
    """All of them, sorted, one a line. Raises RunError where the file cannot be written."""
    lines = [json.dumps(asdict(record)) for record in sorted(records, key=lambda record: record.key)]
    head = f'{{"experiment": {json.dumps(experiment.name)}, "scale": {json.dumps(experiment.scale)}, "trainings": ['
    with os_errors_as(RunError, f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, head + "\n" + ",\n".join(lines) + "\n]}\n")


def hardware() -> str:
    """``2 cores AMD EPYC``, and the GPU where torch has one."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{available_cores()} cores {name}, {gpu}"


def _from_json(values: Mapping[str, Any]) -> TrainingRecord:
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return TrainingRecord(**{**values, **lists})


def _curve(
    rows: Sequence[Mapping[str, Any]], total: int, threshold: float | None
) -> tuple[tuple[float | None, ...], tuple[int, float] | None]:
    """The curve of a training, and when it was first as good as the threshold, in the mean over a part."""
    ended = [row for row in rows if row.get("episodes")]
    names = ("env_steps", "wall_time", "episodes", "episode_return")
    steps, seconds, episodes, returns = (np.array([row[name] for row in ended], dtype=float) for name in names)
    part = total / PARTS

    def mean(after: float, until: float) -> float | None:
        inside = (steps > after) & (steps <= until)
        return float(np.average(returns[inside], weights=episodes[inside])) if inside.any() else None

    # The last update may go beyond the budget.
    curve = [mean(n * part, (n + 1) * part if n + 1 < PARTS else float("inf")) for n in range(PARTS)]
    solved = None
    for step, second in zip(steps, seconds, strict=True):
        if threshold is None or step < part:
            continue
        if (value := mean(step - part, step)) is not None and value >= threshold:
            solved = int(step), round(float(second), 1)
            break
    return tuple(None if point is None else float(f"{point:.4g}") for point in curve), solved
