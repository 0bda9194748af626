"""Where the learner puts its newest weights, and all processes of the machine that act read them."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import numpy as np

from r2ac.launch.rollouts.inference.policies import Weights


@dataclass(frozen=True)
class BoardHandle:
    """With what another process of this machine and user finds a :class:`WeightsBoard`."""

    process: int
    descriptor: int
    size: int
    """The number of parameters."""


class WeightsBoard:
    """The newest weights, in memory that several processes of this machine see; one process writes.

    ``SLOTS`` slots are written in turn, so that who reads the newest is disturbed only where it takes longer than two
    more publications; it then reads again. That one can tell relies on stores being seen in their order, as on x86-64.

    Args:
        descriptor: of the memory; this object closes it.
        size: the number of parameters.
    """

    SLOTS = 3

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        whole = np.frombuffer(mmap.mmap(descriptor, _bytes(size)), dtype=np.uint8)
        begin = _header(self.SLOTS)
        header = whole[:begin].view(np.int64)
        self._newest, self._versions = header[:1], header[1:]
        self._slots = whole[begin:].view(np.float32).reshape(self.SLOTS, size)
        self._read: Weights | None = None

    @staticmethod
    def create(size: int) -> WeightsBoard:
        """A board for ``size`` parameters, with nothing on it.

        Raises:
            OSError: where there is no memory.
        """
        descriptor = os.memfd_create("r2ac-weights")
        try:
            os.posix_fallocate(descriptor, 0, _bytes(size))
            board = WeightsBoard(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        board._newest[:] = board._versions[:] = -1
        return board

    @staticmethod
    def attach(handle: BoardHandle) -> WeightsBoard:
        """The board that another process made. Raises OSError if that process is gone."""
        path = f"/proc/{handle.process}/fd/{handle.descriptor}"
        return WeightsBoard(os.open(path, os.O_RDWR | os.O_CLOEXEC), handle.size)

    def handle(self) -> BoardHandle:
        """For :meth:`attach`, as long as this object is open."""
        return BoardHandle(os.getpid(), self._descriptor, self._size)

    def write(self, weights: Weights) -> None:
        """Make these the newest."""
        slot = (int(self._newest[0]) + 1) % self.SLOTS
        self._versions[slot] = -1
        self._slots[slot] = weights.values
        self._versions[slot] = weights.version
        self._newest[0] = slot

    def newest(self) -> Weights | None:
        """A copy of the newest weights, the same one as before where there are no newer; None where there are none."""
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

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _header(slots: int) -> int:
    """Bytes of the number of the newest slot, and of the version in each: -1 while it is written, or before."""
    return 8 * (1 + slots)


def _bytes(size: int) -> int:
    return _header(WeightsBoard.SLOTS) + 4 * WeightsBoard.SLOTS * size
