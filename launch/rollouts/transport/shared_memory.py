"""Memory that the processes of one machine share, for as long as one of them holds it.

It has no name in the file system: it is given back with the last process that holds it, however that ends, and no limit
of /dev/shm holds for it. Linux only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

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


def allocate(name: str, size: int) -> int:
    """The descriptor of ``size`` new bytes, all taken from the system now, so that none can be missing later.

    Raises:
        NoMemory: where there is not so much.
    """
    descriptor = os.memfd_create(name)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.close(descriptor)
        raise NoMemory(f"there is no memory for the rollouts in flight: {os_reason(error)}") from error
    return descriptor
