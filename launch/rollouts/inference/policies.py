"""The policies of a rollout actor: what its actions are drawn from, computed here or by an inference worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.learner import Rollout


class InferenceLost(RuntimeError):
    """The inference worker is gone."""


@dataclass(frozen=True)
class StepInput:
    """The agent's input at a step of some streams, [B, ...] each."""

    observation: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    instruction: np.ndarray | None

    @staticmethod
    def of(rollout: Rollout[np.ndarray], t: int, columns: slice) -> StepInput:
        """Step ``t`` of these columns of a rollout, as views."""
        words = None if rollout.instruction is None else rollout.instruction[t, columns]
        return StepInput(
            rollout.observation[t, columns], rollout.reward[t, columns], rollout.is_first[t, columns], words
        )


class Policy:
    """Fills the logits of a rollout, group of streams by group, step by step. Methods that are not overridden do
    nothing."""

    def begin(self, rollout: Rollout[np.ndarray], slot: int, weights: Weights | None) -> None:
        """The requests that follow are for this rollout, which lies in ``slot`` of the actor's memory."""

    def ask(self, group: int, t: int) -> None:
        """Request the logits of step ``t`` for the columns of a group; the rollout holds their step by now."""

    def answer(self, group: int, t: int) -> None:
        """Wait until ``behaviour_logits[t]`` of the group's columns is there."""

    def close(self) -> None:
        """There are no more requests."""


class LocalPolicy(Policy):
    """A copy of the agent in this process; computes in :meth:`answer`, on the agent's device."""

    def __init__(self, agent: Agent, columns: Sequence[slice]) -> None:
        self._agent, self._columns = agent.eval(), columns
        self._device = next(agent.parameters()).device
        self._state = torch.zeros(columns[-1].stop, agent.core.state_size, device=self._device)
        self._version = -1
        self._rollout: Rollout[np.ndarray]

    def begin(self, rollout: Rollout[np.ndarray], slot: int, weights: Weights | None) -> None:
        if weights is not None and weights.version != self._version:
            weights.load_into(self._agent)
            self._version = weights.version
        rollout.first_state[...] = self._state.cpu().numpy()
        rollout.weights_version[...] = self._version
        self._rollout = rollout

    def answer(self, group: int, t: int) -> None:
        columns = self._columns[group]
        inputs = StepInput.of(self._rollout, t, columns)
        words = None if inputs.instruction is None else self._tensor(inputs.instruction)
        observation, reward, is_first = map(self._tensor, (inputs.observation, inputs.reward, inputs.is_first))
        output = self._agent.step(observation, reward, is_first, self._state[columns], words)
        self._state[columns] = output.state
        self._rollout.behaviour_logits[t, columns] = output.logits.cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)
