"""The learner's weights, and the shared memory where the processes of its machine read the newest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from r2ac.agents import Agent
from r2ac.launch.rollouts.transport.shared_memory import SharedMemory, allocate
from r2ac.learner.vectors import copy_vector_


@dataclass(frozen=True)
class Weights:
    """The agent's weights, as they travel from the learner to the agents that act."""

    version: int
    """The number of updates that made them."""
    values: np.ndarray | None
    """All parameters, one after another, float32; None where those who act share the learner's memory of them."""

    def load_into(self, agent: Agent) -> None:
        """Copy them into the agent's parameters, which stay where they lie in memory, as cuDNN's LSTM wants them."""
        if self.values is None:
            return
        parameters = list(agent.parameters())
        copy_vector_(parameters, torch.tensor(self.values, device=parameters[0].device))


class SharedWeights(SharedMemory):
    """The newest weights, in memory that all processes of the machine read and one writes.

    ``SLOTS`` slots are written in turn, so that a reader is disturbed only where it takes longer than two more
    publications; it then reads again. The check relies on stores being seen in their order, as on x86-64.
    """

    SLOTS = 3

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        # First the number of the newest slot, then the version in each: -1 while it is written, or before.
        header, values = np.split(self.bytes, [8 * (1 + self.SLOTS)])
        self._newest, self._versions = np.split(header.view(np.int64), [1])
        self._slots = values.view(np.float32).reshape(self.SLOTS, -1)
        self._read: Weights | None = None

    @staticmethod
    def create(size: int) -> SharedWeights:
        """Memory for ``size`` parameters, with no weights in it yet. Raises NoMemory."""
        shared = SharedWeights(allocate("r2ac-weights", 8 * (1 + SharedWeights.SLOTS) + 4 * SharedWeights.SLOTS * size))
        shared._newest[:] = shared._versions[:] = -1
        return shared

    def publish(self, weights: Weights) -> None:
        """Make these the newest: rollouts that are begun from now on use them, or newer ones."""
        slot = (int(self._newest[0]) + 1) % self.SLOTS
        self._versions[slot] = -1
        self._slots[slot] = weights.values
        self._versions[slot] = weights.version
        self._newest[0] = slot

    def version(self, actor: int) -> int:
        """The oldest version that a rollout ordered from this actor now can have; -1 before the first."""
        slot = int(self._newest[0])
        return -1 if slot < 0 else int(self._versions[slot])

    def newest(self) -> Weights | None:
        """A copy of the newest weights, the same object as before where there are no newer; None before the first."""
        while True:
            slot = int(self._newest[0])
            if slot < 0:
                return None
            version = int(self._versions[slot])
            if self._read is not None and self._read.version == version:
                return self._read
            values = self._slots[slot].copy()
            if version >= 0 and int(self._versions[slot]) == version:
                self._read = Weights(version, values)
                return self._read
