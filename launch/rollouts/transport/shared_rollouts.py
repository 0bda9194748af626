"""Memory that rollouts are written into once: shared by the processes of one machine, and allocated before the run."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from r2ac.agents import ObservationSpec
from r2ac.launch.rollouts.transport.shared_memory import MemoryHandle, SharedMemory, allocate
from r2ac.learner import Rollout

_Shapes = dict[str, tuple[tuple[int, ...], type[np.generic]]]
_ALIGNMENT = 64  # bytes, a line of the cache


@dataclass(frozen=True)
class RolloutLayout:
    """The shapes and dtypes of the arrays of a rollout."""

    length: int
    """T."""
    num_streams: int
    """B, all streams of a rollout actor or of a batch."""
    spec: ObservationSpec
    state_size: int
    """N, or 0 for a core without memory."""
    final_observations: bool = False
    """Whether a rollout holds what episodes showed last, where a time limit cut them off."""

    def arrays(self) -> _Shapes:
        """Shape and dtype of each array, by the names of :class:`r2ac.learner.Rollout`."""
        steps, streams, spec = self.length, self.num_streams, self.spec
        shapes: _Shapes = {
            "observation": ((steps + 1, streams, *spec.shape), np.uint8 if len(spec.shape) == 3 else np.float32),
            "reward": ((steps + 1, streams), np.float32),
            "is_first": ((steps + 1, streams), np.bool_),
            "action": ((steps, streams, *spec.actions.shape), spec.actions.dtype),
            "behaviour_logits": ((steps, streams, spec.actions.parameters), np.float32),
            "first_state": ((streams, self.state_size), np.float32),
            "stream": ((streams,), np.int64),
            "sequence": ((streams,), np.int64),
            "weights_version": ((streams,), np.int64),
        }
        if spec.instruction_length:
            shapes["instruction"] = ((steps + 1, streams, spec.instruction_length), np.int32)
        if spec.action_masks:
            shapes["action_mask"] = ((steps + 1, streams, spec.actions.parameters), np.bool_)
        if self.final_observations:
            shapes["truncated"] = ((steps, streams), np.bool_)
            shapes["final_observation"] = ((steps, streams, *spec.shape), shapes["observation"][1])
        return shapes

    def nbytes(self) -> int:
        """Bytes of a rollout, each array's rounded up to whole lines of the cache."""
        shape, dtype, start = list(self._places.values())[-1]
        return start + _nbytes(shape, dtype)

    @cached_property
    def _places(self) -> dict[str, tuple[tuple[int, ...], type[np.generic], int]]:
        """Shape and dtype of each array, and where it begins in the memory of a rollout."""
        arrays = self.arrays()
        starts = accumulate((_nbytes(*each) for each in arrays.values()), initial=0)
        return {name: (*each, start) for (name, each), start in zip(arrays.items(), starts, strict=False)}

    def empty(self) -> Rollout[np.ndarray]:
        """A rollout in memory of this process, with nothing in it yet."""
        return self.over(np.empty(self.nbytes(), dtype=np.uint8))

    def over(self, memory: np.ndarray) -> Rollout[np.ndarray]:
        """A rollout whose arrays are views of ``memory``, uint8, of :meth:`nbytes` bytes."""
        places = self._places
        return Rollout(**{name: np.ndarray(shape, dtype, memory, at) for name, (shape, dtype, at) in places.items()})


def _nbytes(shape: tuple[int, ...], dtype: type[np.generic]) -> int:
    """Of an array, rounded up to whole lines of the cache."""
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class RolloutsHandle(MemoryHandle):
    """Names a :class:`SharedRollouts` to another process."""

    layout: RolloutLayout


class SharedRollouts(SharedMemory):
    """Rollouts of one layout, side by side in memory that several processes of this machine see."""

    def __init__(self, layout: RolloutLayout, descriptor: int) -> None:
        super().__init__(descriptor)
        self._layout = layout
        self.slots = [layout.over(each) for each in self.bytes.reshape(-1, layout.nbytes())]
        """The rollouts, whose arrays are views of the memory: those of an actor take them in turn, by their numbers."""

    @staticmethod
    def create(layout: RolloutLayout, slots: int) -> SharedRollouts:
        """New memory. Raises NoMemory."""
        return SharedRollouts(layout, allocate("r2ac-rollouts", slots * layout.nbytes()))

    def handle(self) -> RolloutsHandle:
        return RolloutsHandle(os.getpid(), self.descriptor, self._layout)
