"""The rollout: what a rollout actor hands to the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)

# The fields whose first dimension is the stream; every other field has time first and the stream second.
_STREAM_FIRST = frozenset({"first_state", "stream", "sequence", "weights_version"})
# The fields that the agent sees in a step.
_SEEN = ("observation", "reward", "is_first", "instruction", "action_mask")


@dataclass(frozen=True)
class Rollout(Generic[Array]):
    """T consecutive steps of B streams and the observation after them, as NumPy arrays or as tensors.

    Time comes first. ``reward[t]`` arrived *with* ``observation[t]``, so that ``reward[t + 1]`` follows ``action[t]``.
    """

    observation: Array
    """[T+1, B, ...] uint8 (images [C, H, W]) or float32 (vectors)."""
    reward: Array
    """[T+1, B] float32, as the environment gave it (not clipped)."""
    is_first: Array
    """[T+1, B] bool, true where a step begins an episode."""
    action: Array
    """[T, B, ...], rows as `ActionSpec` describes them: [T, B] int64 where actions are discrete."""
    behaviour_logits: Array
    """[T, B, P] float32, the parameters of the policy that chose the actions."""
    first_state: Array
    """[B, N] float32, the cell state that the actor held before the first step."""
    stream: Array
    """[B] int64, the stream that each column belongs to."""
    sequence: Array
    """[B] int64, the number of this rollout within its stream, counted from 0."""
    weights_version: Array
    """[B] int64, the version of the weights that chose the actions."""
    instruction: Array | None = None
    """[T+1, B, L] int32, ids of the words of the instructions; None where the task has none."""
    truncated: Array | None = None
    """[T, B] bool, true where a time limit cut the episode off after the step; None where such an end is like any
    other."""
    final_observation: Array | None = None
    """[T, B, ...] like ``observation``, what the environment showed after the step, where ``truncated``, and anything
    elsewhere: ``observation[t + 1]`` is then the first of the next episode. None beside no ``truncated``."""
    action_mask: Array | None = None
    """[T+1, B, P] bool, which actions are allowed in the step; None where all are, always."""

    @property
    def length(self) -> int:
        """T, the number of steps."""
        return self.action.shape[0]

    @property
    def batch_size(self) -> int:
        """B, the number of streams."""
        return self.action.shape[1]

    def arrays(self) -> dict[str, Array]:
        """The fields by their names, without those that are None."""
        return {name: array for name in _FIELDS if (array := getattr(self, name)) is not None}

    def inputs(self) -> dict[str, Array | None]:
        """What the agent is given of it, beside a carry, by the names of its arguments."""
        return {name: getattr(self, name) for name in (*_SEEN, "final_observation")}

    def step_inputs(self) -> dict[str, Array]:
        """What the agent is given in the steps, beside a state, by the names of the arguments of its step: those that
        are there, [T+1, B, ...] each."""
        return {name: array for name in _SEEN if (array := getattr(self, name)) is not None}

    def inputs_at(self, t: int) -> dict[str, Array]:
        """The same of step ``t``, [B, ...] each."""
        return {name: array[t] for name, array in self.step_inputs().items()}

    def columns(self, start: int, stop: int) -> Rollout[Array]:
        """The streams ``start`` to ``stop`` (exclusive) of this rollout, as views."""
        return self._at(slice(start, stop))

    def select(self, index: Array) -> Rollout[Array]:
        """The streams of these columns, [b] int64, as copies."""
        return self._at(index)

    def _at(self, columns: slice | Array) -> Rollout[Array]:
        named = self.arrays().items()
        return Rollout(
            **{name: array[columns] if name in _STREAM_FIRST else array[:, columns] for name, array in named}
        )


_FIELDS = tuple(field.name for field in fields(Rollout))


def concatenate(
    rollouts: Sequence[Rollout[np.ndarray]], into: Rollout[np.ndarray] | None = None
) -> Rollout[np.ndarray]:
    """One rollout of all the streams of one or more rollouts of equal length T, written ``into`` a rollout that is
    there; without it into new memory, while a single rollout is returned itself."""
    if len(rollouts) == 1 and into is None:
        return rollouts[0]
    if len(rollouts) == 1 and into is not None:
        for written, array in zip(into.arrays().values(), rollouts[0].arrays().values(), strict=True):
            np.copyto(written, array)
        return into
    out = {} if into is None else into.arrays()
    joined = {}
    for name in rollouts[0].arrays():
        parts = [getattr(rollout, name) for rollout in rollouts]
        joined[name] = np.concatenate(parts, axis=0 if name in _STREAM_FIRST else 1, out=out.get(name))
    return Rollout(**joined)
