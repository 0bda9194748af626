"""The training loop of one learner: the only one, or one of several that go in step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch

from r2ac.envs import EngineFailed
from r2ac.launch.rollouts.failures import ActorsLost
from r2ac.launch.rollouts.inference.pool import InferenceFailed
from r2ac.launch.rollouts.rollout_source import Batch
from r2ac.launch.runs.storage import StorageUnavailable
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.runtime.progress import TrainingStatus
from r2ac.launch.runtime.stop_signals import StoppedAtOnce
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.profile_summary import ProfileSummary
from r2ac.launch.train.profiling import TrainingProfile
from r2ac.launch.train.run_context import RunContext
from r2ac.launch.train.sources import Rollouts
from r2ac.launch.train.summary import Summary
from r2ac.launch.train.training_log import COUNTED, TrainingLog
from r2ac.launch.watching.training_video import film_episode
from r2ac.learner import Collective, Learner, TrainingDiverged
from r2ac.learner.checkpoint import Checkpoint, CheckpointError

_SHOW_SECONDS = 0.25
_NO_ROLLOUTS = (ActorsLost, InferenceFailed, EngineFailed)
"""Why there may be no next batch."""


class TrainingLoop:
    """A training that is under way: the loop of batches, updates, publications, lines and checkpoints.

    Several learners make the same updates at the same time, each from rollouts of its own. The first of them decides
    when to stop and to save, and it alone has the ``run`` and writes it; the others send it their counts. ``config`` is
    that of the whole training, ``counters`` are those of the checkpoint that it goes on from, empty for a new one.
    """

    def __init__(
        self,
        config: TrainConfig[Any],
        learner: Learner,
        rollouts: Rollouts,
        collective: Collective,
        run: RunContext | None,
        counters: Mapping[str, int | float],
    ) -> None:
        self._config, self._learner, self._collective = config, learner, collective
        self._source, self._batches, self._publish = rollouts.source, rollouts.batches, rollouts.publish
        self._run = run
        if run is not None:
            for name in COUNTED:
                setattr(self._source.counts, name, int(counters.get(name, 0)))
            self._source.counts.restarts += run.restarted
        self._log = TrainingLog(learner, rollouts, config.tasks, config.env, collective)
        self._frames_per_step = config.tasks[0].frames_per_step(config.env)
        self._incarnation = int(counters.get("incarnation", -1)) + 1
        self._earlier = float(counters.get("wall_time", 0.0))
        self._began = time.monotonic()
        self._began_steps = learner.env_steps
        # A run may go on with another --action-repeat; older checkpoints did not count frames.
        self._began_frames = int(counters.get("env_frames", learner.env_steps * self._frames_per_step))
        self._last_line = self._began_steps
        self._last_checkpoint = self._last_video = self._began
        self._last_shown = 0.0
        self._checkpoint_is_due = False
        self._seconds = 0.0
        self._profile: TrainingProfile | None = None
        self._phase: Callable[[str], AbstractContextManager[object]] = nullcontext
        if config.profile and run is not None:
            self._profile = TrainingProfile(run.directory.path / "profile", learner.device)
            self._phase = self._profile.phase
        self._profile_summary: ProfileSummary | None = None

    def loop(self, stop_requested: Callable[[], bool]) -> Summary | None:
        """Learn from batch after batch until the run's end or until asked to stop, then save; also where anything else
        ends it, but a second Ctrl-C. Returns None but for the first learner.

        Raises TrainingDiverged, ActorsLost, InferenceFailed or EngineFailed after a checkpoint; CollectiveBroken where
        another learner is gone, after a checkpoint on a CPU; RunDirectoryError or CheckpointError where the run can no
        longer be written.
        """
        self._publish()
        self._show()
        try:
            # A run can be resumed from its first moment on, and a restart is counted from then on.
            (is_due,) = self._collective.any(
                self._learner.updates == 0 or (self._run is not None and self._run.restarted)
            )
            if is_due:
                self._checkpoint()
            while self._learner.env_steps < self._config.total_steps:
                batch = self._next_batch(stop_requested)
                if batch is None:
                    break
                version = self._learner.updates
                with self._phase("update"):
                    self._learner.update(batch.rollout)
                self._log.add(batch.episodes, version - batch.rollout.weights_version)
                self._do_what_is_due()
            self._learner.check()
        except (StoppedAtOnce, RunDirectoryError, CheckpointError, StorageUnavailable):
            raise
        except (TrainingDiverged, *_NO_ROLLOUTS):
            # All learners end at this same update, and so can save together.
            self._finish()
            raise
        except BaseException:
            # The error that ends the run says more than one of saving, as on a device that has failed.
            with suppress(Exception):
                self._save_alone()
            raise
        self._finish()
        return self._summary()

    def _save_alone(self) -> None:
        """Save without the other learners, which may be gone; not on a GPU then, whose state is not known."""
        if self._collective.size == 1:
            self._finish()
        elif self._run is not None and self._learner.device.type == "cpu":
            # This learner is where the last whole update left it.
            self._save(self._run)

    def _next_batch(self, stop_requested: Callable[[], bool]) -> Batch | None:
        """The next batch; None at all learners where one of them has none, so that they stop at the same update."""

        def interrupted() -> bool:
            # The wait may be long: the status names the actors that are still pending.
            self._show(_SHOW_SECONDS)
            return stop_requested()

        batch: Batch | None = None
        failure: Exception | None = None
        with self._phase("waiting"):
            try:
                if not stop_requested():
                    batch = self._batches.next_batch(interrupted)
            except _NO_ROLLOUTS as error:
                failure = error
            since = time.monotonic() - self._last_checkpoint
            is_due = self._run is not None and since >= 60 * self._config.checkpoint_minutes
            stop, self._checkpoint_is_due = self._collective.any(batch is None, is_due)
        if failure is not None:
            raise failure
        return None if stop else batch

    def _do_what_is_due(self) -> None:
        """After an update: publish, write a line, save, film, show."""
        config, learner, phase = self._config, self._learner, self._phase
        if learner.updates % config.publish_every == 0:
            with phase("publish"):
                self._publish()
        if learner.env_steps - self._last_line >= config.log_interval:
            with phase("log"):
                self._write_line()
                learner.check()
        if self._checkpoint_is_due:
            with phase("checkpoint"):
                self._checkpoint()
        film_is_due = config.video_minutes > 0 and time.monotonic() - self._last_video >= 60 * config.video_minutes
        if film_is_due and self._run is not None:
            # An episode of one of the tasks as the agent plays it now; none where the engine fails.
            with phase("video"), suppress(EngineFailed):
                task = config.tasks[learner.updates % len(config.tasks)].name
                gif = film_episode(learner.agent, task, config.env, seed=learner.env_steps)
                self._run.metrics.events.write_gif(gif.data, gif.size, learner.env_steps)
            self._last_video = time.monotonic()
        self._show(_SHOW_SECONDS)

    def _show(self, every: float = 0.0) -> None:
        """Report the status, unless it was reported less than ``every`` seconds ago."""
        if self._run is None or time.monotonic() - self._last_shown < every:
            return
        self._last_shown = time.monotonic()
        log, learner = self._log, self._learner
        hints = log.hints(self._config.stall_seconds)
        if hints and not self._config.env.step_timeout:
            hints.append("(--step-timeout SECONDS would replace it)")
        self._run.callback.show_status(
            TrainingStatus(learner.env_steps, learner.updates, log.mean_return, log.notes(), hints)
        )

    def _finish(self) -> None:
        self._show()
        if self._learner.env_steps > self._last_line:
            self._write_line()
        with self._phase("checkpoint"):
            self._checkpoint()
        self._seconds = time.monotonic() - self._began
        if self._profile is not None:
            pool = self._source.pool
            spent = self._source.counts.actor_seconds
            workers = None if pool is None else pool.statistics()
            timeline, on_policy = self._source.timeline, self._config.learner.on_policy
            self._profile_summary = self._profile.write(spent, workers, timeline, on_policy)

    def _write_line(self) -> None:
        """A line about all learners, each of which has its part in it."""
        steps = self._last_line = self._learner.env_steps
        values = self._log.values()
        if self._run is not None:
            self._run.write_line(steps, self._env_frames(), self._wall_time(), values)

    def _checkpoint(self) -> None:
        """A checkpoint, with what all learners have counted."""
        self._log.gather_counts()
        if self._run is not None:
            self._save(self._run)

    def _save(self, run: RunContext) -> None:
        learner, counts = self._learner, self._log.counts()
        checkpoint = Checkpoint(
            model=learner.agent.state_dict(),
            optimiser=learner.optimiser.state_dict(),
            counters={
                "env_steps": learner.env_steps,
                "env_frames": self._env_frames(),
                "updates": learner.updates,
                "skipped_updates": learner.skipped_updates,
                **counts,
                "wall_time": self._wall_time(),
                "incarnation": self._incarnation + counts["actor_restarts"],
            },
            random_state=torch.get_rng_state(),
            config=self._config.to_json(),
        )
        run.save(checkpoint, self._config.keep_checkpoints)
        self._last_checkpoint = time.monotonic()

    def _summary(self) -> Summary | None:
        if self._run is None:
            return None
        learner, profile = self._learner, self._profile_summary
        return Summary(
            env_steps=learner.env_steps,
            env_frames=self._env_frames(),
            updates=learner.updates,
            steps=learner.env_steps - self._began_steps,
            seconds=self._seconds,
            mean_return=self._log.mean_return,
            episodes=self._log.recent_episodes,
            notes=self._log.notes(),
            profile=profile.rows() if profile is not None else [],
            paths=self._run.paths(profile=profile is not None),
        )

    def _env_frames(self) -> int:
        return self._began_frames + (self._learner.env_steps - self._began_steps) * self._frames_per_step

    def _wall_time(self) -> float:
        return self._earlier + time.monotonic() - self._began
