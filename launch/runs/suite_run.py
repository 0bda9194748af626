"""A directory of runs, one for each task of a list."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from r2ac.envs import Task
from r2ac.launch.runs.run_directory import json_text, write_atomically
from r2ac.launch.runs.storage import Store
from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as
from r2ac.launch.settings.places import is_url

_NAME = "suite.json"


@dataclass(frozen=True)
class SuiteRun:
    """What ``suite.json`` in such a directory says: which tasks, and with which flags."""

    place: str
    """The directory: its path, or its URL."""
    names: str
    """The tasks, as `find_tasks` reads them."""
    flags: tuple[str, ...]
    """What the command line said beside the tasks and the directory."""

    @staticmethod
    def read(place: Path | str) -> SuiteRun | None:
        """As it was written at a path or a URL; None where there is none. Raises RunDirectoryError if damaged."""
        place, file = str(place), Path(place) / _NAME
        with os_errors_as(RunDirectoryError, f"{file} cannot be read"):
            text = Store(place).read(_NAME) if is_url(place) else file.read_bytes() if file.is_file() else None
        try:
            values = None if text is None else json.loads(text)
            return values and SuiteRun(place, str(values["tasks"]), tuple(map(str, values["flags"])))
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{file} is damaged: {error}") from error

    def write(self) -> None:
        """Raises RunDirectoryError where it cannot be written, or StorageUnavailable."""
        text = json_text({"tasks": self.names, "flags": self.flags})
        if is_url(self.place):
            return Store(self.place).write(_NAME, text.encode())
        with os_errors_as(RunDirectoryError, f"{self.place} cannot hold runs"):
            Path(self.place).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(self.place) / _NAME, text)

    def place_of(self, task: Task) -> str:
        """Where the run of a task lies: a path or a URL."""
        return f"{self.place.rstrip('/')}/{task.name.replace('/', '-')}"
