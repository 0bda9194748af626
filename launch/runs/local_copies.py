"""Runs at URLs, for the commands that read runs: they read a copy on this machine, and what they write goes back."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console

from r2ac.launch.runs.lease import LEASE_FILE
from r2ac.launch.runs.run_directory import json_text, write_atomically
from r2ac.launch.runs.storage import PARTIAL, StorageError, Store, cache_folder, is_url
from r2ac.launch.runtime.errors import os_reason
from r2ac.launch.settings.config import ConfigError

READING = ("evaluate", "plot", "watch", "inspect", "report", "train", "envs")
"""The commands that read runs."""
_OUTPUTS = ("--output", "--memory-output")
# Addresses of clusters are no runs, and a training has its own way with its run.
_LEFT = ("--ray-address", "--run-dir", "--resume")
_CHECKPOINT = ".safetensors"


@contextmanager
def local_copies(words: Sequence[str], console: Console) -> Iterator[list[str]]:
    """The words of a command line with the path of a copy in place of the URL of each run that is read.

    Raises:
        ConfigError: for an output at a URL.
        StorageError, StorageUnavailable, MissingPackage: where a URL cannot be read, or what was written there cannot
            be brought back.
    """
    local, copies, flag = list(words), list[_Copy](), ""
    for index, word in enumerate(words if words[0] in READING else []):
        if word.startswith("--"):
            flag = word.partition("=")[0]
        value = word.partition("=")[2] if word.startswith("--") else word
        if not is_url(value) or flag in _LEFT:
            continue
        if flag in _OUTPUTS:
            raise ConfigError(f"{flag} is {value}, but it must be a path of this machine")
        copies.append(_Copy.of(value))
        with console.status(f"fetching {value}"):
            path = copies[-1].fetch(words[0])
        local[index] = word.replace(value, str(path))
    with ExitStack() as stack:
        for copy in copies:
            stack.callback(copy.bring_back, console)
        yield local


@dataclass(frozen=True)
class _Copy:
    """What is at a URL, on this machine. A manifest says of each file what it was, there and here, when it was copied.

    What has changed there since is fetched again. What has changed here alone, written by a command, goes back.
    """

    store: Store
    folder: Path
    """Holds the copy, under the name that it has at the URL, and the manifest."""
    checkpoint: str | None
    """The name of the only checkpoint that is asked for; None for those that the command needs."""

    @staticmethod
    def of(url: str) -> _Copy:
        """The copy of a run, of a folder that holds runs, or of the run that a checkpoint is of."""
        parts = PurePosixPath(url.partition("://")[2])
        if parts.suffix != _CHECKPOINT:
            return _Copy(Store(url), cache_folder("reading", url), None)
        up = 2 if parts.parent.name == "checkpoints" else 1
        run = url.rstrip("/").rsplit("/", up)[0]
        return _Copy(Store(run), cache_folder("reading", run), "/".join(parts.parts[-up:]))

    @property
    def path(self) -> Path:
        """Of the run or the folder of runs."""
        return self.folder / self.store.name

    def fetch(self, command: str) -> Path:
        """Bring the copy to what the URL holds; returns the path of what was asked for."""
        with self._locked() as manifest:
            there = self.store.files()
            if not there:
                raise StorageError(f"{self.store.url} does not exist, or holds no file")
            for name in _needed(there, command, self.checkpoint):
                known = manifest.get(name)
                if known is None or known[0] != there[name] or not (self.path / name).exists():
                    self.store.get(name, self.path / name)
                    manifest[name] = (there[name], _state(self.path / name))
            for name in set(manifest) - set(there):
                # Removed there, such as a checkpoint that newer ones have replaced.
                (self.path / name).unlink(missing_ok=True)
                del manifest[name]
        return self.path if self.checkpoint is None else self.path / self.checkpoint

    def bring_back(self, console: Console) -> None:
        """Copy to the URL what was written here since it was fetched."""
        with self._locked() as manifest:
            files = [path for path in self.path.rglob("*") if path.is_file() and not path.name.startswith(".")]
            changed = {}
            for path in sorted(files):
                name, state = path.relative_to(self.path).as_posix(), _state(path)
                if name not in manifest or manifest[name][1] != state:
                    changed[name] = state
            for name in changed:
                self.store.put(self.path / name, name)
            there = self.store.files() if changed else {}
            manifest.update({name: (there.get(name, ""), state) for name, state in changed.items()})
        if changed:
            console.print(f"written to {self.store.url}: {', '.join(changed)}", markup=False, soft_wrap=True)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, tuple[str, str]]]:
        """The manifest, name -> (mark there, state here), while no other process changes the copy; then it is kept."""
        file = self.folder / "manifest.json"
        try:
            with open(self.folder / "lock", "a", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                manifest: dict[str, tuple[str, str]] = {}
                with suppress(FileNotFoundError, ValueError, TypeError):
                    for name, (mark, state) in json.loads(file.read_text(encoding="utf-8")).items():
                        manifest[name] = (mark, state)
                try:
                    yield manifest
                finally:
                    write_atomically(file, json_text(manifest))
        except OSError as error:
            raise StorageError(f"{self.folder} cannot hold a copy of {self.store.url}: {os_reason(error)}") from error


def _needed(there: Sequence[str] | dict[str, str], command: str, checkpoint: str | None) -> list[str]:
    """The names of what a command reads; of the checkpoints of each folder the newest, all, or none."""
    checkpoints: dict[str, list[str]] = {}
    needed = []
    for name in there:
        if name.endswith(_CHECKPOINT):
            checkpoints.setdefault(name.rpartition("/")[0], []).append(name)
        elif not name.endswith(PARTIAL) and PurePosixPath(name).name != LEASE_FILE:
            needed.append(name)
    if checkpoint is not None:
        if checkpoint not in there:
            raise StorageError(f"there is no checkpoint {checkpoint} in the run")
        return [*needed, checkpoint]
    if command == "inspect":
        return [*needed, *(name for names in checkpoints.values() for name in names)]
    # The names of checkpoints sort by their steps.
    return needed if command == "plot" else [*needed, *(max(names) for names in checkpoints.values())]


def _state(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
