"""Evaluation of a checkpoint: whole episodes on seeds that no training uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import Split, find_task, make_vector
from r2ac.launch.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.errors import RunError, os_reason
from r2ac.launch.loading import choose_device, find_checkpoint, load_agent, make_agent
from r2ac.launch.rollout_actor import sample_actions
from r2ac.launch.run_directory import RunDirectory, write_atomically
from r2ac.learner.checkpoint import load_checkpoint

# A key of one word; those of the rollout actors have more, so that no evaluation draws the numbers of a training.
_EVALUATION = (0,)


@dataclass(frozen=True)
class EvaluationConfig:
    """How checkpoints are evaluated."""

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
    """What an evaluation found."""

    checkpoint: Path
    task: str
    env_steps: int
    """Environment steps that the checkpoint was trained for."""
    config: EvaluationConfig
    training: TrainConfig[Any]
    episodes: tuple[EvaluatedEpisode, ...]

    @property
    def seed_means(self) -> list[float]:
        """The mean return of each seed."""
        seeds = range(self.config.seeds)
        return [mean(e.episode_return for e in self.episodes if e.seed == seed) for seed in seeds]

    @property
    def mean_return(self) -> float:
        """Mean over seeds of their mean returns."""
        return mean(self.seed_means)

    @property
    def std_return(self) -> float | None:
        """Standard deviation of the seeds' mean returns (n - 1); None for a single seed."""
        return stdev(self.seed_means) if self.config.seeds > 1 else None

    @property
    def normalised_return(self) -> float | None:
        """0 at the task's low reference score, 1 at its high one; None where there are none."""
        scores = find_task(self.task).reference_scores(self.training.env)
        return scores.normalise(self.mean_return) if scores else None

    def to_json(self) -> dict[str, Any]:
        """All of it, every episode included."""
        return {
            "task": self.task,
            "checkpoint": str(self.checkpoint),
            "env_steps": self.env_steps,
            "mean_return": self.mean_return,
            "std_return": self.std_return,
            "normalised_return": self.normalised_return,
            "seed_means": self.seed_means,
            "evaluation": asdict(self.config),
            "training": self.training.to_json(),
            "versions": {name: version(name) for name in ("r2ac", "torch", "numpy", "gymnasium")},
            "episodes": [asdict(episode) for episode in self.episodes],
        }


def evaluate(path: Path, config: EvaluationConfig, report: Callable[[int, int], None]) -> Evaluation:
    """Play ``seeds`` times ``episodes`` whole episodes with the checkpoint, or the run's newest one, at ``path``.

    Each environment plays its share of the episodes, so that short episodes are not counted more often than long
    ones. Sensitivities play no part.

    Args:
        path: a run directory or a checkpoint.
        config: checked settings.
        report: called with the episodes played and the episodes in all whenever one ends.

    Raises:
        RunDirectoryError, CheckpointError, ConfigError, UnknownTask, InvalidOption, MissingPackage.
    """
    device = choose_device(config.device)
    checkpoint_file = find_checkpoint(path)
    checkpoint = load_checkpoint(checkpoint_file)
    training = config_from_json(checkpoint.config, checkpoint_file)
    agent: Agent | None = None
    episodes: list[EvaluatedEpisode] = []
    for seed in range(config.seeds):
        num_envs = min(config.num_envs, config.episodes)
        env = make_vector(training.task, num_envs, seed, split=config.split, options=training.env)
        try:
            if agent is None:
                spec = ObservationSpec.of(env)
                agent = make_agent(spec, training.agent, training.seed, device).eval()
                load_agent(agent, checkpoint, checkpoint_file)
            for episode in _play(env, agent, config, seed):
                episodes.append(episode)
                report(len(episodes), config.seeds * config.episodes)
        finally:
            env.close()
    return Evaluation(
        checkpoint_file, training.task, int(checkpoint.counters["env_steps"]), config, training, tuple(episodes)
    )


def evaluation_path(path: Path) -> Path:
    """Where the evaluation of ``path`` is written: in the run that it is or lies in, else beside the checkpoint."""
    path = path.resolve()
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return RunDirectory(folder).evaluation_path


def write_evaluation(path: Path, evaluation: Evaluation) -> Path:
    """Write ``evaluation.json``, over an earlier one, and return its path.

    Raises:
        RunError: if it cannot be written.
    """
    target = evaluation_path(path)
    try:
        write_atomically(target, json.dumps(evaluation.to_json(), indent=2) + "\n")
    except OSError as error:
        raise RunError(f"{target} cannot be written: {os_reason(error)}") from error
    return target


def _play(env: VectorEnv, agent: Agent, config: EvaluationConfig, seed: int) -> Iterator[EvaluatedEpisode]:
    """``config.episodes`` episodes, each environment playing its share."""
    streams = env.num_envs
    share = np.full(streams, config.episodes // streams)
    share[: config.episodes % streams] += 1
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_EVALUATION))
    device = next(agent.parameters()).device
    cell = torch.zeros(streams, agent.core.cell_size, device=device)
    observation, _ = env.reset()
    reward, is_first = np.zeros(streams, dtype=np.float32), np.ones(streams, dtype=bool)
    returns, lengths = np.zeros(streams), np.zeros(streams, dtype=np.int64)
    while share.any():
        frame, last_reward, first = (torch.from_numpy(array).to(device) for array in (observation, reward, is_first))
        output = agent.step(frame, last_reward, first, cell)
        cell, logits = output.cell, output.logits.cpu().numpy()
        action = logits.argmax(axis=1) if config.greedy else sample_actions(logits, generator.random(streams))
        observation, raw_reward, terminated, truncated, info = env.step(action)
        reward, is_first = raw_reward.astype(np.float32), terminated | truncated
        returns += raw_reward
        lengths += 1
        # What the agent was trained to take for an episode may be a life: whole games are counted.
        ended = np.flatnonzero(info.get("game_over", is_first))
        for i in ended:
            if share[i] > 0:
                cut = bool(truncated[i] and not terminated[i])
                share[i] -= 1
                yield EvaluatedEpisode(seed, float(returns[i]), int(lengths[i]), cut)
        returns[ended] = 0
        lengths[ended] = 0
