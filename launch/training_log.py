"""What is measured between two lines of metrics.jsonl."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2ac.envs import Task, mean_normalised_return
from r2ac.launch.rollouts.batch_pipeline import Batches, ReadyBatch
from r2ac.launch.rollouts.rollout_actor import ENVIRONMENT, INFERENCE, WAITING
from r2ac.launch.rollouts.rollout_source import SourceCounts
from r2ac.launch.rollouts.stream_group import Episode
from r2ac.learner import Learner


class TrainingLog:
    """Gathers what a run measures and turns it into the values of a line, each over the steps since the last line.

    Args:
        learner: whose counters are reported.
        batches: whose waits are reported.
        counts: of the source of the rollouts.
        tasks: what the agent learns.
        options: the environment's, on which reference scores depend.
    """

    def __init__(
        self, learner: Learner, batches: Batches, counts: SourceCounts, tasks: Sequence[Task], options: Any
    ) -> None:
        self._learner, self._batches, self._counts = learner, batches, counts
        self._scores = {task.name: task.reference_scores(options) for task in tasks}
        self._short_names = {task.name: task.short_name for task in tasks}
        self._recent_returns: deque[float] = deque(maxlen=100)
        self._recent_of_task = {task.name: deque[float](maxlen=100) for task in tasks}
        self._notes = self._read_notes()
        self._begin()

    @property
    def mean_return(self) -> float | None:
        """Mean return of the last 100 episodes; None before the first has ended."""
        return float(np.mean(self._recent_returns)) if self._recent_returns else None

    def add(self, batch: ReadyBatch, version: int) -> None:
        """Note an update: its batch, and the version of the weights that it was made with."""
        self._episodes += batch.episodes
        for episode in batch.episodes:
            self._recent_returns.append(episode.episode_return)
            self._recent_of_task[episode.task].append(episode.episode_return)
        self._lags.append(version - batch.weights_version)

    def values(self) -> dict[str, float]:
        """The values of the next line; what follows counts for the line after it. Waits for the learner's device."""
        means = self._learner.read_tally()
        self._notes = self._read_notes()
        elapsed = max(time.monotonic() - self._began, 1e-9)
        learner, counts = self._learner, self._counts
        values: dict[str, float] = {
            "updates": learner.updates,
            "throughput/steps_per_second": (learner.env_steps - self._began_steps) / elapsed,
            "throughput/learner_wait": (self._batches.waited - self._began_waited) / elapsed,
            "throughput/held_back": (counts.held_back - self._began_held_back) / elapsed,
            "throughput/queue": counts.queue,
            "throughput/actors": counts.actors,
            "throughput/actor_restarts": counts.actor_restarts,
            "throughput/engine_restarts": counts.engine_restarts,
            "throughput/inference_restarts": counts.inference_restarts,
            "learner/learning_rate": learner.learning_rate(),
            "learner/skipped_updates": self._notes["skipped updates"],
            "learner/stream_resets": self._notes["stream resets"],
        }
        values |= self._episode_values()
        if self._lags:
            lags = np.concatenate(self._lags)
            values |= {"policy_lag/mean": float(lags.mean()), "policy_lag/max": float(lags.max())}
            values |= {f"policy_lag/p{percent}": float(np.percentile(lags, percent)) for percent in (5, 50, 95)}
        values |= self._actor_shares()
        values |= means | memory_used(learner.device)
        self._begin()
        return values

    def _episode_values(self) -> dict[str, float]:
        """Of the episodes since the last line; the normalised return is that of the last 100 of each task."""
        values: dict[str, float] = {}
        if self._episodes:
            values = {"episodes": len(self._episodes), **_means(self._episodes)}
        if len(self._scores) > 1:
            for task, short_name in self._short_names.items():
                own = [episode for episode in self._episodes if episode.task == task]
                if own:
                    values[f"returns/{short_name}"] = _means(own)["episode_return"]
        scores = [score for score in self._scores.values() if score is not None]
        if len(scores) == len(self._scores) and all(self._recent_of_task.values()):
            means = [float(np.mean(returns)) for returns in self._recent_of_task.values()]
            values["normalised_return"] = mean_normalised_return(scores, means)
            values["capped_normalised_return"] = mean_normalised_return(scores, means, cap=1.0)
        return values

    def notes(self) -> dict[str, int]:
        """Counts that should stay zero, for the progress line; those of the learner's device as of the last line."""
        counts = self._counts
        restarts = {
            "actors pending": counts.pending,
            "actor restarts": counts.actor_restarts,
            "engine restarts": counts.engine_restarts,
            "inference restarts": counts.inference_restarts,
        }
        return {**self._notes, **restarts}

    def _actor_shares(self) -> dict[str, float]:
        """What the rollout actors have spent their time with since the last line; nothing before the first rollout."""
        spent = self._counts.actor_seconds - self._began_actors
        total = spent.total()
        names = {ENVIRONMENT: "throughput/actor_environment", INFERENCE: "throughput/actor_inference"}
        names[WAITING] = "throughput/actor_wait"
        return {name: spent[key] / total for key, name in names.items()} if total > 0 else {}

    def _read_notes(self) -> dict[str, int]:
        return {"skipped updates": self._learner.skipped_updates, "stream resets": self._learner.carries.resets}

    def _begin(self) -> None:
        self._episodes: list[Episode] = []
        self._lags: list[np.ndarray] = []
        self._began = time.monotonic()
        self._began_steps = self._learner.env_steps
        self._began_waited = self._batches.waited
        self._began_held_back = self._counts.held_back
        self._began_actors = self._counts.actor_seconds.copy()


def memory_used(device: torch.device) -> dict[str, float]:
    """Memory of this process, in 10^6 bytes: ``system/resident_mb`` where the system tells it as Linux does, and on a
    GPU ``system/gpu_mb``, what torch has taken there. Waits for no device."""
    used: dict[str, float] = {}
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used["system/resident_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    if device.type == "cuda":
        used["system/gpu_mb"] = torch.cuda.memory_reserved(device) / 1e6
    return used


def _means(episodes: Sequence[Episode]) -> dict[str, float]:
    return {
        "episode_return": float(np.mean([episode.episode_return for episode in episodes])),
        "episode_length": float(np.mean([episode.length for episode in episodes])),
    }
