"""Evaluation of a checkpoint: whole episodes on seeds that no training uses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from r2ac.agents import ObservationSpec
from r2ac.envs import ReferenceScores, find_task, make_vector
from r2ac.launch.evaluation.play import Player, play, shares
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.runs.loading import TrainedAgent, choose_device, folder_of
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.settings.config import TrainConfig

# A key of one word; those of the rollout actors have more, so that no evaluation draws the numbers of a training.
_EVALUATION = (0,)


@dataclass(frozen=True)
class EvaluatedEpisode:
    """One whole episode, of an evaluation seed counted from 0."""

    seed: int
    episode_return: float
    """Sum of the rewards as the environment gave them."""
    length: int
    truncated: bool
    """Whether a limit ended it, not the task."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation of one checkpoint on one task and split is to find, and what it has found so far."""

    checkpoint: Path
    sha256: str
    """Of the checkpoint's file: it says which weights these are, wherever the file lies."""
    env_steps: int
    """Environment steps that the checkpoint was trained for."""
    task: str
    environment: Any
    """The options of the task's suite that the episodes are played with."""
    config: EvaluationConfig
    training: TrainConfig[Any]
    protocol: str = "default"
    changed: tuple[str, ...] = ()
    """The settings that are not the protocol's."""
    episodes: tuple[EvaluatedEpisode, ...] = ()
    """Those of the seeds that have been played to their end, in the order of seeds."""
    engines_lost: int = 0
    """Engines that died or hung meanwhile and were replaced; what each of them had under way is no episode."""
    date: str | None = None
    """When the last of them was played, ISO 8601 in UTC; None before the first."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def seeds_played(self) -> list[int]:
        """The seeds whose episodes are there, in order; all of a seed's episodes are there or none."""
        return sorted({episode.seed for episode in self.episodes})

    @property
    def seeds_missing(self) -> list[int]:
        """The seeds that are still to be played."""
        return [seed for seed in range(self.config.seeds) if seed not in self.seeds_played]

    @property
    def complete(self) -> bool:
        """Whether every seed has been played."""
        return not self.seeds_missing

    @property
    def seed_means(self) -> list[float]:
        """The mean return of each seed played."""
        return [mean(e.episode_return for e in self.episodes if e.seed == seed) for seed in self.seeds_played]

    @property
    def mean_return(self) -> float:
        """Mean over seeds of their mean returns; raises StatisticsError before one has been played."""
        return mean(self.seed_means)

    @property
    def std_return(self) -> float | None:
        """Standard deviation of the seeds' mean returns (n - 1); None for a single seed."""
        return stdev(self.seed_means) if len(self.seed_means) > 1 else None

    @property
    def killed_after(self) -> float:
        """Seconds in a step after which a process that plays is to be killed; 0: never."""
        return find_task(self.task).killed_after(self.environment)

    @property
    def reference_scores(self) -> ReferenceScores | None:
        """The returns to normalise with; None where there are none."""
        return find_task(self.task).reference_scores(self.environment)

    @property
    def normalised_return(self) -> float | None:
        """0 at the task's low reference score, 1 at its high one; None where there are none."""
        scores = self.reference_scores
        return scores.normalise(self.mean_return) if scores else None

    def with_seed(self, episodes: Iterable[EvaluatedEpisode], engines_lost: int = 0) -> Evaluation:
        """The same with all episodes of one more seed, played now."""
        together = sorted((*self.episodes, *episodes), key=lambda episode: episode.seed)
        versions = {name: version(name) for name in ("r2ac", "torch", "numpy", "gymnasium")}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lost = self.engines_lost + engines_lost
        return replace(self, episodes=tuple(together), engines_lost=lost, date=now, versions=versions)

    def to_json(self) -> dict[str, Any]:
        """All of it, every episode included; of the means those of the seeds played, which must be one or more."""
        return {
            "task": self.task,
            "protocol": self.protocol,
            "changed": list(self.changed),
            "checkpoint": str(self.checkpoint),
            "sha256": self.sha256,
            "env_steps": self.env_steps,
            "complete": self.complete,
            "mean_return": self.mean_return,
            "std_return": self.std_return,
            "normalised_return": self.normalised_return,
            "seed_means": self.seed_means,
            "evaluation": asdict(self.config),
            "environment": asdict(self.environment),
            "training": self.training.to_json(),
            "date": self.date,
            "versions": dict(self.versions),
            "engines_lost": self.engines_lost,
            "episodes": [asdict(episode) for episode in self.episodes],
        }


def evaluation_path(path: Path) -> Path:
    """Where the evaluation of ``path`` is written: in the run that it is or lies in, else beside the checkpoint."""
    return RunDirectory(folder_of(path)).evaluation_path


@dataclass(frozen=True)
class EvaluationFailure:
    """Something that could not be evaluated; ``bad_input``: the user can mend it."""

    sentence: str
    bad_input: bool


@dataclass(frozen=True)
class UnitReport:
    """How far a unit has come."""

    steps: int = 0
    """Played so far, by the streams that still had episodes to play."""
    played: int = 0
    """Episodes that have ended."""
    ended_steps: int = 0
    """The steps of these."""
    longest: int = 0
    """The steps of the longest episode under way."""
    engines_lost: int = 0
    episodes: tuple[EvaluatedEpisode, ...] | None = None
    """All of them, once the last one has ended."""
    failure: EvaluationFailure | None = None
    """Why it will never end."""

    @property
    def ended(self) -> bool:
        """Whether this is the unit's last report."""
        return self.episodes is not None or self.failure is not None


def play_seed(
    agent: TrainedAgent,
    evaluation: Evaluation,
    seed: int,
    timer: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Generator[UnitReport, None, None]:
    """Play the episodes of one seed; what they are follows from the arguments alone, on one kind of machine.

    Each environment plays its share; what is lost with an engine is played again. A report follows every step of the
    environments; the last one has the episodes. ``timer`` is as `play` takes it. Raises CheckpointError if the agent
    cannot read what the task shows or has another number of actions, and ConfigError, UnknownTask, InvalidOption,
    MissingPackage, EngineFailed.
    """
    config = evaluation.config
    device, streams = choose_device(config.device), min(config.num_envs, config.episodes)
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_EVALUATION))
    share = shares(config.episodes, streams)
    returns, lengths = np.zeros(streams), np.zeros(streams, dtype=np.int64)
    episodes: list[EvaluatedEpisode] = []
    steps = 0
    made = make_vector(evaluation.task, streams, seed, split=config.split, options=evaluation.environment)
    with closing(made) as env:
        network = agent.agent(ObservationSpec.of(env), device, evaluation.task)
        for step in play(env, Player(network, streams, random, config.greedy).act, timer):
            returns += step.reward
            lengths += 1
            steps += int((share > 0).sum())
            whole = step.whole & (share > 0)
            episodes += [
                EvaluatedEpisode(seed, float(returns[i]), int(lengths[i]), bool(step.cut[i]))
                for i in np.flatnonzero(whole)
            ]
            share[whole] -= 1
            returns[step.over] = 0
            lengths[step.over] = 0
            done = not share.any()
            yield UnitReport(
                steps=steps,
                played=len(episodes),
                ended_steps=sum(episode.length for episode in episodes),
                longest=int(lengths[share > 0].max(initial=0)),
                engines_lost=getattr(env.unwrapped, "engine_restarts", 0),
                episodes=tuple(episodes) if done else None,
            )
            if done:
                return
