"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Within this context SIGINT (Ctrl-C) and SIGTERM are noted, so that a run can save and end in order.

    A second SIGINT ends the program at once. On another thread than the main one, which alone gets signals, only
    ``also`` is asked.

    Args:
        also: tells whether something else asks the run to stop.
    """

    def __init__(self, also: Callable[[], bool] = lambda: False) -> None:
        self._also = also
        self.received: signal.Signals | None = None
        """The signal that came first, or None."""
        self._before: dict[signal.Signals, Any] = {}

    def stop_requested(self) -> bool:
        """Whether a signal came, or something else asks for it."""
        return self.received is not None or self._also()

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def install(self) -> None:
        """Take the signals; again where another library, such as Ray as it starts, has put in its own handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = signal.Signals(number)
