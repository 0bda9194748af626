"""Evaluation of a checkpoint: whole episodes on seeds that no training uses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import ReferenceScores, Signals, Split, find_task, make_vector
from r2ac.launch.runs.loading import choose_device, find_checkpoint, make_agent
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runtime.errors import os_reason
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.learner.algorithms.actions import choose_actions
from r2ac.learner.checkpoint import CheckpointError, load_checkpoint, load_model_state

# A key of one word; those of the rollout actors have more, so that no evaluation draws the numbers of a training.
_EVALUATION = (0,)
_NO_TIMER = nullcontext()


@dataclass(frozen=True)
class EvaluationConfig:
    """How the episodes of one result are played."""

    episodes: int = 100
    """Episodes for each seed."""
    seeds: int = 3
    """Evaluation seeds; with split test none is ever used in training."""
    greedy: bool = False
    """Take the most probable action instead of drawing from the policy."""
    split: Split = "test"
    """Which episodes to play: test (held out), or train (as in training; with ProcGen, on the training levels)."""
    num_envs: int = 25
    """Environments stepped together."""
    device: str = "auto"
    """Where the agent runs: cpu, cuda, cuda:1, …; auto takes the GPU where there is one."""

    def check(self) -> None:
        """Raise ConfigError for the first setting that is not allowed."""
        for name in ("episodes", "seeds", "num_envs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}, but it must be at least 1")


@dataclass(frozen=True)
class EvaluatedEpisode:
    """One whole episode."""

    seed: int
    """The evaluation seed, counted from 0."""
    episode_return: float
    """Sum of the rewards as the environment gave them."""
    length: int
    """Steps."""
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
    """Full name."""
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
    """Engines that died or hung while these were played, and were replaced: what each of them had under way is no
    episode."""
    date: str | None = None
    """When the last of them was played, ISO 8601 in UTC; None before the first."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that played."""

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
        """The mean return of each seed that has been played."""
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


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """Of a checkpoint what an evaluation needs."""

    path: Path
    sha256: str
    env_steps: int
    training: TrainConfig[Any]
    model: dict[str, Tensor]

    @staticmethod
    def read(path: Path) -> LoadedCheckpoint:
        """The checkpoint, or the newest one of the run, at ``path``.

        Raises:
            RunDirectoryError, CheckpointError, ConfigError, UnknownTask.
        """
        file = find_checkpoint(path)
        checkpoint = load_checkpoint(file)
        try:
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"cannot read checkpoint {file}: {os_reason(error)}") from error
        training = config_from_json(checkpoint.config, file)
        return LoadedCheckpoint(file, digest, int(checkpoint.counters["env_steps"]), training, checkpoint.model)

    def evaluation(
        self,
        task: str,
        config: EvaluationConfig,
        environment: Any = None,
        protocol: str = "default",
        changed: tuple[str, ...] = (),
    ) -> Evaluation:
        """What is to be played; in the environment of the training where no other is given."""
        options = self.training.env if environment is None else environment
        return Evaluation(
            self.path, self.sha256, self.env_steps, task, options, config, self.training, protocol, changed
        )


def evaluate(
    path: Path, config: EvaluationConfig, report: Callable[[int, int], None], task: str | None = None
) -> Evaluation:
    """Play ``seeds`` times ``episodes`` whole episodes with the checkpoint, or the run's newest one, at ``path``.

    Args:
        path: a run directory or a checkpoint.
        config: checked settings.
        report: called with the episodes played and the episodes in all whenever one ends.
        task: full name; the one that the agent was trained on if not given.

    Raises:
        RunDirectoryError, CheckpointError, ConfigError, UnknownTask, InvalidOption, MissingPackage, EngineFailed.
    """
    checkpoint = LoadedCheckpoint.read(path)
    own = checkpoint.training.tasks
    if task is None and len(own) > 1:
        raise ConfigError(f"{path} was trained on {len(own)} tasks: name the one to play, such as {own[0].name}")
    evaluation = checkpoint.evaluation(task or own[0].name, config)
    played, total = 0, config.seeds * config.episodes
    for seed in evaluation.seeds_missing:
        episodes: list[EvaluatedEpisode] = []
        for step in play(checkpoint.model, evaluation, seed):
            for episode in step.ended:
                episodes.append(episode)
                played += 1
                report(played, total)
        evaluation = evaluation.with_seed(episodes)
    return evaluation


def evaluation_path(path: Path) -> Path:
    """Where the evaluation of ``path`` is written: in the run that it is or lies in, else beside the checkpoint."""
    path = path.resolve()
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return RunDirectory(folder).evaluation_path


@dataclass(frozen=True)
class PlayedStep:
    """What one step of the environments came to."""

    counted: int
    """Streams that still had episodes to play."""
    ended: list[EvaluatedEpisode]
    longest: int
    """Steps of the longest episode that these have under way."""
    engines_lost: int
    """Engines that have been lost and replaced so far."""


def play(
    model: Mapping[str, Tensor],
    evaluation: Evaluation,
    seed: int,
    timer: AbstractContextManager[None] = _NO_TIMER,
) -> Generator[PlayedStep, None, None]:
    """Play the episodes of one seed; what they are follows from the arguments alone, on one kind of machine.

    Each environment plays its share of the episodes, so that short episodes are not counted more often than long
    ones. Sensitivities play no part.

    Args:
        model: the weights, as in `LoadedCheckpoint.model`.
        evaluation: what to play, and how.
        timer: for each step of the environments, and for their reset.

    Yields:
        After every step of the environments what it came to.

    Raises:
        CheckpointError: if the agent cannot read what the task shows, or has another number of actions.
        ConfigError, UnknownTask, InvalidOption, MissingPackage, EngineFailed.
    """
    config = evaluation.config
    device = choose_device(config.device)
    num_envs = min(config.num_envs, config.episodes)
    env = make_vector(evaluation.task, num_envs, seed, split=config.split, options=evaluation.environment)
    try:
        yield from _play(env, _make_agent(model, evaluation, ObservationSpec.of(env), device), config, seed, timer)
    finally:
        env.close()


def _make_agent(
    model: Mapping[str, Tensor], evaluation: Evaluation, spec: ObservationSpec, device: torch.device
) -> Agent:
    try:
        agent = make_agent(spec, evaluation.training.agent, evaluation.training.seed, device).eval()
        load_model_state(agent, model)
    except (ConfigError, CheckpointError) as error:
        shown = f"observations {list(spec.shape)}{' with instructions' if spec.instruction_length else ''}"
        raise CheckpointError(
            f"the agent of {evaluation.checkpoint} cannot play {evaluation.task}, which has {shown} and "
            f"{spec.num_actions} actions: {error}"
        ) from error
    return agent


def _play(
    env: VectorEnv, agent: Agent, config: EvaluationConfig, seed: int, timer: AbstractContextManager[None]
) -> Generator[PlayedStep, None, None]:
    """``config.episodes`` episodes, each environment playing its share."""
    streams = env.num_envs
    share = np.full(streams, config.episodes // streams)
    share[: config.episodes % streams] += 1
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_EVALUATION))
    device = next(agent.parameters()).device
    cell = torch.zeros(streams, agent.core.state_size, device=device)
    with timer:
        observation, info = env.reset()
    reward, is_first = np.zeros(streams, dtype=np.float32), np.ones(streams, dtype=bool)
    returns, lengths = np.zeros(streams), np.zeros(streams, dtype=np.int64)
    while share.any():
        frame, last_reward, first = (torch.from_numpy(array).to(device) for array in (observation, reward, is_first))
        words = Signals.of(info).instruction
        instruction = None if words is None else torch.from_numpy(words).to(device)
        output = agent.step(frame, last_reward, first, cell, instruction)
        cell, logits = output.cell, output.logits.cpu().numpy()
        action = choose_actions(logits, None if config.greedy else generator.random(streams))
        with timer:
            observation, raw_reward, terminated, truncated, info = env.step(action)
        reward, is_first = raw_reward.astype(np.float32), terminated | truncated
        counted = share > 0
        returns += raw_reward
        lengths += 1
        over, whole = Signals.of(info).ends(terminated, truncated)
        ended = [
            EvaluatedEpisode(seed, float(returns[i]), int(lengths[i]), bool(truncated[i] and not terminated[i]))
            for i in np.flatnonzero(whole & counted)
        ]
        share[whole & counted] -= 1
        returns[over] = 0
        lengths[over] = 0
        longest = int(lengths[share > 0].max(initial=0))
        yield PlayedStep(int(counted.sum()), ended, longest, getattr(env, "engine_restarts", 0))
