"""A run at a URL: one process at a time trains it in a folder of its machine, and copies it there at checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.runs.run_directory import RunDirectory, json_text, open_locked, write_atomically
from r2ac.launch.runs.run_files import LEASE_FILE, changed_files, file_state, is_checkpoint, wanted
from r2ac.launch.runs.storage import PARTIAL, StorageError, StorageUnavailable, Store, cache_folder
from r2ac.launch.runtime.errors import os_errors_as
from r2ac.launch.settings.places import HUB


def staging_path(url: str) -> Path:
    """Where the run at ``url`` is trained on this machine. Raises StorageError, MissingPackage."""
    return cache_folder("training", url) / Store(url).name


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
        return self._read().get("token") == self._token

    def acquire(self, patient: bool = False) -> None:
        """Take the lease; a ``patient`` process waits until a holder that may be dead renews it, or it is stale."""
        found = first = self._read()
        while patient and found == first and self._is_held(found):
            time.sleep(self.look_seconds)
            found = self._read()
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
        now = self._read()
        if not now:
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

    def _read(self) -> dict[str, Any]:
        return self._store.read_json(LEASE_FILE) or {}

    def _write(self, released: bool = False) -> None:
        values = {"token": self._token, "host": socket.gethostname(), "process": os.getpid(), "time": self._clock()}
        self._store.write(LEASE_FILE, json_text({**values, "released": released}).encode())


def _holder(values: Mapping[str, Any]) -> str:
    return f"process {values.get('process')} on {values.get('host')}"


class Mirror:
    """Within this context this process alone writes the run at a URL; its files lie in the folder `path`.

    A thread copies them to the URL after each `push`. What cannot be copied is reported on the console and copied the
    next time. At the end all is copied once more, and the folder removed. The folder of a process that died is used
    again only if it was the last that wrote to the URL; else it is put aside, and what is at the URL is fetched.

    ``new`` says whether the run begins or continues (None: either), ``patient`` whether to wait for a writer that may
    be dead, as after a restart. Raises StorageError where another process writes the run, a new one would replace
    another, or there is none to continue; StorageUnavailable; MissingPackage.
    """

    renew_seconds = 60.0
    """Between two renewals of the lease."""

    def __init__(self, url: str, console: Console, new: bool | None, patient: bool = False) -> None:
        if url.startswith(HUB):
            raise StorageError(f"{url} is a place to share a run: train in a folder, and bring it there with r2ac push")
        self._store, self._console, self._new, self._patient = Store(url), console, new, patient
        self.url = self._store.url
        self.path = staging_path(url)
        self._copy_file = self.path.parent / "copy.json"
        self._sent: dict[str, str] = {}
        self._lost: StorageError | None = None
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def push(self) -> None:
        """Start copying what is new to the URL. Raises StorageError where another process has taken the run."""
        if self._lost is not None:
            raise self._lost
        self._wake.set()

    def shown(self, path: Path | str) -> str:
        """The URL of a file of the folder."""
        return self.url + "/" + Path(path).relative_to(self.path).as_posix() if path != self.path else self.url

    def __enter__(self) -> Mirror:
        lock = self.path.parent / "lock"
        with ExitStack() as on_error:
            with os_errors_as(StorageError, f"{lock} cannot be written"):
                try:
                    self._lock = on_error.enter_context(open_locked(lock))
                except BlockingIOError as error:
                    raise StorageError(f"{self.url} is in use by another process of this machine") from error
            self._open()
            on_error.pop_all()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()
        with self._lock:
            try:
                self._end(keep=error is not None)
            except (StorageError, StorageUnavailable) as failure:
                sentence = f"{failure}; what is not there yet lies in {self.path}"
                if error is None:
                    again = f"r2ac train --resume {self.url} on this machine brings it there"
                    raise type(failure)(f"{sentence}, and {again}") from failure
                self._report(sentence)

    def _open(self) -> None:
        """Take the lease, and bring the folder to what the URL holds."""
        holds_run = self._store.read("config.json") is not None
        self._token, whole, self._sent = self._read_copy()
        self._lease = Lease(self._store, self._token)
        whole = whole and self._lease.was_last()
        # A run that died before it was first copied lies here alone.
        if self._new and (holds_run or (whole and RunDirectory(self.path).config_path.exists())):
            again = f"continue it with --resume {self.url} or choose another --run-dir"
            raise StorageError(f"{self.url} already holds a run; {again}")
        if self._new is False and not whole and not holds_run:
            raise StorageError(f"{self.url} holds no run: there is no config.json")
        # Before the lease says that this copy is the last: it is not yet what the URL holds.
        self._write_copy(whole)
        self._lease.acquire(self._patient)
        if not whole:
            try:
                self._fetch()
                self._write_copy(True)
            except BaseException:
                with suppress(StorageError, StorageUnavailable):
                    self._lease.release()
                raise

    def _fetch(self) -> None:
        """Bring the folder to what the URL holds; a run that it held is kept beside it."""
        if any(self.path.glob("checkpoints/step_*")):
            aside = self.path.with_name(f"{self.path.name}.aside-{datetime.now():%Y%m%d-%H%M%S}")
            self.path.rename(aside)
            self._report(f"{self.url} was written by others since; what this machine had of it lies in {aside}")
        elif self.path.exists():
            shutil.rmtree(self.path)
        self._sent = {}
        for name in wanted(self._store.files(), "all"):
            self._store.get(name, self.path / name)
            # What others write there meanwhile, such as an evaluation, is newer than this.
            self._sent[name] = file_state(self.path / name)

    def _read_copy(self) -> tuple[str, bool, dict[str, str]]:
        """The token of the folder, whether it held all that the URL held when it began to be written, and the states of
        its files that the URL has."""
        try:
            values = json.loads(self._copy_file.read_text(encoding="utf-8"))
            return str(values["token"]), values["whole"] is True, dict(values.get("sent", {}))
        except (OSError, ValueError, KeyError, TypeError):
            return uuid.uuid4().hex, False, {}

    def _write_copy(self, whole: bool) -> None:
        with os_errors_as(StorageError, f"{self._copy_file} cannot be written"):
            write_atomically(self._copy_file, json_text({"token": self._token, "whole": whole, "sent": self._sent}))

    def _work(self) -> None:
        """Copy after each push, and renew the lease between."""
        while True:
            pushed = self._wake.wait(self.renew_seconds)
            if self._ended.is_set():
                return
            try:
                if pushed:
                    self._wake.clear()
                    self._copy()
                else:
                    self._lease.renew()
            except StorageError as error:
                self._lost = error
                return
            except Exception as error:  # whatever it is, the run itself goes on, and so does its copy
                if pushed:
                    self._report(f"{error}; the run goes on in {self.path}, and the next checkpoint tries again")

    def _copy(self) -> None:
        """Bring the URL to what the folder holds: all else before its checkpoint, older checkpoints go after it."""
        self._lease.renew()
        renewed = time.monotonic()
        there = self._store.files()
        for name, state in changed_files(self.path, {name: self._sent.get(name, "") for name in there}).items():
            try:
                self._store.write(name, self.path / name)
            except StorageUnavailable:
                if (self.path / name).exists():
                    raise
                continue  # an old checkpoint, removed meanwhile
            self._sent[name] = state
            if time.monotonic() - renewed > self.renew_seconds:
                self._lease.renew()
                renewed = time.monotonic()
        own = {name for name in {*there, *self._sent} if name.startswith("checkpoints/") and is_checkpoint(name)}
        old = {name for name in own if not (self.path / name).exists()}
        for name in there:
            # Where those that are newer were removed here while they were copied, the URL keeps what it has.
            if (name in old and old < own) or name.endswith(PARTIAL):
                self._store.remove(name)
        with suppress(StorageError):  # what it forgets is sent once more
            self._write_copy(True)

    def _end(self, keep: bool) -> None:
        """Copy all, and release the lease; the folder is removed unless ``keep``."""
        if self._lost is not None:
            raise self._lost
        if began := RunDirectory(self.path).config_path.exists():
            self._copy()
            self._lease.release()
        else:
            self._lease.forget()
        if not (keep and began):
            self._copy_file.unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)

    def _report(self, sentence: str) -> None:
        self._console.print(f"r2ac: {sentence}", markup=False, soft_wrap=True, highlight=False)
