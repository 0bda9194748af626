"""Watching a random or a trained agent: what it sees, what it does, what it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import Split, find_task, make_vector
from r2ac.launch.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.loading import choose_device, find_checkpoint, load_agent, make_agent
from r2ac.launch.rollout_actor import sample_actions
from r2ac.learner.checkpoint import Checkpoint, load_checkpoint

Policy = Callable[[np.ndarray, np.ndarray, np.ndarray], int]
"""From observation [1,...], reward [1] and is_first [1] to an action."""


@dataclass(frozen=True)
class Moment:
    """One step, as the agent meets it."""

    observation: np.ndarray
    """uint8 [C,H,W] or float32 [K]."""
    reward: float
    """What arrived with the observation; in the first step of an episode it belongs to the episode before."""
    is_first: bool
    action: int
    """What was done in this step."""


@dataclass(frozen=True)
class Recording:
    """Consecutive steps of one stream, and how they came to be."""

    task: str
    player: str
    """`random actions`, or which agent."""
    seed: int
    split: Split
    stacked: int
    """How many observations are stacked in one image."""
    num_actions: int
    frames_per_step: int
    moments: tuple[Moment, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.moments[0].observation.shape


@dataclass(frozen=True)
class TrainedAgent:
    """A checkpoint and the settings that it was trained with."""

    path: Path
    checkpoint: Checkpoint
    training: TrainConfig[Any]

    @staticmethod
    def load(path: Path) -> TrainedAgent:
        """The checkpoint, or the newest one of the run, at ``path``.

        Raises:
            RunDirectoryError, CheckpointError, ConfigError, UnknownTask.
        """
        file = find_checkpoint(path)
        checkpoint = load_checkpoint(file)
        return TrainedAgent(file, checkpoint, config_from_json(checkpoint.config, file))

    def check_plays(self, task: str) -> None:
        """Raise ConfigError for a task of another suite: its options and its engine are others."""
        if find_task(task).suite.name != find_task(self.training.task).suite.name:
            raise ConfigError(
                f"--agent is {self.path}, which was trained on {self.training.task} and cannot play {task}"
            )

    def policy(self, spec: ObservationSpec, random: np.random.Generator, greedy: bool) -> Policy:
        """How it acts: by its most probable action, or drawn from its policy.

        Raises:
            ConfigError, CheckpointError: if it cannot see or do what ``spec`` says.
        """
        device = choose_device("auto")
        agent = make_agent(spec, self.training.agent, self.training.seed, device).eval()
        load_agent(agent, self.checkpoint, self.path)
        cell = torch.zeros(1, agent.core.cell_size, device=device)

        def act(observation: np.ndarray, reward: np.ndarray, is_first: np.ndarray) -> int:
            nonlocal cell
            seen, got, first = (torch.from_numpy(array).to(device) for array in (observation, reward, is_first))
            output = agent.step(seen, got, first, cell)
            cell, logits = output.cell, output.logits.cpu().numpy()
            return int(logits.argmax() if greedy else sample_actions(logits, random.random(1))[0])

        return act


def record(
    task: str,
    options: Any,
    agent: TrainedAgent | None,
    *,
    steps: int,
    seed: int,
    split: Split,
    greedy: bool = False,
) -> Recording:
    """Play ``steps`` steps of one stream; what is played follows from the arguments alone.

    Args:
        task, options, seed, split: as `make_vector` takes them.
        agent: who plays; None for uniformly random actions.

    Raises:
        ConfigError, CheckpointError, UnknownTask, InvalidOption, MissingPackage.
    """
    env = make_vector(task, 1, seed, split=split, options=options)
    try:
        spec = ObservationSpec.of(env)
        random = np.random.default_rng(seed)
        policy = agent.policy(spec, random, greedy) if agent else _random_policy(spec.num_actions, random)
        observation, _ = env.reset()
        reward, is_first = np.zeros(1, dtype=np.float32), np.ones(1, dtype=bool)
        moments = []
        for _ in range(steps):
            action = policy(observation, reward, is_first)
            moments.append(Moment(observation[0].copy(), float(reward[0]), bool(is_first[0]), action))
            observation, raw_reward, terminated, truncated, _ = env.step(np.array([action]))
            reward, is_first = raw_reward.astype(np.float32), terminated | truncated
    finally:
        env.close()
    return Recording(
        task=task,
        player="random actions" if agent is None else f"{agent.training.agent.label} agent of {_name(agent.path)}",
        seed=seed,
        split=split,
        stacked=getattr(options, "frame_stack", 1) if len(spec.shape) == 3 else 1,
        num_actions=spec.num_actions,
        frames_per_step=find_task(task).frames_per_step(options),
        moments=tuple(moments),
    )


def _random_policy(num_actions: int, random: np.random.Generator) -> Policy:
    return lambda observation, reward, is_first: int(random.integers(num_actions))


def _name(checkpoint: Path) -> str:
    """The run that a checkpoint lies in, or its own name."""
    resolved = checkpoint.resolve()
    return resolved.parent.parent.name if resolved.parent.name == "checkpoints" else resolved.name
