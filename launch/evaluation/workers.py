"""The work of an evaluation, seed by seed: in this process, or side by side in Ray tasks."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from r2ac.envs import EngineFailed, EnvironmentFailed
from r2ac.launch.cluster import connect as cluster
from r2ac.launch.evaluation.evaluate import Evaluation, EvaluationFailure, UnitReport, play_seed
from r2ac.launch.evaluation.plan import BAD_INPUT
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runtime.errors import with_details_kept
from r2ac.launch.runtime.process import set_up_process
from r2ac.launch.runtime.step_timer import StepTimer
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.settings.config import ConfigError

_LOG = logging.getLogger(__name__)
# Seconds between two reports of a unit, and the longest wait before a look at the signals.
_REPORT_SECONDS = 0.25
# What is not done in this process after so many seconds is worth the start of Ray, which takes as long.
_PATIENCE = 6.0
_RESTARTS = 3

Agents = Mapping[Path, TrainedAgent]  # by the paths of their checkpoints


@dataclass(frozen=True, eq=False)
class Unit:
    """One seed of the planned result ``row``, played in one piece; of ``evaluation`` only the settings matter."""

    row: int
    seed: int
    evaluation: Evaluation


@dataclass(frozen=True)
class Workers:
    """Where units are played; ``gpu``: each Ray task needs a share of a GPU."""

    number: int | None = None
    """Ray tasks side by side; 0: this process; None: as many as Ray has cores, or this process where it is quick."""
    ray_address: str = "local"
    gpu: bool = False


def check_can_be_ended(units: Sequence[Unit], workers: Workers) -> None:
    """Raise ConfigError for a time-out of steps in this process, which cannot be ended for it."""
    seconds = max((unit.evaluation.killed_after for unit in units), default=0.0)
    if workers.number == 0 and seconds:
        raise ConfigError(
            f"--step-timeout is {seconds:g}, but it must be 0 with --workers 0: a step that does not return is "
            "ended by killing its process, and here that is this one"
        )


def play_units(
    units: Sequence[Unit], agents: Agents, workers: Workers, signals: StopSignals
) -> Generator[tuple[Unit, UnitReport], None, None]:
    """Play the units and report how far each has come; what is played does not depend on where.

    A unit that fails ends the work on its result, and on nothing else. When a signal has come the reports end. Raises
    ConnectionFailed if there is no Ray cluster at the address given, ConfigError if a GPU is asked for but missing.
    """
    left = list(units)
    # What does not come back can be ended in another process only.
    if not any(unit.evaluation.killed_after for unit in units):
        here = workers.number == 0 or len(units) <= 1
        if here or (workers.number is None and workers.ray_address == "local"):
            until = None if here else time.monotonic() + _PATIENCE
            with closing(_play_here(units, agents, signals)) as reports:
                for unit, report in reports:
                    yield unit, report
                    if report.ended:
                        left = [u for u in left if u is not unit and (report.failure is None or u.row != unit.row)]
                    elif until is not None and time.monotonic() > until and len(left) > 1:
                        # It is begun again where the others are.
                        yield unit, UnitReport()
                        break
            if here:
                return
    if left and not signals.stop_requested():
        connection = cluster.connect(workers.ray_address, num_actors=min(workers.number or 1, len(left)))
        try:
            signals.install()
            yield from _RayPlayer(connection.ray, left, agents, workers).reports(signals)
        finally:
            connection.close()


def _play(
    agent: TrainedAgent, evaluation: Evaluation, seed: int, step_timeout: float = 0.0
) -> Generator[UnitReport, None, None]:
    """Reports of one unit. One thread for the network wherever it runs: how sums are split among threads shows in
    their last bits. This process is ended if a step takes longer than ``step_timeout`` seconds; 0: never."""
    threads = torch.get_num_threads()
    set_up_process(threads=1)
    try:
        yield UnitReport()
        reported, timer = time.monotonic(), StepTimer(step_timeout)
        with closing(play_seed(agent, evaluation, seed, lambda: timer)) as reports:
            for report in reports:
                if report.ended or time.monotonic() - reported >= _REPORT_SECONDS:
                    reported = time.monotonic()
                    yield report
    finally:
        torch.set_num_threads(threads)


def _play_here(
    units: Sequence[Unit], agents: Agents, signals: StopSignals
) -> Generator[tuple[Unit, UnitReport], None, None]:
    failed: set[int] = set()
    for unit in units:
        if unit.row in failed:
            continue
        try:
            with closing(_play(agents[unit.evaluation.checkpoint], unit.evaluation, unit.seed)) as reports:
                for report in reports:
                    yield unit, report
                    if signals.stop_requested():
                        return
        except Exception as error:
            failed.add(unit.row)
            yield unit, UnitReport(failure=_failure(error, unit))


class _RayPlayer:
    """Keeps so many Ray tasks at work as there are workers; a unit whose process dies is played again."""

    def __init__(self, ray: Any, units: Sequence[Unit], agents: Agents, workers: Workers) -> None:
        resources = ray.cluster_resources()
        self._ray, self._number = ray, min(workers.number or int(resources["CPU"]), len(units))
        gpus = resources.get("GPU", 0)
        if workers.gpu and gpus < 1:
            raise ConfigError("--device is cuda, but Ray has no GPU: --device cpu, or --workers 0 for this process")
        share = cluster.gpu_share(gpus, self._number) if workers.gpu else 0
        # Ray's own retries would send the reports of two attempts as those of one.
        self._play = ray.remote(_play).options(num_cpus=1, num_gpus=share, max_retries=0)
        self._agents = {path: ray.put(agents[path]) for path in {unit.evaluation.checkpoint for unit in units}}
        self._waiting, self._running = deque(units), dict[Any, Unit]()
        self._failed: set[int] = set()
        self._deaths: Counter[Unit] = Counter()
        self._heard: dict[Unit, float] = {}

    def reports(self, signals: StopSignals) -> Generator[tuple[Unit, UnitReport], None, None]:
        """Of all units, until the last has ended or a signal has come."""
        self._start()
        while self._running and not signals.stop_requested():
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_REPORT_SECONDS)
            for stream in ready:
                unit, report = self._running[stream], self._next(stream)
                if report is None or report.ended:
                    del self._running[stream]
                if report is not None:
                    yield unit, report
                elif unit in self._waiting:
                    # From its beginning.
                    yield unit, UnitReport()
            self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._number:
            unit = self._waiting.popleft()
            if unit.row not in self._failed:
                evaluation = unit.evaluation
                agent = self._agents[evaluation.checkpoint]
                stream = self._play.remote(agent, evaluation, unit.seed, evaluation.killed_after)
                self._running[stream], self._heard[unit] = unit, time.monotonic()

    def _next(self, stream: Any) -> UnitReport | None:
        """The next report of a unit; None where its process has died, or it failed as another of its result did."""
        unit, exceptions = self._running[stream], self._ray.exceptions
        silent, self._heard[unit] = time.monotonic() - self._heard[unit], time.monotonic()
        try:
            return self._ray.get(next(stream))
        except exceptions.RayTaskError as error:
            return self._fail(unit, error.cause)
        except exceptions.RayError as error:
            timeout = unit.evaluation.killed_after
            # What was last heard is a little younger than the step that did not come back.
            if 0 < timeout < 2 * silent:
                # The same seed is the same steps: there is no use in playing it again.
                sentence = f"a step of seed {unit.seed} took longer than --step-timeout {timeout:g} (seconds)"
                return self._fail(unit, EngineFailed(f"{sentence}; the seeds that have ended are kept"))
            self._deaths[unit] += 1
            if self._deaths[unit] > _RESTARTS:
                return self._fail(unit, EngineFailed(f"the process that played it died {_RESTARTS + 1} times: {error}"))
            _LOG.warning("the process that played %s died: its seed %d begins anew", unit.evaluation.task, unit.seed)
            self._waiting.append(unit)
            return None

    def _fail(self, unit: Unit, error: Exception) -> UnitReport | None:
        first = unit.row not in self._failed
        self._failed.add(unit.row)
        return UnitReport(failure=_failure(error, unit)) if first else None


def _failure(error: Exception, unit: Unit) -> EvaluationFailure:
    if isinstance(error, BAD_INPUT):
        return EvaluationFailure(str(error), bad_input=True)
    if isinstance(error, EnvironmentFailed):
        # The sentence names the task.
        return EvaluationFailure(f"{unit.evaluation.checkpoint}: {with_details_kept(error)}", error.never_worked)
    where = f"{unit.evaluation.checkpoint} on {unit.evaluation.task}"
    if isinstance(error, EngineFailed):
        return EvaluationFailure(f"{where}: {error}", bad_input=False)
    # Nothing that is known to happen: what it was is worth more than a sentence.
    _LOG.error("%s failed", where, exc_info=error)
    return EvaluationFailure(f"{where}: {error!r}", bad_input=False)
