"""What is measured between two lines of metrics.jsonl."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2ac.envs import Task, mean_normalised_return
from r2ac.launch.rollouts.ended_episodes import Episodes
from r2ac.launch.rollouts.rollout_actor import ENVIRONMENT, INFERENCE, WAITING
from r2ac.launch.train.sources import Rollouts
from r2ac.learner import Collective, Learner

COUNTED = ("restarts", "actor_restarts", "engine_restarts", "inference_restarts")
"""Counts of the source that go on in a run that goes on."""
_RESETS, _SEQUENCE = "stream_resets", "next_sequence"
_NO_COUNTS = dict.fromkeys((*COUNTED, _RESETS, _SEQUENCE), 0)
_LEARNER, _HELD_BACK = "learner", "held back"
_SHARES = {ENVIRONMENT: "actor_environment", INFERENCE: "actor_inference", WAITING: "actor_wait"}


@dataclass(frozen=True)
class _Part:
    """One learner's share of a line: what is new since its last one, but for ``counts``, which are since the start."""

    episodes: Episodes
    lags: list[np.ndarray]
    seconds: Counter[str]
    """In which the learner waited and was held back, and what its actors did."""
    queue: int
    actors: int
    counts: dict[str, int]


class TrainingLog:
    """The values of a line of metrics.jsonl, each over the steps since the last line. With several learners the first
    has the values of all: their episodes, lags and counts together, and the mean of the time that each waited."""

    def __init__(
        self, learner: Learner, rollouts: Rollouts, tasks: Sequence[Task], options: Any, collective: Collective
    ) -> None:
        self._learner, self._batches, self._collective = learner, rollouts.batches, collective
        self._counts = rollouts.source.counts
        self._scores = {task.name: task.training_scores(options) for task in tasks}
        self._max_episode_steps: int = options.max_episode_steps
        self._short_names = {task.name: task.short_name for task in tasks}
        self._recent_returns: deque[float] = deque(maxlen=100)
        self._recent_of_task = {task.name: deque[float](maxlen=100) for task in tasks}
        self._others = _NO_COUNTS  # of the other learners
        self._parameters = learner.agent.parameter_count()
        self._notes = self._read_notes()
        self._begin()

    @property
    def mean_return(self) -> float | None:
        """Mean return of the last 100 episodes; None before the first has ended."""
        return float(np.mean(self._recent_returns)) if self._recent_returns else None

    @property
    def recent_episodes(self) -> int:
        """How many episodes :attr:`mean_return` is of."""
        return len(self._recent_returns)

    def add(self, episodes: Episodes, lags: np.ndarray) -> None:
        """Count an update: episodes that ended since the last one, and the policy lag of each of its rollouts."""
        self._episodes.extend(episodes)
        self._note_returns(episodes)
        self._lags.append(lags)

    def gather_counts(self) -> None:
        """Bring the counts of the other learners up to date; all learners call it together."""
        self._note_counts(self._collective.gather(self._own_counts()))

    def counts(self) -> dict[str, int]:
        """What a checkpoint keeps, with the other learners' counts as gathered last. Waits for the learner's device."""
        return _together([self._own_counts(), self._others])

    def values(self) -> dict[str, float]:
        """The values of the next line, empty but at the first learner; all learners call it. Waits for the device."""
        parts = self._collective.gather(self._part())
        means = self._learner.read_metrics()
        elapsed = max(time.monotonic() - self._began, 1e-9)
        values = self._line(parts, elapsed) | means | memory_used(self._learner.device) if parts else {}
        self._begin()
        return values

    def _line(self, parts: Sequence[_Part], elapsed: float) -> dict[str, float]:
        """What is measured over ``elapsed`` seconds."""
        self._note_counts([part.counts for part in parts])
        for part in parts[1:]:
            self._note_returns(part.episodes)
        self._notes = self._read_notes()
        learner, counts = self._learner, self._restarts()
        spent = sum((part.seconds for part in parts), Counter[str]())
        values: dict[str, float] = {
            "updates": learner.updates,
            "throughput/steps_per_second": (learner.env_steps - self._began_steps) / elapsed,
            "throughput/learner_wait": spent.pop(_LEARNER, 0.0) / len(parts) / elapsed,
            "throughput/held_back": spent.pop(_HELD_BACK, 0.0) / len(parts) / elapsed,
            "throughput/queue": sum(part.queue for part in parts),
            "throughput/actors": sum(part.actors for part in parts),
            **{f"throughput/{name}": count for name, count in counts.items()},
            "learner/parameters": self._parameters,
            "learner/learning_rate": learner.learning_rate(),
            "learner/skipped_updates": self._notes["skipped updates"],
            "learner/stream_resets": self._notes["stream resets"],
        }
        episodes = Episodes()
        for part in parts:
            episodes.extend(part.episodes)
        values |= self._episode_values(episodes)
        if lags := [lag for part in parts for lag in part.lags]:
            together = np.concatenate(lags)
            values |= {"policy_lag/mean": float(together.mean()), "policy_lag/max": float(together.max())}
            percents = (5, 50, 95)
            percentiles = np.percentile(together, percents).tolist()
            values |= {f"policy_lag/p{percent}": lag for percent, lag in zip(percents, percentiles, strict=True)}
        if spent:
            values |= {f"throughput/{name}": spent[key] / spent.total() for key, name in _SHARES.items()}
        return values

    def _episode_values(self, episodes: Episodes) -> dict[str, float]:
        """Of the episodes since the last line; the normalised return is that of the last 100 of each task."""
        values: dict[str, float] = {}
        if count := len(episodes.returns):
            values = {
                "episodes": count,
                "episode_return": float(np.mean(episodes.returns)),
                "episode_length": float(np.mean(episodes.lengths)),
            }
        if len(self._scores) > 1:
            for task, short_name in self._short_names.items():
                own = [value for value, of in zip(episodes.returns, episodes.tasks, strict=True) if of == task]
                if own:
                    values[f"returns/{short_name}"] = float(np.mean(own))
        scores = [score for score in self._scores.values() if score is not None]
        if len(scores) == len(self._scores) and all(self._recent_of_task.values()):
            means = [float(np.mean(returns)) for returns in self._recent_of_task.values()]
            values["normalised_return"] = mean_normalised_return(scores, means)
            values["capped_normalised_return"] = mean_normalised_return(scores, means, cap=1.0)
        return values

    def notes(self) -> dict[str, int]:
        """For the progress line: counts that should stay zero, partly as of the last line, and the limit of steps."""
        return {
            "actors pending": self._counts.pending,
            "inference workers pending": self._counts.workers_pending,
            **self._notes,
            **{name.replace("_", " "): count for name, count in self._restarts().items()},
            "episodes cut at": self._max_episode_steps,
        }

    def hints(self, stall_seconds: float) -> list[str]:
        """Names the rollout actors of this learner that have delivered nothing for that long, for the progress line."""
        silent = {index: seconds for index, seconds in self._counts.silent.items() if seconds >= stall_seconds}
        if not silent:
            return []
        who = ", ".join(map(str, sorted(silent)[:3])) + (" and others" if len(silent) > 3 else "")
        have = f"actor {who} has" if len(silent) == 1 else f"actors {who} have"
        return [f"{have} handed over nothing for {min(silent.values()):,.0f} s"]

    def _restarts(self) -> dict[str, int]:
        return {name: getattr(self._counts, name) + self._others[name] for name in COUNTED}

    def _read_notes(self) -> dict[str, int]:
        resets = self._learner.carries.resets + self._others[_RESETS]
        return {"skipped updates": self._learner.skipped_updates, "stream resets": resets}

    def _note_returns(self, episodes: Episodes) -> None:
        self._recent_returns.extend(episodes.returns)
        for task, value in zip(episodes.tasks, episodes.returns, strict=True):
            self._recent_of_task[task].append(value)

    def _own_counts(self) -> dict[str, int]:
        carries = self._learner.carries
        restarts = {name: getattr(self._counts, name) for name in COUNTED}
        return {**restarts, _RESETS: carries.resets, _SEQUENCE: int(carries.next_sequence.max())}

    def _note_counts(self, of_all: Sequence[dict[str, int]]) -> None:
        """The counts of all learners, this one first; empty but at the first learner."""
        self._others = _together([_NO_COUNTS, *of_all[1:]])

    def _part(self) -> _Part:
        seconds = self._seconds() - self._began_seconds
        return _Part(self._episodes, self._lags, seconds, self._counts.queue, self._counts.actors, self._own_counts())

    def _seconds(self) -> Counter[str]:
        """What the learner and the actors have spent since the start."""
        counts = self._counts
        return Counter({_LEARNER: self._batches.waited, _HELD_BACK: counts.held_back, **counts.actor_seconds})

    def _begin(self) -> None:
        self._episodes = Episodes()
        self._lags: list[np.ndarray] = []
        self._began, self._began_steps = time.monotonic(), self._learner.env_steps
        self._began_seconds = self._seconds()


def memory_used(device: torch.device) -> dict[str, float]:
    """Memory of this process, in 10^6 bytes: ``system/resident_mb`` where the system reports it as Linux does, and on a
    GPU ``system/gpu_mb``, what torch has taken there. Waits for no device."""
    used: dict[str, float] = {}
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used["system/resident_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    if device.type == "cuda":
        used["system/gpu_mb"] = torch.cuda.memory_reserved(device) / 1e6
    return used


def _together(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    """The counts of several learners as one: sums, and the largest sequence number."""
    return {name: (max if name == _SEQUENCE else sum)([each[name] for each in counts]) for name in _NO_COUNTS}
