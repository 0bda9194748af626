"""Bounds on the time that a step of the environments may take."""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimer:
    """A context in which the kernel ends this process, by SIGALRM, after ``seconds`` (0: never), also one that never
    comes back to Python. Where it was goes to standard error first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        if seconds:
            # Then what SIGALRM does by default: it ends the process.
            faulthandler.register(signal.SIGALRM, file=2, all_threads=False, chain=True)

    def __enter__(self) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def step_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside after ``seconds`` (0: never), for a process that is to go on; not in code that never
    comes back to Python, nor on another thread than the main one."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_: object) -> None:
        raise TimeoutError(f"not back after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
