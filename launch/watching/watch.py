"""Watching a random or a trained agent: what it sees, what it does, what it gets."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np

from r2ac.agents import ActionSpec, ObservationSpec
from r2ac.envs import find_task
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
    action: np.ndarray
    """As the environment takes it: a number, or a row of numbers."""
    instruction: str = ""
    """In words; empty where there is none."""


@dataclass(frozen=True)
class Recording:
    """Consecutive steps of one stream, and how they came to be."""

    scene: Scene
    player: str
    """`random actions`, or which agent."""
    actions: ActionSpec
    frames_per_step: int
    moments: tuple[Moment, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an observation."""
        return self.moments[0].observation.shape

    @property
    def stacked(self) -> int:
        """How many observations are stacked in one image."""
        return self.scene.stacked if len(self.shape) == 3 else 1


def record(scene: Scene, agent: TrainedAgent | None) -> Recording:
    """Play the steps of a scene in one stream, by uniformly random actions where ``agent`` is None. Raises ConfigError,
    CheckpointError, UnknownTask, InvalidOption, MissingPackage."""
    with closing(scene.env()) as env:
        spec, random = ObservationSpec.of(env), np.random.default_rng(scene.seed)
        act = at_random(spec.actions, random)
        if agent is not None:
            network = agent.agent(spec, choose_device("auto"), scene.task)
            act = Player(network, 1, random, scene.greedy).act
        moments = tuple(
            Moment(
                step.observation[0],
                float(step.last_reward[0]),
                bool(step.is_first[0]),
                step.decision.action[0],
                step.instructions[0],
            )
            for step in scene.steps(env, act)
        )
    frames_per_step = find_task(scene.task).frames_per_step(scene.options)
    player = "random actions" if agent is None else agent.label
    return Recording(scene, player, spec.actions, frames_per_step, moments)
