"""What goes wrong with a run, in one sentence that a user can act on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RunError(ValueError):
    """A command cannot do what it was asked; the message is one sentence that says why and what is allowed."""


class RunDirectoryError(RunError):
    """A run directory is missing, taken, in use, unwritable or damaged."""


class RunUnwritable(RuntimeError):
    """The run directory takes no more: the disk is full, or was taken away."""


class LearnersLost(RuntimeError):
    """One of several learners is gone; the message is one sentence."""


def last_line(error: BaseException) -> str:
    """What an error of Ray says at its end: it brings along the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)


def os_reason(error: OSError) -> str:
    """Why the file system refused, without the path: ``No space left on device``."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        # What mkdir says of a regular file in its way, File exists, misleads.
        return "a file stands where a folder should be"
    return error.strerror or str(error)


@contextmanager
def os_errors_as(kind: type[Exception], sentence: str) -> Iterator[None]:
    """An error of the file system within this context is raised as one of ``kind``: the sentence and the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{sentence}: {os_reason(error)}") from error


def with_details_kept(error: Exception, folder: Path | None = None) -> str:
    """What an error says, with the path of the traceback of an environment's error, which is written into ``folder``,
    or a temporary one."""
    # Not before there is an error: all commands import this module, also those that need no environment.
    from r2ac.envs import EnvironmentFailed

    if not isinstance(error, EnvironmentFailed) or not error.details:
        return str(error)
    try:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="r2ac-"))
        path = folder / "environment-error.txt"
        path.write_text(error.details, encoding="utf-8")
    except OSError:
        return str(error)
    return f"{error} (its traceback is in {path})"
