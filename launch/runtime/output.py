"""Standard output and standard error that never end or fail a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console

from r2ac.launch.runtime.errors import os_reason


class SafeStream:
    """A text stream whose writes raise nothing: characters that it cannot encode are replaced by "?", and once the
    other end is gone, the disk is full or the terminal is closed, what is written goes nowhere; so it does where there
    is no ``stream``, as `sys.stdout` is None where it was closed before the start."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115 (as long as the process)
        self.failure: OSError | None = None  # why nothing is written any more

    def __getattr__(self, name: str) -> Any:
        """All else is that of the stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._fence():
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._fence():
            self._stream.flush()

    @contextmanager
    def _fence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            with suppress(OSError, ValueError):
                # What is left in buffers must not fail again when Python ends.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        except ValueError as error:  # a closed stream
            self.failure = self.failure or OSError(str(error))


def reader_is_gone() -> bool:
    """Whether the reader of standard output is gone."""
    return isinstance(getattr(sys.stdout, "failure", None), BrokenPipeError)


@contextmanager
def safe_output() -> Iterator[None]:
    """Within this context `sys.stdout` and `sys.stderr` are a :class:`SafeStream` each. At its end standard error says
    why standard output was lost, unless its reader, such as `head`, had read enough."""
    before = sys.stdout, sys.stderr
    output, errors = SafeStream(sys.stdout), SafeStream(sys.stderr)
    sys.stdout, sys.stderr = output, errors
    try:
        yield
        output.flush()
        if output.failure is not None and not isinstance(output.failure, BrokenPipeError):
            errors.write(f"r2ac: standard output was lost: {os_reason(output.failure)}\n")
        errors.flush()
    finally:
        sys.stdout, sys.stderr = before


def print_failures(sentences: Iterable[str]) -> None:
    """Print each sentence once, on standard error, in the form of every error of the command line."""
    errors = Console(stderr=True, highlight=False, emoji=False)
    for sentence in dict.fromkeys(sentences):
        errors.print(f"r2ac: {sentence}", markup=False, soft_wrap=True)
