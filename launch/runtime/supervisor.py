"""A parent process that starts a training again after it was killed or has failed; it learns nothing itself.

A signal, the lack of memory or an error in a library ends its child, the training, alone. Where the parent is killed,
the kernel sends SIGTERM to the child, which saves and ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console

from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.stop_signals import STOPS, StopSignals

TRY_AGAIN = os.EX_TEMPFAIL
"""Exit code of a supervised training that failed in a way that another try may mend."""
_VARIABLE = "R2AC_SUPERVISED"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # numbers of Linux's prctl.h
_LONGEST_PAUSE = 30.0
_GRACE = 5.0


def restarts() -> int | None:
    """How often the supervisor of this process has started its training again; None where there is no supervisor."""
    parent, _, count = os.environ.get(_VARIABLE, "").partition(":")
    # Processes further down inherit the variable, but have another parent.
    return int(count) if parent == str(os.getppid()) else None


def exit_code(code: int) -> int:
    """The exit code of this process: TRY_AGAIN only under a supervisor, else 1."""
    return 1 if code == TRY_AGAIN and restarts() is None else code


def supervise(words: Sequence[str], max_failures: int, state: Callable[[], str], advice: Callable[[], str]) -> int:
    """Run ``r2ac`` with these words as a child process, and again after each failure, ``max_failures`` (at least 1)
    times at most. Returns the exit code: of the child where it ended by itself, 128 + the signal's number after a
    request to stop, 1 where it failed once too often.

    A failure is an end by a signal that is no request to stop, or the exit code ``TRY_AGAIN``. Between two starts lie
    1, 2, 4, … seconds, 30 at most, and again 1 once it has come further. SIGINT and SIGTERM are passed on to the child,
    which saves and ends. ``state`` returns where the next start goes on, such as ``from step 1,200``, and ``advice``
    how a user does, such as ``go on with: r2ac train --resume RUN``.
    """
    count, place, in_place = 0, "", 0
    with _PassedOn() as stops, _adoption() as end_orphans:
        while True:
            code = _run(words, count, stops)
            if stops.received is not None and (_is_stop(code) or code < 0):
                if code < 0:
                    # It says nothing itself: it had not come so far, or was ended in a hurry.
                    print_failures([f"stopped by {stops.received.name}; {advice()}"])
                return 128 + stops.received
            if _is_stop(code):
                return 128 - code if code < 0 else code
            if stops.received is not None or 0 <= code != TRY_AGAIN:
                return 1 if code == TRY_AGAIN else code
            end_orphans()
            killer = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
            what = f"was killed by {killer}" if code < 0 else "failed"
            # A training that was killed leaves its progress line and a hidden cursor.
            Console(stderr=True).show_cursor(True)
            if count == max_failures:
                often = f"for --max-failures is {max_failures}"
                print_failures([f"the training {what} and is not started again, {often}; {advice()}"])
                return 1
            before, place = place, state()
            in_place = in_place + 1 if place == before else 0
            pause = min(2.0**in_place, _LONGEST_PAUSE)
            count += 1
            again = f"restart {count} of {max_failures}"
            print_failures([f"the training {what}; it goes on {place} in {pause:.0f} s ({again})"])
            if (number := stops.pause(pause)) is not None:
                print_failures([f"stopped by {number.name}; {advice()}"])
                return 128 + number


def _run(words: Sequence[str], count: int, stops: _PassedOn) -> int:
    """The exit code of one start; -n where signal n ended it."""
    environment = {**os.environ, _VARIABLE: f"{os.getpid()}:{count}"}
    child = subprocess.Popen(
        [sys.executable, "-m", "r2ac.launch", *words], env=environment, preexec_fn=_ends_with(os.getpid())
    )
    stops.watch(child)
    try:
        return child.wait()
    finally:
        stops.watch(None)


def _ends_with(parent: int) -> Callable[[], None] | None:
    """Lets the kernel send SIGTERM to a child when its parent dies, also after exec."""
    prctl = _prctl()
    if prctl is None:
        return None

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return before_exec


def _prctl() -> Callable[..., int] | None:
    return ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None


def _is_stop(code: int) -> bool:
    """Whether a training ended because it was asked to, also before it could say so itself."""
    return any(code in (-number, 128 + number) for number in STOPS)


class _PassedOn(StopSignals):
    """Within this context requests to stop are noted, and passed on to the child that runs."""

    _child: subprocess.Popen[bytes] | None = None

    def watch(self, child: subprocess.Popen[bytes] | None) -> None:
        """From now on requests are passed on to ``child``; one that has come already too."""
        self._child = child
        if child is not None and self.received is not None:
            child.send_signal(signal.SIGTERM)

    def pause(self, seconds: float) -> signal.Signals | None:
        """Wait, at most until a request comes; returns it."""
        end = time.monotonic() + seconds
        while self.received is None and time.monotonic() < end:
            time.sleep(0.05)
        return self.received

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the child too, and a second one would end it at once: the first is passed on as
        # SIGTERM, of which one more does nothing.
        hurry = self.received is not None and number == signal.SIGINT
        self.received = self.received or signal.Signals(number)
        if self._child is not None:
            self._child.send_signal(signal.SIGINT if hurry else signal.SIGTERM)


@contextmanager
def _adoption() -> Iterator[Callable[[], None]]:
    """Within this context what a killed training leaves behind, such as its Ray, becomes a child of this process
    (Linux). Yields what ends these children."""
    own, prctl = _children(), _prctl()
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield lambda: _end_orphans(own)
    finally:
        if prctl is not None:
            prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _end_orphans(own: set[int]) -> None:
    """End all children but ``own``, by SIGTERM and after some seconds by SIGKILL."""
    began, asked = time.monotonic(), set[int]()
    while (orphans := _children() - own) and time.monotonic() < began + 2 * _GRACE:
        late = time.monotonic() > began + _GRACE
        for pid in orphans:
            if pid not in asked or late:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            asked.add(pid)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


def _children() -> set[int]:
    """The ids of the children of this process; none where the system has no such list."""
    try:
        texts = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:
        return set()
    return {int(pid) for text in texts for pid in text.split()}
