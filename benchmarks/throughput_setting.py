"""What all methods of the throughput benchmark are measured with, and how they say it to one another's processes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import IO, Any, get_type_hints


@dataclass(frozen=True)
class Setting:
    """The same task, network and sizes for every method."""

    task: str
    actors: int
    """Rollout actors; environment runners of RLlib; processes of the bare environment."""
    streams: int
    """Environments of each of them."""
    batch: int
    """B."""
    length: int
    """T."""
    encoder: str
    hidden: int
    """Units of the recurrent core."""
    features: int
    """Features that the encoder hands to the core."""
    device: str
    """Of the learner."""
    threads: int
    """Cores that a method may use."""
    seconds: float
    """How long a method is measured, after its start."""

    def flags(self) -> list[str]:
        """The command line from which :func:`read_setting` reads the same setting."""
        return [word for name, value in asdict(self).items() for word in (f"--{name}", str(value))]


def read_setting(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> tuple[Setting, Any]:
    """The setting that the command line says, and what else ``parser`` was told to read."""
    hints = get_type_hints(Setting)
    for field in fields(Setting):
        parser.add_argument(f"--{field.name}", type=hints[field.name], required=True)
    options = parser.parse_args(arguments)
    return Setting(**{field.name: getattr(options, field.name) for field in fields(Setting)}), options


class MethodFailed(RuntimeError):
    """A method that gave no figures; the message is one sentence."""


def start_group(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process as the head of a process group of its own, all that it prints in ``log``."""
    return subprocess.Popen(list(command), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def stop_group(process: subprocess.Popen[bytes], patience: float = 30) -> None:
    """Ask the head of a group to end, wait ``patience`` seconds for it, and end whatever of the group is left."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_json(command: Sequence[str], log: IO[bytes], timeout: float) -> dict[str, Any]:
    """What a script says in its last line, a JSON object.

    Raises:
        MethodFailed: if it takes longer than ``timeout`` seconds, fails or says something else.
    """
    process = start_group(command, log)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise MethodFailed(f"did not end within {timeout:.0f} s") from None
    finally:
        stop_group(process)
    last = last_line(log)
    if code != 0:
        raise MethodFailed(f"ended with exit code {code}: {last}")
    try:
        said = json.loads(last)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise MethodFailed(f"said {last!r} where its figures were expected")
    return said


def last_line(log: IO[bytes]) -> str:
    """The last line in a file that is not empty; an empty string where there is none."""
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
