"""Watching a random or a trained agent: what it sees, what it does, what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import Signals, Split, find_task, make_vector
from r2ac.launch.runs.loading import choose_device, find_checkpoint, make_agent
from r2ac.launch.runtime.step_timer import step_limit
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.watching.episodes import Player, instruction_texts
from r2ac.learner.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_model_state


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
    instruction: str = ""
    """The instruction, in words; empty where there is none."""


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
        if find_task(task).suite.name != self.training.tasks[0].suite.name:
            raise ConfigError(f"the agent of {self.path} was trained on {self.training.task} and cannot play {task}")

    @property
    def label(self) -> str:
        """Which agent it is: ``rtrl agent of my-run``."""
        resolved = self.path.resolve()
        run = resolved.parent.parent if resolved.parent.name == "checkpoints" else resolved
        return f"{self.training.agent.label} agent of {run.name}"

    def agent(self, spec: ObservationSpec, device: torch.device, task: str | None = None) -> Agent:
        """The agent itself, on ``device``, to play ``task`` (None: the one that it was trained on).

        Raises:
            CheckpointError: if it cannot see or do what ``spec`` says.
        """
        try:
            agent = make_agent(spec, self.training.agent, self.training.seed, device).eval()
            load_model_state(agent, self.checkpoint.model)
        except (ConfigError, CheckpointError) as error:
            shown = f"observations {list(spec.shape)}{' with instructions' if spec.instruction_length else ''}"
            there = f"{task or self.training.task}, which has {shown} and {spec.num_actions} actions"
            raise CheckpointError(f"the agent of {self.path} cannot play {there}: {error}") from error
        return agent


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
        player = None if agent is None else Player(agent.agent(spec, choose_device("auto"), task), 1, random, greedy)
        limit = find_task(task).killed_after(options)
        with step_limit(limit):
            observation, info = env.reset()
        reward, is_first = np.zeros(1, dtype=np.float32), np.ones(1, dtype=bool)
        moments = []
        for _ in range(steps):
            if player is None:
                action = int(random.integers(spec.num_actions))
            else:
                action = int(player.step(observation, reward, is_first, Signals.of(info).instruction).action[0])
            (told,) = instruction_texts(env)
            moments.append(Moment(observation[0].copy(), float(reward[0]), bool(is_first[0]), action, told))
            with step_limit(limit):
                observation, raw_reward, terminated, truncated, info = env.step(np.array([action]))
            reward, is_first = raw_reward.astype(np.float32), terminated | truncated
    finally:
        env.close()
    return Recording(
        task=task,
        player="random actions" if agent is None else agent.label,
        seed=seed,
        split=split,
        stacked=getattr(options, "frame_stack", 1) if len(spec.shape) == 3 else 1,
        num_actions=spec.num_actions,
        frames_per_step=find_task(task).frames_per_step(options),
        moments=tuple(moments),
    )
