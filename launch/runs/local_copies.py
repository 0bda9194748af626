"""Runs at URLs, for the commands that read runs: they read a copy on this machine, and what they write goes back."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from rich.console import Console

from r2ac.launch.runs.run_directory import json_text, open_locked, write_atomically
from r2ac.launch.runs.run_files import changed_files, file_state, shared, wanted
from r2ac.launch.runs.storage import StorageError, Store, cache_folder
from r2ac.launch.runtime.errors import os_errors_as
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.places import HUB, is_url

READING = ("evaluate", "plot", "watch", "inspect", "report", "export", "train", "envs")
"""The commands that read runs."""
_OUTPUTS = ("--output", "--memory-output", "--onnx", "--torch")
# Addresses of clusters are no runs, and a training has its own way with its run.
_LEFT = ("--ray-address", "--run-dir", "--resume")
_CHECKPOINT = ".safetensors"


@contextmanager
def local_copies(words: Sequence[str], console: Console) -> Iterator[list[str]]:
    """The words of a command line with the path of a copy in place of the URL of each run that is read. What is
    written to the copy goes back at the end. Raises ConfigError for an output at a URL, StorageError,
    StorageUnavailable, MissingPackage."""
    local, flag = list(words), ""
    with ExitStack() as copies:
        for index, word in enumerate(words if words[0] in READING else []):
            value = word
            if word.startswith("--"):
                flag, _, value = word.partition("=")
            if not is_url(value) or flag in _LEFT:
                continue
            if flag in _OUTPUTS:
                raise ConfigError(f"{flag} is {value}, but it must be a path of this machine")
            with console.status(f"fetching {value}"):
                path = copies.enter_context(_local_copy(value, words[0], console))
            local[index] = word.replace(value, str(path))
        yield local


@contextmanager
def _local_copy(url: str, command: str, console: Console) -> Iterator[Path]:
    """The path of a copy of a run, of a folder that holds runs, or of a checkpoint with its run. What has changed at
    the URL is fetched again; what has changed here within this context goes back, but not to the hub."""
    run, checkpoint = url.rstrip("/"), ""
    if run.endswith(_CHECKPOINT):
        up = 2 if PurePosixPath(run).parent.name == "checkpoints" else 1
        run, *parts = run.rsplit("/", up)
        checkpoint = "/".join(parts)
    if url.startswith(HUB) and "/" not in url.removeprefix(HUB).strip("/"):
        raise StorageError(f"{url} is no repository of the hub, which has the form {HUB}USER/NAME")
    store, folder = Store(run), cache_folder("reading", run)
    path = folder / store.name
    with _manifest(folder, run) as manifest:
        there = store.files()
        if run.startswith(HUB):
            there = {name: there[name] for name in shared(there)}
        if not there:
            raise StorageError(f"{run} does not exist, or holds no file")
        for name in _needed(there, command, checkpoint):
            known = manifest.get(name)
            if known is None or known[0] != there[name] or not (path / name).exists():
                store.get(name, path / name)
                manifest[name] = (there[name], file_state(path / name))
        for name in set(manifest) - set(there):
            # Removed there, such as a checkpoint that newer ones have replaced.
            (path / name).unlink(missing_ok=True)
            del manifest[name]
    try:
        yield path / checkpoint
    finally:
        with _manifest(folder, run) as manifest:
            changed = changed_files(path, {name: here for name, (_, here) in manifest.items()})
            if not run.startswith(HUB):
                there = store.files() if changed else {}
                for name in changed:
                    if name.endswith(".json") and there.get(name, "") not in ("", manifest.get(name, ("", ""))[0]):
                        _keep_aside(store, name, console)
                    store.write(name, path / name)
                there = store.files() if changed else {}
                manifest.update({name: (there.get(name, ""), here) for name, here in changed.items()})
        if changed:
            # A repository may be somebody else's, and its card says what is in it.
            where = f"{path} (r2ac push brings it to a repository)" if run.startswith(HUB) else run
            console.print(f"written to {where}: {', '.join(changed)}", markup=False, soft_wrap=True)


def _keep_aside(store: Store, name: str, console: Console) -> None:
    """What another process has written since the file was fetched, such as an evaluation, under another name."""
    kept = name.removesuffix(".json") + f"-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.json"
    if (written := store.read(name)) is None:
        return
    store.write(kept, written)
    sentence = f"{store.url}/{name} was written by another process meanwhile: {kept} keeps what that wrote"
    console.print(f"r2ac: {sentence}", markup=False, soft_wrap=True)


def _needed(there: Collection[str], command: str, checkpoint: str) -> list[str]:
    """The names of what a command reads; of the checkpoints only the given one, if any."""
    if not checkpoint:
        return wanted(there, "all" if command == "inspect" else "none" if command == "plot" else "newest")
    if checkpoint not in there:
        raise StorageError(f"there is no checkpoint {checkpoint} in the run")
    return [name for name in wanted(there, "none") if not name.endswith(_CHECKPOINT)] + [checkpoint]


@contextmanager
def _manifest(folder: Path, url: str) -> Iterator[dict[str, tuple[str, str]]]:
    """The state of each file when it was copied, name -> (mark there, state here), while no other process changes the
    copy; then it is kept."""
    file, manifest = folder / "manifest.json", dict[str, tuple[str, str]]()
    sentence = f"{folder} cannot hold a copy of {url}"
    with os_errors_as(StorageError, sentence), open_locked(folder / "lock", wait=True):
        with suppress(FileNotFoundError, ValueError, TypeError):
            for name, (there, here) in json.loads(file.read_text(encoding="utf-8")).items():
                manifest[name] = (there, here)
        try:
            yield manifest
        finally:
            write_atomically(file, json_text(manifest))
