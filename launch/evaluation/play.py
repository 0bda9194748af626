"""The one loop of all that plays outside of training: an agent, or chance, in a vector environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from r2ac.agents import ActionSpec, Agent, StepOutput
from r2ac.envs import Signals
from r2ac.launch.rollouts.inference.policies import StepInput


@dataclass(frozen=True)
class Decision:
    """What is done in one step of B streams: actions [B, ...] as the environment takes them, and what the agent
    computed; None where none plays."""

    action: np.ndarray
    output: StepOutput | None = None
    jacobian: Tensor | None = None
    """What `Core.retention` returns of the step, [B, S]; None where it is not computed."""


Act = Callable[[StepInput], Decision]
"""The next step of B streams."""


class Player:
    """An agent that acts in B streams, with its core states; actions are drawn with ``random``, or with ``greedy`` are
    the most probable ones. With ``jacobians`` decisions have the Jacobian of the core."""

    def __init__(
        self, agent: Agent, streams: int, random: np.random.Generator, greedy: bool = False, jacobians: bool = False
    ) -> None:
        self._agent, self._random, self._greedy, self._jacobians = agent, random, greedy, jacobians
        self._device = next(agent.parameters()).device
        self._state = torch.zeros(streams, agent.core.state_size, device=self._device)

    def act(self, step: StepInput) -> Decision:
        """As `Act`."""
        inputs = step.tensors(self._device)
        output = self._agent.step(state=self._state, **inputs)
        jacobian = None
        if self._jacobians:
            jacobian = self._agent.core.retention(output.core_input, self._state, inputs["is_first"])
        self._state, logits = output.state, output.logits.cpu().numpy()
        actions = self._agent.actions
        uniforms = None if self._greedy else self._random.random((len(logits), *actions.shape))
        return Decision(actions.to_env(actions.choose(logits, uniforms)), output, jacobian)


def at_random(actions: ActionSpec, random: np.random.Generator) -> Act:
    """Draws all actions that are allowed with the same probability."""
    return lambda step: Decision(actions.at_random(random, len(step.reward), step.action_mask))


@dataclass(frozen=True)
class PlayedStep:
    """One step of B streams; arrays have a row for each. ``is_first``, ``over``, ``whole`` and ``cut`` are bool."""

    observation: np.ndarray
    last_reward: np.ndarray
    """What arrived with the observation, float32; in the first step of an episode it belongs to the one before."""
    is_first: np.ndarray
    """Whether the step begins an episode of the agent."""
    instructions: list[str]
    """In words; empty where the environment has none."""
    decision: Decision
    reward: np.ndarray
    """Of the action, as the environment gave it."""
    over: np.ndarray
    """The games that ended (see `Signals.ends`); of these ``whole`` were played to their end."""
    whole: np.ndarray
    cut: np.ndarray
    """Where a limit ended the agent's episode, not the task."""


def play(
    env: VectorEnv, act: Act, timer: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[PlayedStep]:
    """Step ``env``, which must not be reset yet, from its reset on, without end; each step is handed over before the
    next is made. ``timer`` makes the context of the reset, and that of each step of the environments."""
    with timer():
        observation, info = env.reset()
    reward, is_first = np.zeros(env.num_envs, dtype=np.float32), np.ones(env.num_envs, dtype=bool)
    texts = getattr(env.unwrapped, "instruction_texts", lambda: [""] * env.num_envs)
    while True:
        signals = Signals.of(info)
        decision = act(StepInput(observation, reward, is_first, signals.instruction, signals.action_mask))
        shown, instructions = observation.copy(), texts()
        with timer():
            observation, paid, terminated, truncated, info = env.step(decision.action)
        over, whole = Signals.of(info).ends(terminated, truncated)
        cut = truncated & ~terminated
        yield PlayedStep(shown, reward, is_first, instructions, decision, paid, over, whole, cut)
        reward, is_first = paid.astype(np.float32), terminated | truncated


def shares(episodes: int, streams: int) -> np.ndarray:
    """How many episodes each stream plays: fixed numbers, so that short ones do not count more often, int64 [B]."""
    return np.array([len(range(stream, episodes, streams)) for stream in range(streams)])
