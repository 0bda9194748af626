"""The experiments of the study, read from the files of `experiments/`, one for each table or figure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from r2ac.envs import MissingPackage, UnknownTask, find_task
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import flag_value
from r2ac.launch.settings.parser import whole_number
from r2ac.launch.settings.presets import preset

Scale = Literal["small", "gpu", "paper"]
# Beside launch/, in a checkout as in an installed package.
FOLDER = Path(__file__).resolve().parents[2] / "experiments"


@dataclass(frozen=True)
class SeededTraining:
    """One training of an experiment: a row and a column of its table, and a seed."""

    task: str
    """What the row is called; the task itself begins ``words``."""
    agent: str
    seed: int
    words: tuple[str, ...]
    """What follows ``r2ac train``, but for the seed."""

    @property
    def command(self) -> str:
        return " ".join(("r2ac train", *self.words))

    @property
    def key(self) -> tuple[str, str, int]:
        return self.task, self.agent, self.seed

    def __str__(self) -> str:
        return f"{self.task}, {self.agent}, seed {self.seed}"


@dataclass(frozen=True)
class Claim:
    """What an experiment is to show, so that it can be checked."""

    text: str
    agent: str
    at_least: float
    measure: Literal["solved", "score", "above"] = "solved"
    """What must be at least so much: the share of seeds that solve each task, the score of each task, or the number of
    tasks with a score above all published ones."""
    tasks: tuple[str, ...] = ()
    """Rows of the table; all if empty."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure, at one scale."""

    name: str
    scale: Scale
    trainings: tuple[SeededTraining, ...]
    title: str
    shows: str
    """What a reader learns from it, with the sources of the published numbers."""
    score: Literal["return", "unit", "prediction", "price"] = "return"
    """What a training is judged by: its return; the same mapped to [0, 1], from [-1, 1] where random play earns 0 or
    less; the mean squared error of the predicted return; or microseconds of the processor for a step."""
    episodes: int = 100
    """That a trained agent plays on held-out seeds; 0: none."""
    solved: float = 0.95
    """The share of the best return from which on a task counts as solved."""
    solved_at: Mapping[str, float] = field(default_factory=dict)
    """The same for tasks of their own, by their names."""
    figure: str = ""
    """What stands on the x axis: the letter N of labels such as ``RTRL, N = 10``; empty: steps, as learning curves."""
    figure_y: Literal["score", "solved"] = "score"
    """With it: the mean score, or the share of seeds that solve the task."""
    speed: float = 15_000.0
    """Steps a second of one core, for estimates before anything was measured."""
    published: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Columns of published numbers: what they are called -> the row -> the number."""
    claims: tuple[Claim, ...] = ()

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(training.task for training in self.trainings))

    @property
    def agents(self) -> list[str]:
        return list(dict.fromkeys(training.agent for training in self.trainings))

    @property
    def file_name(self) -> str:
        """Of its results."""
        return f"{self.name}-{self.scale}.json"

    def with_seeds(self, seeds: int | None) -> Experiment:
        """With seeds 1 to ``seeds`` of each cell; as it is for None."""
        if seeds is None:
            return self
        cells = {(one.task, one.agent): one for one in self.trainings}.values()
        return replace(self, trainings=tuple(replace(one, seed=n + 1) for one in cells for n in range(seeds)))

    def problems(self) -> dict[str, str]:
        """The tasks that cannot run here, by the names of their rows, each with one sentence that says why."""
        found = {}
        for label, name in {training.task: training.words[0] for training in self.trainings}.items():
            try:
                sentence = find_task(name).suite.missing()
            except (UnknownTask, MissingPackage) as error:
                sentence = str(error)
            if sentence is not None:
                found[label] = sentence
        return found


def read_experiments() -> list[Experiment]:
    """All of them, in the order of their files' names, each at all of its scales."""
    return [experiment for path in sorted(FOLDER.glob("*.toml")) for experiment in _read(path)]


def find_experiment(name: str, scale: str) -> Experiment:
    """The experiment of a name and a scale. Raises ConfigError where there is none."""
    names = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"there is no experiment {name!r}; the experiments are {', '.join(names)}")
    found: dict[str, Experiment] = {each.scale: each for each in _read(FOLDER / f"{name}.toml")}
    if scale not in found:
        raise ConfigError(f"--scale is {scale}, but {name} has {' and '.join(found)}")
    return found[scale]


def estimated_hours(
    experiment: Experiment, trainings: Iterable[SeededTraining], records: Mapping[tuple[str, str, int], Any]
) -> float:
    """Of the processor: what the same took with other seeds, as ``records`` say, else by the experiment's speed;
    nothing for tasks that cannot run here."""
    problems, known = experiment.problems(), dict[tuple[str, str], list[float]]()
    budgets: dict[str, int] = {}
    for (task, agent, _), record in records.items():
        known.setdefault((task, agent), []).append(record.cpu_seconds)
    seconds = 0.0
    for training in trainings:
        if training.task in problems:
            continue
        if measured := known.get((training.task, training.agent)):
            seconds += sum(measured) / len(measured)
            continue
        name, *flags = training.words
        if (given := flag_value(flags, "--total-steps")) is None:
            budgets[name] = budgets.get(name) or preset(name).total_steps
        seconds += (whole_number(given) if given else budgets[name]) / experiment.speed
    return seconds / 3600


def _read(path: Path) -> list[Experiment]:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    blocks = {scale: values.pop(scale) for scale in get_args(Scale) if scale in values}
    claims = tuple(Claim(**{**claim, "tasks": tuple(claim.get("tasks", ()))}) for claim in values.pop("claims", ()))
    return [
        Experiment(path.stem, scale, tuple(_trainings(own)), claims=claims, **values) for scale, own in blocks.items()
    ]


def _trainings(blocks: Sequence[Mapping[str, Any]]) -> Iterable[SeededTraining]:
    """Every task of a block with every agent of it and every seed; where ``{N}`` stands in what they are called and in
    their flags, with every value of N."""
    for block in blocks:
        lists = block.get("values", {})
        for texts in product(block["tasks"].items(), block["agents"].items()):
            names = [name for name in lists if f"{{{name}}}" in str(texts)]
            for values in product(*(lists[name] for name in names)):
                spelt = [text for entry in texts for text in entry]
                for name, value in zip(names, values, strict=True):
                    spelt = [text.replace(f"{{{name}}}", str(value)) for text in spelt]
                task, words, agent, flags = spelt
                for seed in range(1, block["seeds"] + 1):
                    yield SeededTraining(task, agent, seed, (*words.split(), *flags.split()))
