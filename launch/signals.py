"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Within this context SIGINT (Ctrl-C) and SIGTERM are noted, so that a run can save and end in order.

    A second SIGINT ends the program at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The signal that came first, or None."""
        self._before: dict[signal.Signals, Any] = {}

    def stop_requested(self) -> bool:
        """Whether a signal came."""
        return self.received is not None

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def install(self) -> None:
        """Take the signals; again where another library, such as Ray as it starts, has put in its own handlers."""
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
