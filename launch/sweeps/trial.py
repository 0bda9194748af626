"""One trial of a sweep: an ordinary training in a run directory that reports how far it is.

Its whole state is in its run directory, so that one that was stopped, paused, or whose process died goes on from its
newest checkpoint in any process. ``trial.json`` beside the checkpoints holds what the sweep did to it.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.envs import InvalidOption, MissingPackage
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.run_directory import RunDirectory, json_text, write_atomically
from r2ac.launch.runtime.errors import RunDirectoryError, RunError
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.sweeps.space import Settings
from r2ac.launch.sweeps.sweep_plan import SCORE_LINES, with_settings
from r2ac.launch.train.resume import newest_step
from r2ac.launch.train.run_context import TrainCallback
from r2ac.launch.train.train import train
from r2ac.learner import TrainingDiverged
from r2ac.learner.checkpoint import Checkpoint, CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint

FINAL_FAILURES = (TrainingDiverged, ConfigError, InvalidOption, MissingPackage, RunError, CheckpointError)
"""What the same trial would meet again: it is reported and not tried again."""
_WEIGHTS, _WHOSE = "checkpoint.safetensors", "whose.json"


@dataclass(frozen=True)
class PopulationCopy:
    """A member of a population took over the weights, the optimiser and the settings of another."""

    generation: int
    """How many comparisons there had been, with this one."""
    donor: str
    donor_env_steps: int
    env_steps: int
    """The member's own steps, which go on."""
    settings: Settings
    """With which it goes on: those of the donor, changed."""


@dataclass
class Record:
    """``trial.json``."""

    copies: list[PopulationCopy] = field(default_factory=list)
    failure: str | None = None
    """One sentence, where the trial cannot go on."""

    @staticmethod
    def read(run_dir: Path) -> Record:
        """What was written; an empty one where nothing was. Raises RunDirectoryError where it is damaged."""
        path = run_dir / "trial.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Record([PopulationCopy(**copy) for copy in values["copies"]], values["failure"])
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{path} is damaged: {error!r}") from error

    def write(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(run_dir / "trial.json", json_text(asdict(self), indent=2))

    @property
    def last_copied(self) -> int:
        """The member's own steps at its last copy, up to which metrics are of other weights; -1: it never copied."""
        return self.copies[-1].env_steps if self.copies else -1


@dataclass(frozen=True)
class TrialReport:
    env_steps: int
    generation: int
    """Comparisons of the population that it has reached."""
    score: float
    """NaN where the metric was not measured; the worst there is where the trial failed."""
    copies: int
    donor: str | None
    """Whose weights it took over last."""
    done: bool
    failure: str | None = None


class Trial:
    """A trial that trains on a thread of its own.

    ``settings`` are those that a population changes, as they are now. Training pauses for a comparison of the
    population after each ``every`` environment steps (0: never) until the next report.
    """

    def __init__(
        self, name: str, config: TrainConfig[Any], settings: Settings, metric: str, minimise: bool, every: int = 0
    ) -> None:
        assert config.run_dir is not None
        self._name, self._settings, self._run_dir = name, settings, config.run_dir
        self._config = with_settings(config, settings)
        self._metric, self._minimise, self._every = metric, minimise, every
        self._record = Record.read(self._run_dir)
        self._lines: deque[Mapping[str, Any]] = deque(maxlen=SCORE_LINES)
        self._env_steps = newest_step(self._run_dir) or 0
        self._generation = generation_of(self._env_steps, self._record, every)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def report(self, timeout: float) -> TrialReport:
        """Train for ``timeout`` seconds, or up to the next comparison or the end. Raises whatever ended the training
        and may not come again."""
        if self._thread is None:
            self._begin()
        assert self._thread is not None
        self._thread.join(timeout)
        if self._thread.is_alive():
            return self._report(done=False)
        self._thread = None
        if self._error is not None:
            raise self._error
        if self._record.failure is None:
            goes_on = self._env_steps < self._config.total_steps
        else:
            # It waits for the comparison that may put the weights of another into its checkpoint.
            goes_on = self._comparisons_left() and newest_step(self._run_dir) is not None
        self._generation += goes_on
        return self._report(done=not goes_on)

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def save(self, folder: Path) -> None:
        """Copy the newest checkpoint, for others to go on from, and note whose it is."""
        shutil.copyfile(latest_checkpoint(RunDirectory(self._run_dir).checkpoints), folder / _WEIGHTS)
        whose = {"trial": self._name, "generation": self._generation, "env_steps": self._env_steps}
        (folder / _WHOSE).write_text(json_text(whose))

    def load(self, folder: Path) -> None:
        """Go on from what :meth:`save` wrote. Where it is another's, its weights and optimiser are taken over, once.
        Raises CheckpointError, RunDirectoryError."""
        whose = json.loads((folder / _WHOSE).read_text())
        self._generation = int(whose["generation"])
        copy = PopulationCopy(self._generation, str(whose["trial"]), int(whose["env_steps"]), 0, dict(self._settings))
        copies = self._record.copies
        # A process that dies after the copy is started with the same once more.
        taken = [(one.donor, one.donor_env_steps) for one in copies[-1:]]
        if copy.donor == self._name or (copy.donor, copy.donor_env_steps) in taken:
            return
        with closing(RunDirectory.open(self._run_dir, for_writing=True)) as run:
            path = latest_checkpoint(run.checkpoints)
            merged = take_over(load_checkpoint(path), load_checkpoint(folder / _WEIGHTS), self._config.num_streams)
            save_checkpoint(path, merged)
            copies.append(replace(copy, env_steps=int(merged.counters["env_steps"])))
            self._record.failure = None
            self._record.write(self._run_dir)

    def _begin(self) -> None:
        self._stop.clear()
        self._error = None
        if self._record.failure is not None:
            self._record.failure = None
            self._record.write(self._run_dir)
        step = newest_step(self._run_dir)
        self._env_steps = step or 0
        self._lines.clear()
        if step is not None:
            self._lines += lines_since(self._run_dir, self._record.last_copied, self._env_steps)
        constants: dict[str, float] = {}
        if self._every:
            constants = {f"population/{name.replace('-', '_')}": float(v) for name, v in self._settings.items()}
            constants["population/copies"] = len(self._record.copies)
        callback = TrainCallback(constants, self._take_line, self._stop.is_set)
        self._thread = threading.Thread(target=self._train, args=(callback,), daemon=True)
        self._thread.start()

    def _train(self, callback: TrainCallback) -> None:
        try:
            train(self._config, self._run_dir, None, Console(quiet=True), callback)
        except FINAL_FAILURES as error:
            self._record.failure = str(error)
        except BaseException as error:
            self._error = error
        if self._record.failure is not None:
            self._record.write(self._run_dir)

    def _take_line(self, line: Mapping[str, float]) -> None:
        self._lines.append(line)
        self._env_steps = int(line["env_steps"])
        if self._comparisons_left() and self._env_steps >= (self._generation + 1) * self._every:
            self._stop.set()

    def _comparisons_left(self) -> bool:
        return self._every > 0 and (self._generation + 1) * self._every < self._config.total_steps

    def _report(self, done: bool) -> TrialReport:
        failure = self._record.failure
        worst = math.inf if self._minimise else -math.inf
        score = worst if failure is not None else mean_of(self._lines, self._metric)
        copies = self._record.copies
        donor = copies[-1].donor if copies else None
        return TrialReport(self._env_steps, self._generation, score, len(copies), donor, done, failure)


def generation_of(env_steps: int, record: Record, every: int) -> int:
    """Comparisons that a member has behind it; one that failed and was copied into has fewer steps than they say."""
    copied = record.copies[-1].generation if record.copies else 0
    return max(env_steps // every, copied) if every else 0


def take_over(own: Checkpoint, donor: Checkpoint, num_streams: int) -> Checkpoint:
    """A member's checkpoint with the weights and the optimiser of another.

    Its steps, updates and random state stay its own, so that its learning rate falls on and its curves have no jump.
    Sensitivities are in no checkpoint: those of all its streams begin again at zero, which is counted.
    """
    counters = {**own.counters, "stream_resets": own.counters["stream_resets"] + num_streams}
    return replace(own, model=donor.model, optimiser=donor.optimiser, counters=counters)


def lines_since(run_dir: Path, after: int, until: int) -> list[dict[str, Any]]:
    """The last lines of ``metrics.jsonl``, at most ten, of steps above ``after`` and up to ``until``."""
    path = RunDirectory(run_dir).metrics_path
    if not path.exists() or not path.stat().st_size:
        return []
    return [line for line in read_metrics(run_dir) if after < line["env_steps"] <= until][-SCORE_LINES:]


def mean_of(lines: Any, metric: str) -> float:
    """Its mean over the lines that hold it; NaN where none does."""
    values = [line[metric] for line in lines if line.get(metric) is not None]
    return math.fsum(values) / len(values) if values else math.nan
