"""Runs on a node of the cluster: prints a run directory as text into the log of its job, for `r2ac jobs fetch`. Imports
the standard library alone, so that it starts at once."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from r2ac.launch.runs.run_files import OF_A_RUN, Choice, files_below, wanted

BEGIN, END = "r2ac-pack-begin ", "r2ac-pack-end"
_CHUNK = 48 * 1024


class PackError(Exception):
    """A run directory cannot be sent; the message is one sentence."""


def send(run: Path, out: IO[str], limit: int, checkpoints: Choice) -> None:
    """Print the `wanted` files of a run, a compressed tar, as text between two marks; the first has the checksum.
    Raises PackError where there is no run, it cannot be read, or it has more than ``limit`` bytes."""
    if not any((run / name).is_file() for name in OF_A_RUN):
        raise PackError(f"there is no run in {run} on this node")
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=6) as tar:
            total = 0
            for name in wanted(files_below(run), checkpoints):
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
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        archive.seek(0)
        out.write(f"{BEGIN}{json.dumps({'sha256': hashlib.file_digest(archive, 'sha256').hexdigest()})}\n")
        archive.seek(0)
        while chunk := archive.read(_CHUNK):
            out.write(base64.b64encode(chunk).decode("ascii") + "\n")
        out.write(f"{END}\n")


def main(limit: str, checkpoints: Choice, run: str) -> int:
    """``python -m r2ac.launch.cluster.jobs.pack LIMIT-IN-BYTES newest|none RUN``."""
    try:
        send(Path(run), sys.stdout, int(limit), checkpoints)
    except PackError as error:
        print(f"r2ac: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]
