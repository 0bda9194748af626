"""Settings of a process that runs networks on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

CLOSE_SECONDS = 30.0
"""How long a thread may take to end. Two of them take less than a learner has to end after another one has died."""


def available_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def learner_threads(asked: int, busy_cores: int, learners: int = 1) -> int:
    """CPU threads of a learner: as asked for, or with 0 its share of the cores that are not busy, at least one."""
    return asked or max(1, (available_cores() - busy_cores) // learners)


def set_up_process(threads: int) -> None:
    """Let torch use ``threads`` CPU threads, and let glibc keep the memory that torch frees: by default it gives every
    large block back to the kernel, which hands it out again page by page, filled with zeros; with images that takes
    about half of the time of an update."""
    import torch

    torch.set_num_threads(threads)
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)


def end_thread(thread: threading.Thread, seconds: float = CLOSE_SECONDS) -> None:
    """Wait for a daemon thread that was asked to end; after ``seconds`` leave it behind, with a warning: one that waits
    for the GPU never ends where the GPU waits for a learner that died in the middle of an update."""
    thread.join(seconds)
    if thread.is_alive():
        warnings.warn(
            f"the thread {thread.name!r} did not end within {seconds:g} s and is left behind, as where the GPU waits "
            "for another learner that is gone",
            RuntimeWarning,
            stacklevel=3,
        )
