"""The policies of a rollout actor: what its actions are drawn from, computed here or by an inference worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import ActionSpec, Agent, FusedActor
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
    """Fills the logits and actions of a rollout, group of streams by group, step by step. Methods that only have a
    docstring here do nothing.

    Args:
        actions: drawn from the logits.
        columns: the streams of each group, among those of the rollout.
    """

    def __init__(self, actions: ActionSpec, columns: Sequence[slice]) -> None:
        self.actions, self.columns = actions, columns
        self.rollout: Rollout[np.ndarray]
        self.slot = 0
        self.uniforms: np.ndarray

    def begin(self, rollout: Rollout[np.ndarray], slot: int, uniforms: np.ndarray, weights: Weights | None) -> None:
        """The requests that follow are for this rollout, which lies in ``slot`` of the actor's memory; its actions are
        drawn by uniform numbers, [T, B, *shape]."""
        self.rollout, self.slot, self.uniforms = rollout, slot, uniforms

    def ask(self, group: int, t: int) -> None:
        """Request the logits of step ``t`` for the columns of a group; the rollout holds their step by now."""

    def answer(self, group: int, t: int) -> None:
        """Wait until logits and actions of step ``t`` of the group's columns are there."""

    def draw(self, group: int, t: int) -> None:
        """Draw the actions from the logits."""
        at = t, self.columns[group]
        self.rollout.action[at] = self.actions.choose(self.rollout.behaviour_logits[at], self.uniforms[at])

    def close(self) -> None:
        """There are no more requests."""


class LocalPolicy(Policy):
    """A copy of the agent in this process; computes in :meth:`answer`, by a kernel where one fits it."""

    def __init__(self, agent: Agent, columns: Sequence[slice]) -> None:
        super().__init__(agent.actions, columns)
        self._agent, self._actor = agent.eval(), FusedActor(agent, columns[0].stop)
        device, size = next(agent.parameters()).device, agent.core.state_size
        # Of each group of streams: the core's states.
        self._states = [torch.zeros(each.stop - each.start, size, device=device) for each in columns]
        # By slot: the rollout that lies there, its uniform numbers, and each group's steps, which read both.
        self._prepared: dict[int, tuple[Rollout[np.ndarray], np.ndarray, list[Callable[[int], None]]]] = {}
        self._version = -1

    def begin(self, rollout: Rollout[np.ndarray], slot: int, uniforms: np.ndarray, weights: Weights | None) -> None:
        super().begin(rollout, slot, uniforms, weights)
        if weights is not None and weights.version != self._version:
            weights.load_into(self._agent)
            self._version = weights.version
        rollout.weights_version[...] = self._version
        for columns, state in zip(self.columns, self._states, strict=True):
            rollout.first_state[columns] = state.cpu().numpy()
        known, own_uniforms, steps = self._prepared.get(slot) or (None, np.empty_like(uniforms), [])
        own_uniforms[...] = uniforms
        if known is rollout:
            return
        given = {name: torch.from_numpy(array) for name, array in rollout.step_inputs().items()}
        others = [torch.from_numpy(each) for each in (own_uniforms, rollout.behaviour_logits, rollout.action)]
        steps.clear()
        for columns, state in zip(self.columns, self._states, strict=True):
            inputs = {name: each[:, columns] for name, each in given.items()}
            drawn_by, *written = (each[:, columns] for each in others)
            steps.append(self._actor.over(inputs, drawn_by, state, *written))
        self._prepared[slot] = rollout, own_uniforms, steps

    def answer(self, group: int, t: int) -> None:
        self._prepared[self.slot][2][group](t)
