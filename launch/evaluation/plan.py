"""What an evaluation is to play: from the runs that are named and the protocol to results that are still empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from r2ac.envs import InvalidOption, MissingPackage, UnknownTask, find_task, find_tasks
from r2ac.launch.evaluation.evaluate import Evaluation, EvaluationFailure, evaluation_path
from r2ac.launch.evaluation.protocols import Settings
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.run_groups import runs_of
from r2ac.launch.runs.suite_run import SuiteRun
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.settings.config import ConfigError
from r2ac.learner.checkpoint import CheckpointError

BAD_INPUT = (RunError, CheckpointError, ConfigError, UnknownTask, InvalidOption, MissingPackage)
"""What the user can mend; each message is one sentence."""


@dataclass(eq=False)
class Planned:
    """One row of the table: a result, empty at first, and where it belongs."""

    argument: Path
    """As on the command line; ``path`` is the run or checkpoint that it stands for."""
    path: Path
    of_suite: bool
    """Whether it is part of a directory of r2ac train --suite, which gets a page of its own."""
    evaluation: Evaluation
    target: Path
    """The evaluation.json that it is written into."""

    @property
    def key(self) -> tuple[object, ...]:
        """What no two rows share: one checkpoint plays the same for the same file once, however often it is named."""
        return self.target, self.evaluation.sha256, self.evaluation.task, self.evaluation.config.split


@dataclass
class EvaluationPlan:
    """All that is to be played, with the agents by the paths of their checkpoints, and what cannot be."""

    rows: list[Planned] = field(default_factory=list)
    agents: dict[Path, TrainedAgent] = field(default_factory=dict)
    failures: list[EvaluationFailure] = field(default_factory=list)

    @property
    def results(self) -> list[Planned]:
        """The rows that have a seed or more."""
        return [row for row in self.rows if row.evaluation.episodes]

    def fail(self, failure: EvaluationFailure) -> None:
        """Note a failure, once."""
        if failure not in self.failures:
            self.failures.append(failure)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A block that ends with the first error that the user can mend, which is noted."""
        try:
            yield
        except BAD_INPUT as error:
            self.fail(EvaluationFailure(str(error), bad_input=True))


def make_plan(
    paths: Sequence[Path], names: str | None, settings: Settings, output: Path | None = None
) -> EvaluationPlan:
    """Read the checkpoints and find out what each one plays; what is wrong with one does not keep the others.

    ``paths`` are runs, checkpoints, or directories of runs, which stand for all of them; ``names`` the tasks, as
    `find_tasks` reads them, each agent those of its own suite, or None for its own; ``output`` the folder that all
    results are written into, or None for those of the runs. Raises UnknownTask for a task that is named twice.
    """
    plan = EvaluationPlan()
    if names is not None:
        known = []
        for name in names.split(","):
            with plan.noting():
                find_tasks(name)
                known.append(name)
        if not known:
            return plan
        names = ",".join(known)
        find_tasks(names)
    for argument in paths:
        with plan.noting():
            suite = SuiteRun.read(argument)
            of_suite = suite is not None
            for path in _runs_at(argument) if suite is None else _runs_of_suite(suite, plan):
                with plan.noting():
                    agent = TrainedAgent.load(path)
                    target = evaluation_path(path) if output is None else RunDirectory(output).evaluation_path
                    for evaluation in _evaluations(agent, path, names, settings, plan):
                        row = Planned(argument, path, of_suite and output is None, evaluation, target)
                        if row.key not in {other.key for other in plan.rows}:
                            plan.rows.append(row)
    return plan


def is_refused(evaluation: Evaluation) -> bool:
    """Whether it is known, without the engine, that the task shows or takes something else than all that the agent was
    trained on."""
    shown = find_task(evaluation.task).spaces(evaluation.environment)
    known = [task.spaces(evaluation.training.env) for task in evaluation.training.tasks]
    return shown is not None and None not in known and shown not in known


def _runs_at(argument: Path) -> list[Path]:
    """The argument itself, or the runs that the directory holds (those of r2ac: no others can play)."""
    try:
        runs = [run for run in runs_of(argument) if RunDirectory(run).config_path.exists()]
    except (OSError, RunError):
        # The search for a checkpoint there says what is wrong.
        runs = []
    return runs or [argument]


def _runs_of_suite(suite: SuiteRun, plan: EvaluationPlan) -> Iterator[Path]:
    for task in find_tasks(suite.names):
        if (run := Path(suite.place_of(task))).exists():
            yield run
        else:
            plan.fail(EvaluationFailure(f"{suite.place} has no run on {task.name} yet", bad_input=True))


def _evaluations(
    agent: TrainedAgent, path: Path, names: str | None, settings: Settings, plan: EvaluationPlan
) -> Iterator[Evaluation]:
    """What the agent plays of the named tasks, or of its own. Raises ConfigError where none of the names is of its
    suite."""
    tasks = agent.training.tasks
    if names is not None:
        suite = tasks[0].suite.name
        tasks = tuple(task for task in find_tasks(names) if task.suite.name == suite)
        if not tasks:
            raise ConfigError(f"--suite {names} names no task of {suite}, which {path} was trained on")
    plan.agents[agent.path] = agent
    for task in tasks:
        with plan.noting():
            if (sentence := task.suite.missing()) is not None:
                raise MissingPackage(sentence)
            environment = settings.environment(task, agent.training.env)
            if task.is_endless(environment):
                raise ConfigError(
                    f"--max-episode-steps is 0, but it must be at least 1 with {task.name}, whose episodes never end"
                )
            about = agent.path, agent.sha256, agent.env_steps, task.name, environment
            for config, changed in settings.configs(task):
                yield Evaluation(*about, config, agent.training, settings.protocol, changed)
