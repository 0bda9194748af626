"""Which files of a run travel: to a URL, from there, and from a node of a cluster. Needs the standard library alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

LEASE_FILE = "writer.json"
"""At a URL: who writes the run there."""
OF_A_RUN = ("config.json", "suite.json")
"""One of them lies in the directory of each run, or list of runs."""
Choice = Literal["all", "newest", "none"]
"""Of the checkpoints of each folder."""
_CHECKPOINT = re.compile(r"(.*/)?checkpoints/step_\d+\.safetensors")
_SHARED = re.compile(r"(?!(.*/)?(profile|wandb)/).*\.(json|jsonl|md|safetensors|png|svg|gif|mp4)", re.DOTALL)
# Locks, and hidden (unfinished) files.
_STAYS = re.compile(rf"(.*/)?(run\.lock|{re.escape(LEASE_FILE)}|\..*)", re.DOTALL)


def is_checkpoint(name: str) -> bool:
    """Whether a file, by its path relative to a run or to a folder of runs, is a checkpoint."""
    return _CHECKPOINT.fullmatch(name) is not None


def wanted(names: Iterable[str], checkpoints: Choice = "newest") -> list[str]:
    """Of the files of a run (relative paths with slashes) those that another machine has use for: all but locks and
    hidden (unfinished) files. The checkpoints come last, the newest first: all, the newest of each folder, or none."""
    travelling = [name for name in sorted(names) if not _STAYS.fullmatch(name)]
    # The number of steps in the name has leading zeros: the last is the newest.
    kept = [name for name in travelling if is_checkpoint(name) and checkpoints != "none"]
    if checkpoints == "newest":
        kept = list({name.rpartition("/")[0]: name for name in kept}.values())
    return [name for name in travelling if not is_checkpoint(name)] + kept[::-1]


def shared(names: Iterable[str]) -> list[str]:
    """Of the files of a run those that strangers share: numbers, pages, pictures, films and weights. None of them is a
    program, and TensorBoard's events, whose names have the machine's, are not among them."""
    return [name for name in names if _SHARED.fullmatch(name)]


def files_below(folder: Path) -> list[str]:
    """The regular files below a directory, as relative paths with slashes; links are not followed."""
    paths = [Path(parent, file) for parent, _, files in os.walk(folder) for file in files]
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file() and not path.is_symlink()]


def changed_files(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The files below ``folder`` that travel and are not in the state that ``known`` has of them: name -> state."""
    states = {name: file_state(folder / name) for name in wanted(files_below(folder), "all")}
    return {name: state for name, state in states.items() if state and state != known.get(name)}


def file_state(path: Path) -> str:
    """Size and time of a file, which differ after each change; empty where there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"
