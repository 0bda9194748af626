"""Runs on a node of the cluster: prints a run directory as text into the log of its job, for `r2ac jobs fetch`.

Needs the standard library alone, so that it starts at once.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

BEGIN, END = "r2ac-pack-begin ", "r2ac-pack-end"
_CHUNK = 48 * 1024


class PackError(Exception):
    """A run directory cannot be sent; the message is one sentence."""


def wanted(names: Iterable[str], checkpoints: bool = True) -> list[str]:
    """Of the files of a run (relative paths with slashes) those that another machine has use for: all but locks,
    unfinished files and, in each folder of checkpoints, those before the newest; without ``checkpoints`` none."""
    kept, newest = [], dict[str, str]()
    for name in sorted(names):
        *folders, file = name.split("/")
        if file == "run.lock" or any(part.startswith(".") for part in (*folders, file)):
            continue
        if folders and folders[-1] == "checkpoints" and file.startswith("step_"):
            # The number of steps in the name has leading zeros: the last is the newest.
            newest["/".join(folders)] = name
        else:
            kept.append(name)
    return kept + (list(newest.values()) if checkpoints else [])


def files_of(run: Path) -> list[str]:
    """The regular files below a directory, as relative paths with slashes; links are not followed."""
    found = []
    for folder, _, files in os.walk(run):
        paths = (Path(folder, file) for file in files)
        found += [path.relative_to(run).as_posix() for path in paths if path.is_file() and not path.is_symlink()]
    return found


def pack(run: Path, archive: IO[bytes], limit: int, checkpoints: bool = True) -> dict[str, int]:
    """Write what is `wanted` of a run into ``archive``, a compressed tar; returns the counts of files and of bytes.

    Raises:
        PackError: where there is no run, it cannot be read, or its files are larger than ``limit`` bytes together.
    """
    if not any((run / name).is_file() for name in ("config.json", "suite.json")):
        raise PackError(f"there is no run in {run} on this node")
    total = count = 0
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=6) as tar:
        for name in wanted(files_of(run), checkpoints):
            try:
                total += (run / name).stat().st_size
                if total > limit:
                    raise PackError(f"{run} holds more than {limit / 2**20:,.0f} MiB")
                content = (run / name).read_bytes()
            except FileNotFoundError:
                # The run goes on, and has removed what was too old.
                continue
            except OSError as error:
                raise PackError(f"{run / name} cannot be read: {error.strerror or error}") from error
            count += 1
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return {"files": count, "bytes": total}


def send(run: Path, out: IO[str], limit: int, checkpoints: bool = True) -> None:
    """Print a run as text between two marks; the first says what to expect. Raises PackError."""
    with tempfile.TemporaryFile() as archive:
        counts = pack(run, archive, limit, checkpoints)
        archive.seek(0)
        digest = hashlib.sha256()
        while chunk := archive.read(_CHUNK):
            digest.update(chunk)
        out.write(f"{BEGIN}{json.dumps({**counts, 'packed': archive.tell(), 'sha256': digest.hexdigest()})}\n")
        archive.seek(0)
        while chunk := archive.read(_CHUNK):
            out.write(base64.b64encode(chunk).decode("ascii") + "\n")
        out.write(f"{END}\n")


def main(arguments: list[str]) -> int:
    """``python -m r2ac.launch.cluster.jobs.pack LIMIT-IN-BYTES all|no-checkpoints RUN``."""
    limit, choice, run = arguments
    try:
        send(Path(run), sys.stdout, int(limit), choice == "all")
    except PackError as error:
        print(f"r2ac: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
