"""What a command says of runs that it leaves out: each in one sentence, while the others are shown."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console


def tell_failures(sentences: Iterable[str]) -> None:
    """Each sentence, once, on standard error, in the form of every error of the command line."""
    errors = Console(stderr=True, highlight=False)
    for sentence in dict.fromkeys(sentences):
        errors.print(f"r2ac: {sentence}", markup=False, soft_wrap=True)
