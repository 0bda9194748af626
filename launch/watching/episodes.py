"""Whole episodes of an agent: what it sees, does and gets, what it expects, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from r2ac.agents import Agent
from r2ac.envs import Signals
from r2ac.launch.runtime.step_timer import step_limit
from r2ac.learner.algorithms.actions import choose_actions


@dataclass(frozen=True)
class Thoughts:
    """What an agent makes of one step of B streams."""

    action: np.ndarray
    """int64 [B]."""
    value: np.ndarray
    """The value estimate, float32 [B]."""
    probabilities: np.ndarray
    """Of the actions, float64 [B, A]."""
    cell: np.ndarray
    """c_t, the core's cell state after the step, float32 [B, N]; N is 0 where the core remembers nothing."""
    jacobian: np.ndarray
    """a_t = dc_t/dc_{t-1}, float32 [B, N]; 0 where the step begins an episode."""


@dataclass(frozen=True)
class PlayedEpisode:
    """The S steps of one episode of one stream (of a whole game, where the agent's episodes are lives)."""

    complete: bool
    """Whether the episode ended; else it was cut off by the number of steps to play, or with a lost engine."""
    observations: np.ndarray
    """uint8 [S, C, H, W] or float32 [S, K]."""
    is_first: np.ndarray
    """Where the agent's state was zeroed before the step, bool [S]."""
    actions: np.ndarray
    """int64 [S]."""
    rewards: np.ndarray
    """What each action was paid, as the environment gave it, float64 [S]."""
    values: np.ndarray
    """float32 [S]."""
    probabilities: np.ndarray
    """float64 [S, A]."""
    cells: np.ndarray
    """float32 [S, N]."""
    jacobians: np.ndarray
    """float32 [S, N]."""
    instructions: tuple[str, ...] = field(default=(), kw_only=True)
    """The instruction of each step, in words; empty where there are none."""

    def __len__(self) -> int:
        return len(self.actions)


class Player:
    """An agent that acts in B streams, with its cell states.

    Args:
        agent: who plays, on any device.
        streams: B.
        random: what actions are drawn with.
        greedy: take the most probable action instead of drawing from the policy.
    """

    def __init__(self, agent: Agent, streams: int, random: np.random.Generator, greedy: bool = False) -> None:
        self._agent, self._random, self._greedy = agent, random, greedy
        self._device = next(agent.parameters()).device
        self._cell = torch.zeros(streams, agent.core.state_size, device=self._device)

    def step(
        self, observation: np.ndarray, reward: np.ndarray, is_first: np.ndarray, instruction: np.ndarray | None = None
    ) -> Thoughts:
        """One step of all streams; the arguments as `Agent.step` takes them, [B, ...].

        The recurrence is element-wise, so that its Jacobian is diagonal: forward-mode differentiation along a vector
        of ones gives a_t of all units at once.
        """
        seen, got, first = (torch.from_numpy(array).to(self._device) for array in (observation, reward, is_first))
        words = None if instruction is None else torch.from_numpy(instruction).to(self._device)

        def advance(cell: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            output = self._agent.step(seen, got, first, cell, words)
            return output.cell, (output.logits, output.value)

        ones = torch.ones_like(self._cell)
        # With has_aux it returns three values; its annotation knows of two.
        cell, jacobian, (logits, value) = torch.func.jvp(advance, (self._cell,), (ones,), has_aux=True)  # type: ignore[misc]
        self._cell = cell
        action = choose_actions(logits.cpu().numpy(), None if self._greedy else self._random.random(len(logits)))
        probabilities = logits.double().softmax(dim=-1)
        return Thoughts(action, *(tensor.cpu().numpy() for tensor in (value, probabilities, cell, jacobian)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step of few streams is too little work for cores to share: where they are busy, threads wait for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def instruction_texts(env: VectorEnv) -> list[str]:
    """The instruction that each stream shows, in words; empty where the environment has none."""
    texts = getattr(env.unwrapped, "instruction_texts", None)
    return [""] * env.num_envs if texts is None else texts()


@_one_thread()
def play(
    player: Player,
    env: VectorEnv,
    episodes: int,
    max_steps: int,
    report: Callable[[int, int], None] = lambda played, total: None,
    step_timeout: float = 0.0,
) -> list[PlayedEpisode]:
    """Play ``episodes`` episodes, each stream of ``env`` its share, so that short ones do not push out long ones.

    Args:
        player: of as many streams as ``env``; nothing has been played yet.
        max_steps: the most steps of a stream; what is under way then is cut off and handed over too.
        report: called with the episodes played and the episodes in all whenever one ends.
        step_timeout: seconds that a step of the environments may take, as `step_limit` bounds it.
    """
    streams = env.num_envs
    share = np.full(streams, episodes // streams)
    share[: episodes % streams] += 1
    under_way: list[list[tuple]] = [[] for _ in range(streams)]
    played: list[PlayedEpisode] = []
    with step_limit(step_timeout):
        observation, info = env.reset()
    reward, is_first = np.zeros(streams, dtype=np.float32), np.ones(streams, dtype=bool)
    for _ in range(max_steps):
        thoughts = player.step(observation, reward, is_first, Signals.of(info).instruction)
        shown, first, told = observation.copy(), is_first, instruction_texts(env)
        with step_limit(step_timeout):
            observation, paid, terminated, truncated, info = env.step(thoughts.action)
        reward, is_first = paid.astype(np.float32), terminated | truncated
        over, whole = Signals.of(info).ends(terminated, truncated)
        for i in np.flatnonzero(share):
            mind = (thoughts.value, thoughts.probabilities, thoughts.cell, thoughts.jacobian)
            # The row alone: whole batches would be kept for one stream that still plays.
            own = (row[i].copy() for row in (shown, first, thoughts.action, paid, *mind))
            under_way[i].append((*own, told[i]))
            if over[i]:
                played.append(_episode(under_way[i], complete=whole[i]))
                under_way[i] = []
                share[i] -= 1
                report(len(played), episodes)
        if not share.any():
            break
    return played + [_episode(steps, complete=False) for steps in under_way if steps]


def _episode(steps: list[tuple], complete: bool) -> PlayedEpisode:
    *columns, told = zip(*steps, strict=True)
    return PlayedEpisode(bool(complete), *(np.stack(column) for column in columns), instructions=told)
