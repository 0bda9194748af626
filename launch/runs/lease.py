"""Who may write a run at a URL: one process at a time, which renews its lease as long as it is there."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from r2ac.launch.runs.run_directory import json_text
from r2ac.launch.runs.run_files import LEASE_FILE
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store


class Lease:
    """The right to write the run in a store: ``writer.json`` there, with host, process, time and a token.

    The token is that of the copy of the run on this machine's disk. It stays in the file when the lease is given back:
    the copy with this token is equal to the store.

    Stores have no locks: a process writes the file, waits a moment and reads it again; the last writer holds the lease.
    A holder that later finds another token must stop. The clocks of the machines must agree within minutes. All methods
    raise StorageUnavailable, and StorageError where the file is damaged or another process has the lease.
    """

    stale_seconds = 180.0
    """A lease that was not renewed for so long can be taken."""
    look_seconds = 2.0
    """Between two reads of a lease that is waited for."""
    settle_seconds = 1.0
    """Longer than another process may take from reading the file to the end of its write."""

    def __init__(self, store: Store, token: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._token, self._clock = store, token, clock

    def was_last(self) -> bool:
        """Whether this copy is the last that was written to the store."""
        return (self._store.read_json(LEASE_FILE) or {}).get("token") == self._token

    def acquire(self, patient: bool = False) -> None:
        """Take the lease; a ``patient`` process waits until a holder that may be dead renews it, or it is stale."""
        found = first = self._store.read_json(LEASE_FILE) or {}
        while patient and found == first and self._is_held(found):
            time.sleep(self.look_seconds)
            found = self._store.read_json(LEASE_FILE) or {}
        if self._is_held(found):
            raise StorageError(
                f"{self._store.url} is in use by {_holder(found)}, heard of {max(self._age(found), 0):.0f} s ago; a "
                f"lease that is not renewed for {self.stale_seconds / 60:.0f} minutes can be taken"
            )
        self._write()
        # No other process uses this copy: one that held the lease with its token is gone.
        if found.get("token") != self._token:
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
        """Write the time of now into the lease."""
        self.check()
        self._write()

    def release(self) -> None:
        """Let the next process take it at once."""
        self.check()
        self._write(released=True)

    def forget(self) -> None:
        """Remove the lease, where nothing else was written."""
        self.check()
        self._store.remove(LEASE_FILE)

    def _is_held(self, values: Mapping[str, Any]) -> bool:
        """Whether another process holds the lease, as far as one can know."""
        mine = values.get("token") == self._token
        return bool(values) and not values.get("released") and not mine and self._age(values) < self.stale_seconds

    def _age(self, values: Mapping[str, Any]) -> float:
        """Seconds since the lease was renewed."""
        renewed = values.get("time")
        return self._clock() - (renewed if isinstance(renewed, int | float) else 0.0)

    def _write(self, released: bool = False) -> None:
        values = {"token": self._token, "host": socket.gethostname(), "process": os.getpid(), "time": self._clock()}
        self._store.write(LEASE_FILE, json_text({**values, "released": released}).encode())


def _holder(values: Mapping[str, Any]) -> str:
    return f"process {values.get('process')} on {values.get('host')}"
