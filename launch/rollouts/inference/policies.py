"""The policies of a rollout actor: what its actions are drawn from, computed here or by an inference worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent, FusedActor, OnlineAgent
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.learner import Rollout


class InferenceLost(RuntimeError):
    """The inference worker is gone."""


@dataclass(frozen=True)
class StepInput:
    """The agent's input at a step of some streams, [B, ...] each, by the names of `Agent.step`; None for what the
    environment does not have."""

    observation: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    instruction: np.ndarray | None
    action_mask: np.ndarray | None

    @staticmethod
    def of(rollout: Rollout[np.ndarray], t: int, columns: slice) -> StepInput:
        """Step ``t`` of these columns of a rollout, as views."""
        whole = (getattr(rollout, name) for name in _INPUTS)
        arrays: list[Any] = [None if array is None else array[t, columns] for array in whole]
        return StepInput(*arrays)

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """Those that are there, on a device."""
        arrays = ((name, getattr(self, name)) for name in _INPUTS)
        return {name: torch.from_numpy(array).to(device) for name, array in arrays if array is not None}


_INPUTS = tuple(field.name for field in fields(StepInput))


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
    """A copy of the agent in this process; computes in :meth:`answer`, by kernels where they fit it: those of agents
    that learn ``online`` are for few streams."""

    def __init__(self, agent: Agent, columns: Sequence[slice], online: bool = False) -> None:
        self._agent, self._columns = agent.eval(), columns
        known = OnlineAgent(agent) if online and OnlineAgent.fits(agent) else FusedActor(agent, columns[0].stop)
        self._act = known.act
        self._device = next(agent.parameters()).device
        # Of each group of streams: the core's states, and the steps of the rollout as tensors over its memory.
        sizes = [each.stop - each.start for each in columns]
        self._states = [torch.zeros(size, agent.core.state_size, device=self._device) for size in sizes]
        self._steps: list[dict[str, Sequence[Tensor]]] = []
        self._logits: list[Sequence[Tensor]] = []
        self._version = -1

    def begin(self, rollout: Rollout[np.ndarray], slot: int, weights: Weights | None) -> None:
        if weights is not None and weights.version != self._version:
            weights.load_into(self._agent)
            self._version = weights.version
        rollout.weights_version[...] = self._version
        for columns, state in zip(self._columns, self._states, strict=True):
            rollout.first_state[columns] = state.cpu().numpy()
        given = {name: torch.from_numpy(array) for name, array in rollout.step_inputs().items()}
        logits = torch.from_numpy(rollout.behaviour_logits)
        self._steps = [{name: each[:, columns].unbind() for name, each in given.items()} for columns in self._columns]
        self._logits = [logits[:, columns].unbind() for columns in self._columns]

    def answer(self, group: int, t: int) -> None:
        inputs = {name: steps[t].to(self._device) for name, steps in self._steps[group].items()}
        logits, self._states[group] = self._act(state=self._states[group], **inputs)
        self._logits[group][t].copy_(logits)
