"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a run to stop: Ctrl-C, a cluster's request, a terminal that is closed."""


def stops_here() -> list[signal.Signals]:
    """Those that this process is to obey: SIGHUP stays ignored where it is, as under `nohup`."""
    return [each for each in STOPS if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]


class StoppedAtOnce(KeyboardInterrupt):
    """A second Ctrl-C, while the run was about to save and end."""


class StopSignals:
    """Within this context SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone) are noted, so that a run can save
    and end in order.

    A second SIGINT ends the program at once, by StoppedAtOnce. ``also`` returns whether the run is to stop for another
    reason; on another thread than the main one, which alone gets signals, it is the only one.
    """

    def __init__(self, also: Callable[[], bool] = lambda: False) -> None:
        self._also = also
        self.received: signal.Signals | None = None  # the signal that came first
        self._before: dict[signal.Signals, Any] = {}

    def stop_requested(self) -> bool:
        """Whether a signal came, or ``also()`` is true."""
        return self.received is not None or self._also()

    def __enter__(self) -> Self:
        self.install()
        return self

    def install(self) -> None:
        """Take the signals; again where another library, such as Ray as it starts, has put in its own handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in stops_here():
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            # From here on it is Python's own, so that no environment is taken to have raised it.
            signal.signal(number, signal.default_int_handler)
            raise StoppedAtOnce
        self.received = self.received or signal.Signals(number)
