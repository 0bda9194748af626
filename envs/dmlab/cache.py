"""Compiled maps on disk, shared by all engines that name the same folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path


class LevelCache:
    """DeepMind Lab fetches a map from it, or compiles the map and writes it there. The folder is made if need be.

    Entries appear by renaming, whole or not at all, so that engines on several machines can share the folder. A broken
    archive (a machine crashed) is removed and compiled anew. Errors of the disk do not reach the engine, where they
    would end the episode: the map is compiled instead.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Puts the map of `key` at `pk3_path`; False where there is none."""
        entry = self._entry(key)
        try:
            if not entry.exists():
                return False
            _copy_whole(entry, Path(pk3_path))
            if zipfile.is_zipfile(pk3_path):
                return True
            # The engine would add to a broken archive that it finds in the map's place.
            Path(pk3_path).unlink()
            entry.unlink(missing_ok=True)
        except OSError as error:
            _report(error)
        return False

    def write(self, key: str, pk3_path: str) -> None:
        """Keeps the map at `pk3_path` as that of `key`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _copy_whole(Path(pk3_path), self._entry(key))
        except OSError as error:
            _report(error)

    def _entry(self, key: str) -> Path:
        # The engine's keys hold names that levels choose: only their digest is safe to be a file's name.
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.pk3"


def _copy_whole(source: Path, target: Path) -> None:
    """Copies a file so that `target` never holds a part of it."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with source.open("rb") as reader, os.fdopen(descriptor, "wb") as writer:
            shutil.copyfileobj(reader, writer)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _report(error: OSError) -> None:
    print(f"level cache: {error}", file=sys.stderr, flush=True)
