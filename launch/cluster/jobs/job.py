"""A job as its cluster describes it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

NAME, TASK, RUN_DIRECTORY = "job_name", "r2ac_task", "r2ac_run_directory"
CONFIG, PYTHON = "r2ac_config", "r2ac_python"
"""Keys of what `r2ac submit` writes into a job's metadata."""
SENDER = "fetch"
"""What stands in the place of a task in the ids of the small jobs that send a run to `r2ac jobs fetch`."""
_ID = re.compile(r"r2ac-[a-z0-9-]+-\d{8}-\d{6}-[0-9a-f]{6}")


def new_job_id(task: str) -> str:
    """``r2ac-<task>-<YYYYmmdd-HHMMSS>-<6 hex digits>`` in local time, of lower-case letters, digits and dashes."""
    words = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40].strip("-") or "job"
    return f"r2ac-{words}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def is_job_id(word: str) -> bool:
    """Whether a word has the form that `new_job_id` gives, and no other program."""
    return _ID.fullmatch(word) is not None


def is_sender_id(word: str) -> bool:
    """Whether it is the id of a job that sends a run."""
    return word.startswith(f"r2ac-{SENDER}-") and is_job_id(word)


@dataclass(frozen=True)
class Job:
    """One job of a cluster, made by `r2ac submit` or by another program."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    metadata: Mapping[str, str]
    message: str
    started: datetime | None
    ended: datetime | None
    driver_exit_code: int | None
    """Of its command, where that has ended by itself; below 0 where a signal ended it."""
    node: str | None
    """Address of the node that runs its command."""

    @property
    def name(self) -> str:
        """What --job-name said; empty where nothing did."""
        return self.metadata.get(NAME, "")

    @property
    def task(self) -> str:
        """What is trained; empty for a job of another program."""
        return self.metadata.get(TASK, "")

    @property
    def run_directory(self) -> str | None:
        """As seen from the node: an absolute path, one below ``~/``, or a URL; None for a job of another program."""
        return self.metadata.get(RUN_DIRECTORY)

    @property
    def config(self) -> dict[str, Any] | None:
        """The settings as `TrainConfig.to_json` wrote them, where one agent is trained with settings known here."""
        try:
            config = json.loads(self.metadata.get(CONFIG, "null"))
        except ValueError:
            return None
        return config if isinstance(config, dict) else None

    @property
    def has_ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_code(self) -> int:
        """Of a job that has ended: 0 for success, 143 where it was stopped, else that of its command, or 1."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return 143
        code = self.driver_exit_code or 1
        return 128 - code if code < 0 else code

    @property
    def seconds(self) -> float | None:
        """From its start to its end, or to now."""
        if self.started is None:
            return None
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds()
