"""The folders of DeepMind Lab processes: made in the system's folder for temporary files, and removed from there."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

_PREFIX, _OUTPUT = "r2ac-dmlab-", "output.txt"


def make_folder() -> tuple[Path, BinaryIO]:
    """A new folder, and the file in it for a process's output, locked as long as it is open in any process."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    output = (folder / "starting").open("ab")
    fcntl.flock(output, fcntl.LOCK_EX)
    (folder / "starting").rename(folder / _OUTPUT)
    return folder, output


def last_lines(folder: Path) -> str:
    """The end of what the folder's process has printed, or the engine's failed check above a stack; else nothing."""
    with contextlib.suppress(OSError):
        lines = (folder / _OUTPUT).read_text(errors="replace").strip().splitlines()
        checks = [line for line in lines if "Check failed" in line]
        return " / ".join(line.strip() for line in checks[-1:] or lines[-3:])[-500:]
    return ""


def remove_folder(folder: Path) -> None:
    """Removes a folder that `make_folder` has made, known by its name."""
    if folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_folders() -> None:
    """Removes the folders of processes that were killed together with their parents, as by Ray."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _OUTPUT).open("rb") as output:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_folder(folder)
