"""What is measured between two lines of metrics.jsonl."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from r2ac.launch.rollout_source import Batch, RolloutSource
from r2ac.learner import Learner


class TrainingLog:
    """Gathers what a run measures and turns it into the values of a line, each over the steps since the last line.

    Args:
        learner: whose counters are reported.
        source: whose counters are reported.
    """

    def __init__(self, learner: Learner, source: RolloutSource) -> None:
        self._learner, self._source = learner, source
        self._recent_returns: deque[float] = deque(maxlen=100)
        self._notes = self._read_notes()
        self._begin()

    @property
    def mean_return(self) -> float | None:
        """Mean return of the last 100 episodes; None before the first has ended."""
        return float(np.mean(self._recent_returns)) if self._recent_returns else None

    def add(self, batch: Batch, version: int) -> None:
        """Note an update: its batch, and the version of the weights that it was made with."""
        for episode in batch.episodes:
            self._returns.append(episode.episode_return)
            self._lengths.append(episode.length)
        self._recent_returns.extend(episode.episode_return for episode in batch.episodes)
        self._lags.append(version - batch.rollout.weights_version)

    def values(self) -> dict[str, float]:
        """The values of the next line; what follows counts for the line after it. Waits for the learner's device."""
        means = self._learner.read_tally()
        self._notes = self._read_notes()
        elapsed = max(time.monotonic() - self._began, 1e-9)
        learner, source = self._learner, self._source
        values: dict[str, float] = {
            "updates": learner.updates,
            "throughput/steps_per_second": (learner.env_steps - self._began_steps) / elapsed,
            "throughput/learner_wait": (source.waited - self._began_waited) / elapsed,
            "throughput/actor_restarts": source.actor_restarts,
            "learner/learning_rate": learner.learning_rate(),
            "learner/skipped_updates": self._notes["skipped updates"],
            "learner/stream_resets": self._notes["stream resets"],
        }
        if self._returns:
            values |= {
                "episodes": len(self._returns),
                "episode_return": float(np.mean(self._returns)),
                "episode_length": float(np.mean(self._lengths)),
            }
        if self._lags:
            lags = np.concatenate(self._lags)
            values |= {"policy_lag/mean": float(lags.mean()), "policy_lag/max": float(lags.max())}
        values |= means
        self._begin()
        return values

    def notes(self) -> dict[str, int]:
        """Counts that should stay zero, for the progress line; those of the learner's device as of the last line."""
        return {**self._notes, "actor restarts": self._source.actor_restarts}

    def _read_notes(self) -> dict[str, int]:
        return {"skipped updates": self._learner.skipped_updates, "stream resets": self._learner.carries.resets}

    def _begin(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._lags: list[np.ndarray] = []
        self._began = time.monotonic()
        self._began_steps = self._learner.env_steps
        self._began_waited = self._source.waited
