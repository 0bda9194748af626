"""How a run is opened: at a path or a URL, as a new one or where it was interrupted; locked, copied and written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.envs import EnvironmentFailed
from r2ac.launch.runs.metrics import MetricsWriter
from r2ac.launch.runs.mirror import Mirror
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.trackers import Trackers
from r2ac.launch.runtime.errors import RunDirectoryError, RunUnwritable, with_details_kept
from r2ac.launch.runtime.progress import TrainingStatus
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.settings.places import is_url
from r2ac.launch.train.memory_budget import MemoryBudget
from r2ac.launch.train.resume import check_goes_on, newest_step
from r2ac.launch.train.summary import RUN_FAILURES, resume_command
from r2ac.learner.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)


@dataclass(frozen=True)
class TrainCallback:
    """What a training calls while it goes on: for the terminal, for the process that started it, for a sweep. Each line
    of the metrics also holds the ``constants``."""

    constants: Mapping[str, float] = field(default_factory=dict)
    take_line: Callable[[Mapping[str, float]], None] = lambda _: None
    """Gets each line of metrics that was written."""
    stop_requested: Callable[[], bool] = lambda: False
    """Returns whether the training is to save and end; called after each update."""
    show_status: Callable[[TrainingStatus], None] = lambda _: None
    """Gets how far the training has come, several times a second."""
    show_budget: Callable[[MemoryBudget], None] = lambda _: None
    """Gets the memory that the training will hold, before it begins."""


@dataclass
class RunContext:
    """The run of a training, at a path or a URL (``place``), which its first learner alone has.

    ``directory`` is locked; for a URL it is the folder on this machine that ``mirror`` copies there. The run goes on
    from ``checkpoint``, None for a new one, after a failure ``restarted``; ``metrics`` and ``trackers`` are open in
    :meth:`recording`.
    """

    place: Path | str
    directory: RunDirectory
    checkpoint: Checkpoint | None
    callback: TrainCallback
    mirror: Mirror | None
    restarted: bool
    console: Console
    metrics: MetricsWriter = field(init=False)
    trackers: Trackers = field(init=False)

    @property
    def env_steps(self) -> int:
        """That the run has learned from when it is opened."""
        return int(self.checkpoint.counters["env_steps"]) if self.checkpoint else 0

    @contextmanager
    def recording(self, config: TrainConfig[Any]) -> Iterator[None]:
        """Within this context the training runs: metrics are written, and an error that ends it says what is saved.
        Raises RunUnwritable where the run can no longer be written."""
        with MetricsWriter(self.directory, self.env_steps if self.checkpoint else None) as self.metrics:
            if self.checkpoint is not None:
                self.directory.write_config(config.to_json())
            self.metrics.events.write_config(config.to_json(), self.env_steps)
            try:
                with Trackers(config, self.place, self.directory.path, self.console) as self.trackers:
                    yield
            except EnvironmentFailed as error:
                sentence = with_details_kept(error, self.directory.path)
                raise EnvironmentFailed(sentence, "", error.never_worked) from error
            except (RunDirectoryError, CheckpointError) as error:
                saved = f"the checkpoints before are whole, and {resume_command(self.place)} goes on once there is room"
                has_any = newest_step(self.directory.path) is not None
                raise RunUnwritable(f"{error}; {saved if has_any else 'nothing was learned'}") from error
            except Exception as error:
                steps = newest_step(self.directory.path)
                # One that nothing is known about comes with its traceback.
                if steps is not None and not isinstance(error, RUN_FAILURES):
                    goes_on = f"{resume_command(self.place)} goes on"
                    error.add_note(f"What was learned in {steps:,} steps is saved: {goes_on}.")
                raise

    def write_line(self, env_steps: int, env_frames: int, wall_time: float, values: dict[str, float]) -> None:
        """Write a line of metrics, and report it."""
        values = {**values, **self.callback.constants}
        self.metrics.write(env_steps, env_frames, wall_time, values)
        self.trackers.log(env_steps, env_frames, wall_time, values)
        self.callback.take_line({"env_steps": env_steps, **values})

    def save(self, checkpoint: Checkpoint, keep: int) -> None:
        """Write a checkpoint, keep the newest ``keep``, and begin to copy the run to its URL."""
        folder = self.directory.checkpoints
        save_checkpoint(checkpoint_path(folder, int(checkpoint.counters["env_steps"])), checkpoint)
        prune_checkpoints(folder, keep)
        if self.mirror is not None:
            self.mirror.push()

    def paths(self, profile: bool) -> dict[str, Path | str]:
        """Where the run, its newest checkpoint and its metrics are found later; with ``profile`` also that."""
        run = self.directory
        paths = {"run": run.path, "checkpoint": latest_checkpoint(run.checkpoints), "metrics": run.metrics_path}
        if profile:
            paths["profile"] = run.path / "profile" / "summary.md"
        return {name: self.mirror.shown(path) if self.mirror else path for name, path in paths.items()}


@contextmanager
def open_run(
    place: Path | str,
    new: bool | None,
    config: TrainConfig[Any],
    console: Console,
    callback: TrainCallback,
    restarted: bool = False,
) -> Iterator[RunContext]:
    """Open a run to train in it: within this context it is locked, and a run at a URL is copied there.

    A run that is not ``new`` goes on from its newest checkpoint; None: it goes on if it has one. A ``restarted`` one
    waits for another writer, such as a learner on a machine that cannot be reached. Raises RunDirectoryError or
    StorageError where another process writes the run, where a new one would be written over another, or where there is
    none to go on with; CheckpointError where no checkpoint can be read, ConfigError where the settings do not fit it.
    """
    waits = partial(console.print, soft_wrap=True, markup=False) if restarted else None
    with ExitStack() as stack:
        mirror = None
        if is_url(str(place)):
            mirror = stack.enter_context(Mirror(str(place), console, new, patient=restarted))
        path = mirror.path if mirror is not None else Path(place)
        if new is None:
            new = newest_step(path) is None
            if new and RunDirectory(path).config_path.exists():
                # It never came to its first checkpoint.
                RunDirectory.open(path, for_writing=True, waits=waits).discard()
        if new:
            directory = RunDirectory.create(path, config.to_json())
        else:
            directory = RunDirectory.open(path, for_writing=True, waits=waits)
        stack.callback(directory.close)
        checkpoint = None
        if not new:
            try:
                newest = latest_checkpoint(directory.checkpoints)
                checkpoint = load_checkpoint(newest)
            except CheckpointError as error:
                remedy = "" if newest_step(path) is None else " (a damaged file must be removed first)"
                raise CheckpointError(f"{path} cannot go on: {error}{remedy}") from error
            check_goes_on(config, checkpoint, newest)
        try:
            yield RunContext(place, directory, checkpoint, callback, mirror, restarted and not new, console)
        finally:
            if new and newest_step(path) is None:
                directory.discard()
