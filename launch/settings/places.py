"""Words that name a place: a path of this machine, or a URL."""

from __future__ import annotations

import re
from pathlib import Path

from r2ac.launch.settings.config import ConfigError

HUB = "hf://"
"""How the URLs of repositories of the Hugging Face Hub begin."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(text: str) -> bool:
    """Whether ``text`` names a place of a store, and no path of this machine."""
    return _URL.match(text) is not None


def local_path(word: str) -> Path:
    """A path of this machine; ``~`` is the home directory, also where no shell has put it in (``--output=~/x``).
    Raises ConfigError for the home directory of a user who has none."""
    try:
        return Path(word).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{word!r} begins with the home directory of a user who has none here") from error


def local_place(word: str) -> str:
    """The same, and a URL as it is."""
    return word if is_url(word) else str(local_path(word))
