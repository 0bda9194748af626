"""Memory that the processes of one machine share, for as long as one of them holds it.

It has no name in the file system: it is given back with the last process that holds it, however that ends, and no limit
of /dev/shm holds for it. Linux only.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import numpy as np

from r2ac.launch.runtime.errors import os_reason


class NoMemory(RuntimeError):
    """There is no memory for what actors and learner share."""


@dataclass(frozen=True)
class MemoryHandle:
    """Names shared memory to another process of this machine and user, while the process that made it holds it."""

    process: int
    """The id of the process that made it."""
    descriptor: int
    """Its file descriptor there."""

    def open(self) -> int:
        """A descriptor of this process, which the caller closes. Raises OSError if the process that made it is gone."""
        return os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDWR | os.O_CLOEXEC)


class SharedMemory:
    """Memory that this process sees as well as others, by a descriptor that this object closes. Views of its ``bytes``
    stay valid after :meth:`close`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.bytes = np.frombuffer(mmap.mmap(descriptor, 0), dtype=np.uint8)

    def handle(self) -> MemoryHandle:
        """For other processes, as long as this object is open."""
        return MemoryHandle(os.getpid(), self.descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def allocate(name: str, size: int) -> int:
    """The descriptor of ``size`` new bytes, all taken from the system now, so that none can be missing later. Raises
    NoMemory."""
    descriptor = os.memfd_create(name)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.close(descriptor)
        raise NoMemory(f"there is no memory for the rollouts in flight: {os_reason(error)}") from error
    return descriptor
