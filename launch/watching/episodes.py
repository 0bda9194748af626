"""Whole episodes of an agent: what it sees, does and gets, what it expects, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from r2ac.agents import Agent
from r2ac.envs import Split, find_task, make_vector
from r2ac.launch.evaluation.play import Act, PlayedStep, Player, play, shares
from r2ac.launch.runtime.step_timer import step_limit


@dataclass(frozen=True)
class PlayedEpisode:
    """The S steps of one episode of one stream (of a whole game, where the agent's episodes are lives).

    The actions are as the environment takes them, [S, ...], the value estimates float32 [S].
    """

    complete: bool
    """Whether the episode ended; else it was cut off by the number of steps to play, or with a lost engine."""
    observations: np.ndarray
    """uint8 [S, C, H, W] or float32 [S, K]."""
    is_first: np.ndarray
    """Where the agent's state was zeroed before the step, bool [S]."""
    actions: np.ndarray
    rewards: np.ndarray
    """Of each action, as the environment gave it, float64 [S]."""
    values: np.ndarray
    probabilities: np.ndarray
    """Of all choices of discrete actions, float64 [S, P]; P is 0 where actions are continuous."""
    chosen: np.ndarray
    """Which of them were taken, int64 [S, K]: one, or one of each part of an action."""
    cells: np.ndarray
    """c_t, the core's state after each step, float32 [S, N]; N, its size, is 0 where the core remembers nothing."""
    jacobians: np.ndarray
    """By what factor each step scales a small change of the state, as `Core.retention` says, float32 [S, N]."""
    instructions: tuple[str, ...] = field(default=(), kw_only=True)
    """The instruction of each step, in words; empty where there are none."""

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Scene:
    """What is watched: episodes of one task. What is played follows from these settings and the agent alone."""

    task: str
    options: Any
    seed: int
    split: Split = "test"
    max_steps: int = 1000
    """The most steps of a stream; what is under way then is cut off."""
    greedy: bool = False
    """Take the most probable action instead of drawing from the policy."""

    @property
    def stacked(self) -> int:
        """How many observations are stacked in one."""
        return getattr(self.options, "frame_stack", 1)

    def env(self, streams: int = 1) -> VectorEnv:
        """The environment, not reset yet."""
        return make_vector(self.task, streams, self.seed, split=self.split, options=self.options)

    def steps(self, env: VectorEnv, act: Act) -> Iterator[PlayedStep]:
        """At most ``max_steps`` steps, each within the step timeout of the options."""
        limit = find_task(self.task).killed_after(self.options)
        return islice(play(env, act, partial(step_limit, limit)), self.max_steps)

    def play(
        self,
        agent: Agent,
        env: VectorEnv,
        episodes: int,
        report: Callable[[int, int], None] = lambda played, total: None,
    ) -> list[PlayedEpisode]:
        """So many episodes; each stream of ``env``, which `env` has made, plays its share."""
        random = np.random.default_rng(self.seed)
        player = Player(agent, env.num_envs, random, self.greedy, jacobians=True)
        return gather_episodes(self.steps(env, player.act), env.num_envs, episodes, report)

    def first_episodes(self, agent: Agent, streams: int, look: Callable[[np.ndarray], object]) -> list[PlayedEpisode]:
        """The first episode of each of many streams; ``look`` sees what they begin with before any is played."""
        # An environment is reset once.
        with closing(self.env(streams)) as env:
            look(env.reset()[0])
        with closing(self.env(streams)) as env:
            return self.play(agent, env, streams)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step of few streams is too little work for cores to share: where they are busy, threads wait for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def gather_episodes(
    steps: Iterator[PlayedStep], streams: int, episodes: int, report: Callable[[int, int], None]
) -> list[PlayedEpisode]:
    """``episodes`` episodes out of steps of an agent with Jacobians; what is under way at their end is handed over too.
    ``report`` is called with the episodes played and the episodes in all whenever one ends."""
    share = shares(episodes, streams)
    under_way: list[list[tuple]] = [[] for _ in range(streams)]
    played: list[PlayedEpisode] = []
    for step in steps:
        output, jacobian = step.decision.output, step.decision.jacobian
        assert output is not None
        assert jacobian is not None
        action = step.decision.action
        thoughts = (output.value, output.actions.probabilities(output.logits.double()), output.state, jacobian)
        value, probabilities, state, retention = (tensor.cpu().numpy() for tensor in thoughts)
        own = (step.observation, step.is_first, action, step.reward, value)
        columns = (*own, probabilities, output.actions.chosen(action), state, retention)
        for i in np.flatnonzero(share):
            # The row alone: whole batches would be kept for one stream that still plays.
            under_way[i].append((*(row[i].copy() for row in columns), step.instructions[i]))
            if step.over[i]:
                played.append(_episode(under_way[i], complete=step.whole[i]))
                under_way[i] = []
                share[i] -= 1
                report(len(played), episodes)
        if not share.any():
            break
    return played + [_episode(own, complete=False) for own in under_way if own]


def _episode(steps: list[tuple], complete: bool) -> PlayedEpisode:
    *columns, told = zip(*steps, strict=True)
    return PlayedEpisode(bool(complete), *(np.stack(column) for column in columns), instructions=told)
