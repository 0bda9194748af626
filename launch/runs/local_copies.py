"""Runs at URLs, for the commands that read runs: they read a copy on this machine, and what they write goes back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console

from r2ac.launch.runs.run_directory import json_text, open_locked, write_atomically
from r2ac.launch.runs.run_files import changed_files, file_state, wanted
from r2ac.launch.runs.storage import StorageError, Store, cache_folder
from r2ac.launch.runtime.errors import os_errors_as
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.places import is_url

READING = ("evaluate", "plot", "watch", "inspect", "report", "train", "envs")
"""The commands that read runs."""
_OUTPUTS = ("--output", "--memory-output")
# Addresses of clusters are no runs, and a training has its own way with its run.
_LEFT = ("--ray-address", "--run-dir", "--resume")
_CHECKPOINT = ".safetensors"


@contextmanager
def local_copies(words: Sequence[str], console: Console) -> Iterator[list[str]]:
    """The words of a command line with the path of a copy in place of the URL of each run that is read. What is
    written to the copy goes back at the end. Raises ConfigError for an output at a URL, StorageError,
    StorageUnavailable, MissingPackage."""
    local, flag = list(words), ""
    with ExitStack() as at_the_end:
        for index, word in enumerate(words if words[0] in READING else []):
            value = word
            if word.startswith("--"):
                flag, _, value = word.partition("=")
            if not is_url(value) or flag in _LEFT:
                continue
            if flag in _OUTPUTS:
                raise ConfigError(f"{flag} is {value}, but it must be a path of this machine")
            copy = _Copy.of(value)
            with console.status(f"fetching {value}"):
                local[index] = word.replace(value, str(copy.fetch(words[0])))
            at_the_end.callback(copy.bring_back, console)
        yield local


@dataclass(frozen=True)
class _Copy:
    """What is at a URL, on this machine. A manifest has the state of each file, there and here, when it was copied:
    what has changed there is fetched again, what has changed here alone goes back."""

    store: Store
    folder: Path
    """Holds the copy, under the name that it has at the URL, and the manifest."""
    checkpoint: str | None
    """The name of the only checkpoint that is asked for; None for those that the command needs."""

    @staticmethod
    def of(url: str) -> _Copy:
        """The copy of a run, of a folder that holds runs, or of the run that a checkpoint is of."""
        run, checkpoint = url.rstrip("/"), None
        if run.endswith(_CHECKPOINT):
            up = 2 if PurePosixPath(run).parent.name == "checkpoints" else 1
            run, *parts = run.rsplit("/", up)
            checkpoint = "/".join(parts)
        return _Copy(Store(run), cache_folder("reading", run), checkpoint)

    @property
    def path(self) -> Path:
        return self.folder / self.store.name

    def fetch(self, command: str) -> Path:
        """Bring the copy to what the URL holds; returns the path of the run or checkpoint in it."""
        with self._locked() as manifest:
            there = self.store.files()
            if not there:
                raise StorageError(f"{self.store.url} does not exist, or holds no file")
            for name in self._needed(list(there), command):
                known = manifest.get(name)
                if known is None or known[0] != there[name] or not (self.path / name).exists():
                    self.store.get(name, self.path / name)
                    manifest[name] = (there[name], file_state(self.path / name))
            for name in set(manifest) - set(there):
                # Removed there, such as a checkpoint that newer ones have replaced.
                (self.path / name).unlink(missing_ok=True)
                del manifest[name]
        return self.path / (self.checkpoint or "")

    def bring_back(self, console: Console) -> None:
        """Copy to the URL what was written here since it was fetched."""
        with self._locked() as manifest:
            changed = changed_files(self.path, {name: here for name, (_, here) in manifest.items()})
            for name in changed:
                self.store.write(name, self.path / name)
            there = self.store.files() if changed else {}
            manifest.update({name: (there.get(name, ""), here) for name, here in changed.items()})
        if changed:
            console.print(f"written to {self.store.url}: {', '.join(changed)}", markup=False, soft_wrap=True)

    def _needed(self, there: list[str], command: str) -> list[str]:
        """The names of what a command reads."""
        if self.checkpoint is None:
            return wanted(there, "all" if command == "inspect" else "none" if command == "plot" else "newest")
        if self.checkpoint not in there:
            raise StorageError(f"there is no checkpoint {self.checkpoint} in the run")
        return [name for name in wanted(there, "none") if not name.endswith(_CHECKPOINT)] + [self.checkpoint]

    @contextmanager
    def _locked(self) -> Iterator[dict[str, tuple[str, str]]]:
        """The manifest, name -> (mark there, state here), while no other process changes the copy; then it is kept."""
        file, manifest = self.folder / "manifest.json", dict[str, tuple[str, str]]()
        sentence = f"{self.folder} cannot hold a copy of {self.store.url}"
        with os_errors_as(StorageError, sentence), open_locked(self.folder / "lock", wait=True):
            with suppress(FileNotFoundError, ValueError, TypeError):
                for name, (there, here) in json.loads(file.read_text(encoding="utf-8")).items():
                    manifest[name] = (there, here)
            try:
                yield manifest
            finally:
                write_atomically(file, json_text(manifest))
