"""The main job: train an agent, from an empty or an interrupted run directory to the last checkpoint."""

from __future__ import annotations

import shlex
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from r2ac.agents import ObservationSpec
from r2ac.envs import EngineFailed, frames_per_step, make_vector
from r2ac.launch.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.loading import choose_device, load_agent, load_encoder, make_agent
from r2ac.launch.memory_budget import MemoryBudget, available_memory, check_fits, memory_budget, print_budget
from r2ac.launch.metrics import MetricsWriter
from r2ac.launch.process import learner_threads, set_up_process
from r2ac.launch.profile_summary import ProfileSummary
from r2ac.launch.profiling import NoProfile, TrainingProfile
from r2ac.launch.progress import Progress, print_table
from r2ac.launch.rollouts.actors import make_batches, make_publisher, make_source
from r2ac.launch.rollouts.batch_pipeline import Batches, ReadyBatch
from r2ac.launch.rollouts.inference_pool import InferenceFailed
from r2ac.launch.rollouts.publisher import WeightsPublisher
from r2ac.launch.rollouts.rollout_source import ActorsLost, RolloutSource
from r2ac.launch.run_directory import RunDirectory, default_run_directory
from r2ac.launch.signals import StopSignals
from r2ac.launch.training_log import TrainingLog
from r2ac.launch.watching.training_video import film_episode
from r2ac.learner import CaptureFailed, Learner, TrainingDiverged, load_optimiser_state, use_matmul_precision
from r2ac.learner.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)

RUN_FAILURES = (TrainingDiverged, ActorsLost, InferenceFailed, EngineFailed, CaptureFailed)
"""What ends a run that began well; each message is one sentence."""
_COUNTED = ("actor_restarts", "engine_restarts", "inference_restarts")
"""Counts of the source that go on in a run that goes on."""


@dataclass(frozen=True)
class Resumed:
    """An interrupted run that is to go on."""

    run: RunDirectory
    checkpoint: Checkpoint
    path: Path
    """Where the checkpoint was read from."""


def open_interrupted(path: Path) -> Resumed:
    """Lock the run at ``path`` and read its newest checkpoint.

    Raises:
        RunDirectoryError: if there is no run, or it is in use.
        CheckpointError: if it has no checkpoint that can be read.
    """
    run = RunDirectory.open(path, for_writing=True)
    try:
        newest = latest_checkpoint(run.checkpoints)
        return Resumed(run, load_checkpoint(newest), newest)
    except CheckpointError as error:
        run.close()
        raise CheckpointError(f"{path} cannot go on: {error} (a damaged file must be removed first)") from error


def train(config: TrainConfig[Any], console: Console, resumed: Resumed | None = None) -> int:
    """Train until ``total_steps``, or until SIGINT or SIGTERM asks to stop; both save a checkpoint.

    Args:
        config: checked settings.
        console: where the progress line and the summary are printed.
        resumed: the interrupted run to go on with; None begins a new one.

    Returns:
        The exit code: 0 at the end of training, 128 + the signal's number where one came.

    Raises:
        ConfigError, InvalidOption, MissingPackage, RunDirectoryError, CheckpointError: for what the user can mend.
        TrainingDiverged, ActorsLost: when the run cannot go on.
    """
    config.check()
    if resumed is not None:
        _check_goes_on(config, resumed)
        learned = int(resumed.checkpoint.counters["env_steps"])
        if learned >= config.total_steps:
            with resumed.run:
                console.print(
                    f"{resumed.run.path} has learned from its {learned:,} steps; --total-steps N goes on to N"
                )
            return 0
    device = choose_device(config.device)
    set_up_process(learner_threads(config.learner_threads, config.num_actors))
    use_matmul_precision(config.learner.matmul_precision)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    spec = observation_spec(config)
    learner, budget = make_learner(config, spec, device, resumed)
    with ExitStack() as stack:
        run = stack.enter_context(resumed.run if resumed else _create(config))
        print_budget(console, budget)
        signals = stack.enter_context(StopSignals())
        try:
            source = make_source(config, spec, learner, resumed.checkpoint.counters if resumed else {})
        except BaseException:
            if resumed is None:
                run.discard()
            raise
        batches = stack.enter_context(closing(make_batches(config, source, learner)))
        signals.install()
        metrics = stack.enter_context(MetricsWriter(run, learner.env_steps if resumed else None))
        if resumed is not None:
            run.write_config(config.to_json())
        metrics.write_config(config.to_json(), learner.env_steps)
        progress = stack.enter_context(Progress(config.total_steps, console))
        publisher = stack.enter_context(closing(make_publisher(config, batches, learner)))
        training = Training(config, run, source, batches, publisher, learner, metrics, progress, resumed)
        training.loop(signals)
    training.print_summary(console, signals)
    return 128 + signals.received if signals.received else 0


class Training:
    """A training that is under way: the loop of batches, updates, publications, lines and checkpoints."""

    def __init__(
        self,
        config: TrainConfig[Any],
        run: RunDirectory,
        source: RolloutSource,
        batches: Batches,
        publish: WeightsPublisher,
        learner: Learner,
        metrics: MetricsWriter,
        progress: Progress,
        resumed: Resumed | None,
    ) -> None:
        self._config, self._run, self._source, self._batches = config, run, source, batches
        self._publish, self._learner = publish, learner
        self._metrics, self._progress = metrics, progress
        self._log = TrainingLog(learner, batches, source.counts, config.tasks, config.env)
        self._frames_per_step = frames_per_step(config.task, config.env)
        counters = resumed.checkpoint.counters if resumed else {}
        for name in _COUNTED:
            setattr(source.counts, name, int(counters.get(name, 0)))
        self._incarnation = int(counters.get("incarnation", -1)) + 1
        self._earlier = float(counters.get("wall_time", 0.0))
        self._began = time.monotonic()
        self._began_steps = learner.env_steps
        self._last_line = self._began_steps
        self._last_checkpoint = self._last_video = self._began
        self._seconds = 0.0
        self._profile = TrainingProfile(run.path / "profile", learner.device) if config.profile else NoProfile()
        self._profile_summary: ProfileSummary | None = None

    def loop(self, signals: StopSignals) -> None:
        """Learn from batch after batch until the run's end or a signal, then save; also where the run cannot go on."""
        self._publish()
        if self._learner.updates == 0:
            # A run can be gone on with from its first moment on.
            self._save()
        self._progress.update(self._learner.env_steps, self._learner.updates)
        try:
            while self._learner.env_steps < self._config.total_steps and not signals.stop_requested():
                with self._profile.phase("waiting"):
                    batch = self._batches.next_batch(lambda: self._is_stopped(signals))
                if batch is not None:
                    self._learn(batch)
            self._learner.check()
        except (TrainingDiverged, ActorsLost, InferenceFailed, EngineFailed):
            self._finish()
            raise
        self._finish()

    def _is_stopped(self, signals: StopSignals) -> bool:
        """Asked while the learner waits, which may be long: the line then says which actors are still pending."""
        learner = self._learner
        self._progress.update(learner.env_steps, learner.updates, self._log.mean_return, self._log.notes())
        return signals.stop_requested()

    def _learn(self, batch: ReadyBatch) -> None:
        """One update, and whatever is due after it."""
        config, learner, version = self._config, self._learner, self._learner.updates
        phase = self._profile.phase
        with phase("update"):
            learner.update(batch.staged)
        self._log.add(batch, version)
        if learner.updates % config.publish_every == 0:
            with phase("publish"):
                self._publish()
        if learner.env_steps - self._last_line >= config.log_interval:
            with phase("log"):
                self._write_line()
                learner.check()
        if time.monotonic() - self._last_checkpoint >= 60 * config.checkpoint_minutes:
            with phase("checkpoint"):
                self._save()
        if config.video_minutes > 0 and time.monotonic() - self._last_video >= 60 * config.video_minutes:
            with phase("video"):
                self._film()
        self._progress.update(learner.env_steps, learner.updates, self._log.mean_return, self._log.notes())

    def _finish(self) -> None:
        if self._learner.env_steps > self._last_line:
            self._write_line()
        with self._profile.phase("checkpoint"):
            self._save()
        self._seconds = time.monotonic() - self._began
        self._profile_summary = self._profile.write(self._actor_seconds(), self._source.timeline)

    def print_summary(self, console: Console, signals: StopSignals) -> None:
        """The table at the end, and where everything lies."""
        learner, seconds = self._learner, self._seconds
        steps = learner.env_steps - self._began_steps
        mean_return = self._log.mean_return
        title = f"{self._config.task}: {'stopped by ' + signals.received.name if signals.received else 'trained'}"
        rows = [
            ("environment steps", f"{learner.env_steps:,} ({learner.env_steps * self._frames_per_step:,} frames)"),
            ("updates", f"{learner.updates:,}"),
            ("time", f"{seconds:,.0f} s, {steps / seconds:,.0f} steps/s"),
            ("return, last 100 episodes", "–" if mean_return is None else f"{mean_return:,.3f}"),  # noqa: RUF001
        ]
        rows += [(name, f"{count:,}") for name, count in self._log.notes().items() if count]
        if self._profile_summary is not None:
            rows += self._profile_summary.rows()
        paths = {
            "run": self._run.path,
            "checkpoint": latest_checkpoint(self._run.checkpoints),
            "metrics": self._run.metrics_path,
        }
        if self._profile_summary is not None:
            paths["profile"] = self._run.path / "profile" / "summary.md"
        print_table(console, title, rows, paths)
        if signals.received:
            command = shlex.join(("r2ac", "train", "--resume", str(self._run.path)))
            console.print(f"Continue with: {command}", soft_wrap=True, markup=False)

    def _actor_seconds(self) -> dict[str, float]:
        """What the actors spent their time with; an actor in this process waits for no orders."""
        return {key: value for key, value in self._source.counts.actor_seconds.items() if value > 0}

    def _wall_time(self) -> float:
        return self._earlier + time.monotonic() - self._began

    def _write_line(self) -> None:
        steps = self._learner.env_steps
        self._metrics.write(steps, steps * self._frames_per_step, self._wall_time(), self._log.values())
        self._last_line = steps

    def _film(self) -> None:
        """An episode of one of the tasks as the agent plays it now."""
        config, steps = self._config, self._learner.env_steps
        task = config.tasks[self._learner.updates % len(config.tasks)].name
        # A video is not worth a run: where the engine fails, the next one may come about.
        with suppress(EngineFailed):
            gif = film_episode(self._learner.agent, task, config.env, seed=steps)
            self._metrics.write_gif(gif.data, gif.size, steps)
        self._last_video = time.monotonic()

    def _save(self) -> None:
        learner = self._learner
        checkpoint = Checkpoint(
            model=learner.agent.state_dict(),
            optimiser=learner.optimiser.state_dict(),
            counters={
                "env_steps": learner.env_steps,
                "updates": learner.updates,
                "skipped_updates": learner.skipped_updates,
                "stream_resets": learner.carries.resets,
                **{name: getattr(self._source.counts, name) for name in _COUNTED},
                "next_sequence": int(learner.carries.next_sequence.max()),
                "wall_time": self._wall_time(),
                "incarnation": self._incarnation + self._source.counts.actor_restarts,
            },
            random_state=torch.get_rng_state(),
            config=self._config.to_json(),
        )
        save_checkpoint(checkpoint_path(self._run.checkpoints, learner.env_steps), checkpoint)
        prune_checkpoints(self._run.checkpoints, self._config.keep_checkpoints)
        self._last_checkpoint = time.monotonic()


def _create(config: TrainConfig[Any]) -> RunDirectory:
    path = config.run_dir or default_run_directory(config.task, config.agent.label, config.seed)
    if not path.name:
        raise ConfigError(f"--run-dir is '{path}', but a run needs a folder of its own")
    return RunDirectory.create(path, config.to_json())


def observation_spec(config: TrainConfig[Any]) -> ObservationSpec:
    # One stream of each task, so that all are seen to show the same.
    env = make_vector(config.task, len(config.tasks), config.seed, options=config.env)
    try:
        return ObservationSpec.of(env)
    finally:
        env.close()


def make_learner(
    config: TrainConfig[Any],
    spec: ObservationSpec,
    device: torch.device,
    resumed: Resumed | None = None,
) -> tuple[Learner, MemoryBudget]:
    """The learner, as new or as it was, and the memory that the run will hold.

    Args:
        config: checked settings.
        spec: what the environment shows and takes.
        device: where it learns.
        resumed: the run that goes on; None for a new one.

    Raises:
        ConfigError: where the memory is not there.
        CheckpointError: where the checkpoint, or that of the encoder, does not fit.
    """
    agent = make_agent(spec, config.agent, config.seed, device)
    if resumed is None and config.encoder_from is not None:
        load_encoder(agent, config.encoder_from)
    if config.freeze_encoder:
        agent.freeze_encoder()
    budget = memory_budget(config, agent, spec)
    check_fits(budget, available_memory(device))
    # A trace of a captured update has no parts.
    settings = replace(config.learner, cuda_graph=False) if config.profile else config.learner
    learner = Learner(agent, settings, config.num_streams, config.total_steps)
    if resumed is not None:
        _restore(learner, resumed)
    return learner, budget


def _check_goes_on(config: TrainConfig[Any], resumed: Resumed) -> None:
    """Raise ConfigError where a setting that the checkpoint depends on is not what it was."""
    before = config_from_json(resumed.checkpoint.config, resumed.path)
    pairs = [(name, getattr(before, name), getattr(config, name)) for name in ("encoder_from", "freeze_encoder")]
    pairs.append(("optimiser", before.learner.optimiser, config.learner.optimiser))
    pairs += [(name, was, getattr(config.agent, name)) for name, was in vars(before.agent).items()]
    for name, was, now in pairs:
        if was != now:
            raise ConfigError(f"--{name.replace('_', '-')} is {now}, but a run goes on as it began, with {was}")


def _restore(learner: Learner, resumed: Resumed) -> None:
    """Bring learner, counters and random state back to what they were; every stream begins a new episode."""
    counters = resumed.checkpoint.counters
    load_agent(learner.agent, resumed.checkpoint, resumed.path)
    load_optimiser_state(learner.optimiser, resumed.checkpoint.optimiser)
    learner.env_steps, learner.updates = int(counters["env_steps"]), int(counters["updates"])
    learner.skipped_updates = int(counters["skipped_updates"])
    learner.carries.resets = int(counters["stream_resets"])
    learner.carries.next_sequence[:] = int(counters["next_sequence"])
    torch.set_rng_state(resumed.checkpoint.random_state)
