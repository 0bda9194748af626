"""The process of one DeepMind Lab engine, as seen from outside.

An engine keeps Python's lock while it works, ends its process by C's exit() for a missing map, and some of its errors
are segmentation faults. A fork after a reset hangs, and multiprocessing's `spawn` would import the caller's main module
and with it torch: the process is a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from typing import Any, Literal

from r2ac.envs.dmlab.engine import Answer, EngineSettings, Failure
from r2ac.envs.dmlab.folders import last_lines, make_folder, remove_folder

# Seconds that a process outlives the longest time-out without a parent that ends it.
_GRACE = 60


class EngineProcess:
    """Starts an engine and talks to it; raises OSError where no process can be started. The process has a TMPDIR of its
    own, removed with it, for the files that a dead engine leaves and for its output. ``longest_timeout``: the most
    seconds that an answer is waited for."""

    def __init__(self, settings: EngineSettings, longest_timeout: float) -> None:
        self._folder, output = make_folder()
        self.busy = False
        """A command has been sent and not been answered."""
        self.connection, theirs = Pipe()
        try:
            with output, theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "r2ac.envs.dmlab.worker", str(theirs.fileno()), str(self._folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    # A group of its own: it can be killed with the programs that it has started to compile a map, and
                    # an interrupt from the keyboard is for the caller alone.
                    start_new_session=True,
                    cwd=self._folder,
                    env=self._environment(),
                )
        except OSError:
            self.connection.close()
            remove_folder(self._folder)
            raise
        self._send((settings, int(longest_timeout) + _GRACE))

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: Literal["reset", "step"], argument: int) -> None:
        """Asks for the episode of a seed or the step of an action; `connection` is ready when `receive` need not wait.
        Raises RuntimeError where the answer to another command is still to come."""
        if self.busy:
            raise RuntimeError("a step was interrupted: the environment must be reset")
        self.busy = True
        self._send((command, argument))

    def receive(self, seconds: float = 0.0) -> Answer | Failure:
        """The answer to what was asked, or why there will be none; waits for it that long."""
        try:
            if not self.connection.poll(max(0.0, seconds)):
                return Failure("gave no answer in time")
            answer: Answer | Failure = self.connection.recv()
        except (EOFError, OSError):
            return Failure("died")
        self.busy = False
        return answer

    def kill(self) -> str:
        """Ends the process now, removes its files, and says in a few words how it ended."""
        # Before the process is waited for: afterwards the group's number may be another's.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.connection.close()
        try:
            status = self._process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            return "and cannot be killed"
        ended = f"signal {-status}, {signal.strsignal(-status)}" if status < 0 else f"exit code {status}"
        if words := last_lines(self._folder):
            ended += f', its last words "{words}"'
        remove_folder(self._folder)
        return ended

    def ask_to_end(self) -> None:
        """Lets the engine close itself; `wait_and_kill` has to follow."""
        if not self.busy:
            self._send(None)

    def wait_and_kill(self, seconds: float) -> None:
        """Gives the process that long to end by itself, unless it is busy."""
        if not self.busy:
            # Not by waiting for the process: the end of the connection says the same and leaves its number reserved.
            with contextlib.suppress(OSError):
                self.connection.poll(seconds)
        self.kill()

    def _send(self, message: Any) -> None:
        # `receive` returns that the process is dead.
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def _environment(self) -> dict[str, str]:
        # The modules that this process finds, wherever it runs: as multiprocessing's `spawn` hands them over.
        paths = [os.path.abspath(entry) for entry in sys.path]
        # The engine prefers TEST_TMPDIR where it is set.
        folder = str(self._folder)
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": folder, "TEST_TMPDIR": folder}
