"""Watching a random or a trained agent: what it sees, what it does, what it gets."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2ac.agents import ObservationSpec
from r2ac.envs import Split, find_task
from r2ac.launch.evaluation.play import Player, at_random
from r2ac.launch.runs.loading import TrainedAgent, choose_device
from r2ac.launch.watching.episodes import Scene


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
    scene = Scene(task, options, seed, split, steps, greedy)
    with closing(scene.env()) as env:
        spec, random = ObservationSpec.of(env), np.random.default_rng(seed)
        act = at_random(spec.num_actions, random)
        if agent is not None:
            act = Player(agent.agent(spec, choose_device("auto"), task), 1, random, greedy).act
        moments = tuple(
            Moment(
                step.observation[0],
                float(step.last_reward[0]),
                bool(step.is_first[0]),
                int(step.decision.action[0]),
                step.instructions[0],
            )
            for step in scene.steps(env, act)
        )
    return Recording(
        task=task,
        player="random actions" if agent is None else agent.label,
        seed=seed,
        split=split,
        stacked=scene.stacked if len(spec.shape) == 3 else 1,
        num_actions=spec.num_actions,
        frames_per_step=find_task(task).frames_per_step(options),
        moments=moments,
    )
