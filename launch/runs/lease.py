"""Who may write a run at a URL: one process at a time, as long as it says again and again that it is there."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

from r2ac.launch.runs.run_directory import json_text
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store

LEASE_FILE = "writer.json"


class Lease:
    """The right to write the run in a store: ``writer.json`` there, with host, process, time and a token.

    The token names the copy of the run on some machine's disk that is written to the store. It stays in the file when
    the lease is given back, and so tells later whether a copy holds what the store holds, or whether another has
    written since.

    Stores know no locks. Who writes the file waits a moment and reads it again, and the last who wrote it holds the
    lease; a holder who finds another's token later, after a pause of its machine, must stop. Clocks of the machines
    that share a store must agree within minutes.

    Args:
        store: of the run.
        token: of this machine's copy, which no other process uses.
        clock: seconds since 1970.
    """

    stale_seconds = 180.0
    """A lease whose holder has been silent for so long can be taken."""
    look_seconds = 2.0
    """Between two looks at a lease that is waited for."""
    settle_seconds = 1.0
    """Longer than another may take from its look at the file to the end of its write."""

    def __init__(self, store: Store, token: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._token, self._clock = store, token, clock

    def was_last(self) -> bool:
        """Whether this copy is the last that was written to the store. Raises StorageUnavailable, as all methods do,
        and StorageError where the file is damaged."""
        values = self._store.read_json(LEASE_FILE)
        return values is not None and values.get("token") == self._token

    def acquire(self, patient: bool = False) -> None:
        """Take the lease.

        Args:
            patient: whether to wait for a holder that may be dead, until it renews its lease or is silent for too long.

        Raises:
            StorageError: where another process holds it.
        """
        before = self._store.read_json(LEASE_FILE)
        first = before
        while patient and before is not None and before == first and self._is_held(before):
            time.sleep(self.look_seconds)
            before = self._store.read_json(LEASE_FILE)
        if before is not None and before.get("token") == self._token:
            # Nobody else uses the copy: whoever held the lease with it is gone.
            self._write()
            return
        if before is not None and self._is_held(before):
            silent = self._clock() - _number(before.get("time"))
            raise StorageError(
                f"{self._store.url} is in use by {_holder(before)}, heard of {max(silent, 0):.0f} s ago; a lease "
                f"that is not renewed for {self.stale_seconds / 60:.0f} minutes can be taken"
            )
        self._write()
        time.sleep(self.settle_seconds)
        self.check()

    def check(self) -> None:
        """Raises StorageError where another process has taken the lease, and StorageUnavailable where the file is gone:
        a file system that is not mounted shows an empty folder."""
        now = self._store.read_json(LEASE_FILE)
        if now is None:
            raise StorageUnavailable(f"{self._store.url} cannot be written: its {LEASE_FILE} is gone")
        if now.get("token") != self._token:
            raise StorageError(f"{self._store.url} is written by another process now ({_holder(now)})")

    def renew(self) -> None:
        """Say that this process is there. Raises StorageError where another has taken the lease."""
        self.check()
        self._write()

    def release(self) -> None:
        """Let the next process take it at once. Raises StorageError where another has taken it already."""
        self.check()
        self._write(released=True)

    def forget(self) -> None:
        """Give it back without a trace, where nothing was written."""
        self.check()
        self._store.remove(LEASE_FILE)

    def _is_held(self, values: Mapping[str, object]) -> bool:
        """Whether another process holds the lease, as far as one can tell."""
        if values.get("released") or values.get("token") == self._token:
            return False
        return self._clock() - _number(values.get("time")) < self.stale_seconds

    def _write(self, released: bool = False) -> None:
        values = {
            "token": self._token,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "time": self._clock(),
            "released": released,
        }
        self._store.write(LEASE_FILE, json_text(values).encode())


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _holder(values: dict[str, object]) -> str:
    return f"process {values.get('process')} on {values.get('host')}"
