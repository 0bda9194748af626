"""A bound on the time that a step of the environments may take."""

from __future__ import annotations

import faulthandler
import signal
from types import TracebackType


class StepTimer:
    """A context in which this process is ended, by SIGALRM, if it stays there longer than ``seconds`` (0: never).

    The kernel does it: also a process that never comes back to Python ends. Where it was goes to standard error first.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        if seconds:
            # Then what SIGALRM does by default: it ends the process.
            faulthandler.register(signal.SIGALRM, file=2, all_threads=False, chain=True)

    def __enter__(self) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
