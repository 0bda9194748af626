"""The measurements of a run: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from numbers import Integral
from pathlib import Path
from typing import Any

from r2ac.launch.runs.run_directory import RunDirectory, write_atomically
from r2ac.launch.runs.tensorboard import EventWriter
from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as


class MetricsWriter:
    """Appends the measurements of a run to ``metrics.jsonl`` and to TensorBoard events in the run directory.

    ``resume_from_step`` is None for a new run and the ``env_steps`` of the checkpoint for a resumed one: lines beyond
    it are removed, and TensorBoard hides them, as they will be measured again. All methods raise RunDirectoryError
    where the file system takes no more; the first also where the metrics of a resumed run are damaged.
    """

    def __init__(self, run: RunDirectory, resume_from_step: int | None) -> None:
        purge_step = None
        self._unwritable = f"{run.metrics_path} cannot be written"
        with os_errors_as(RunDirectoryError, self._unwritable):
            if resume_from_step is not None:
                _remove_lines_beyond(run.metrics_path, resume_from_step)
                # TensorBoard hides the steps from purge_step on; the checkpoint's own step stays.
                purge_step = resume_from_step + 1
            self._file = open(run.metrics_path, "a", encoding="utf-8")  # noqa: SIM115 (open until close)
        self.events = EventWriter(run.path, purge_step)
        """What TensorBoard shows beside these measurements is written to it."""

    def write(self, env_steps: int, env_frames: int, wall_time: float, values: Mapping[str, float]) -> None:
        """One line, flushed: steps, frames, seconds since the run began (cumulative over resumes) and ``values``.

        NaN and infinity are null in the line (JSON has neither); TensorBoard gets them as they are, over ``env_steps``.
        """
        row = {"env_steps": int(env_steps), "env_frames": int(env_frames), "wall_time": round(float(wall_time), 3)}
        measured = {name: _json_number(value) for name, value in values.items()}
        with os_errors_as(RunDirectoryError, self._unwritable):
            self._file.write(json.dumps(row | measured, allow_nan=False) + "\n")
            self._file.flush()
        self.events.write(int(env_steps), values)

    def close(self) -> None:
        """Closes both files; a second call does nothing."""
        try:
            with os_errors_as(RunDirectoryError, self._unwritable):
                self._file.close()
        finally:
            self.events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # An error that is under way says what is wrong.
        with nullcontext() if error is None else suppress(RunDirectoryError):
            self.close()


class NothingMeasured(RunDirectoryError):
    """A run has no lines of metrics: it has only begun."""


def read_metrics(run_path: Path | str) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` in a run directory, in order, without a torn last one; null is None. Raises
    NothingMeasured where the file is missing or holds no whole line, RunDirectoryError where it is damaged."""
    path = RunDirectory(Path(run_path)).metrics_path
    with os_errors_as(RunDirectoryError, f"{path} cannot be read"):
        if not path.exists():
            raise NothingMeasured(f"{run_path} holds no metrics.jsonl: nothing was measured there")
        lines = _read_lines(path)
    if not lines:
        raise NothingMeasured(f"{path} is empty: the run has measured nothing yet")
    return [row for _, row in lines]


def _remove_lines_beyond(path: Path, env_steps: int) -> None:
    """Keeps the lines of ``path`` up to ``env_steps``, byte for byte; a torn last line goes."""
    if path.exists():
        write_atomically(path, "".join(text + "\n" for text, row in _read_lines(path) if row["env_steps"] <= env_steps))


def _read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every whole line of ``path`` with the object that it holds. Raises OSError, and RunDirectoryError if damaged."""
    # Not str.splitlines, which also splits at characters that JSON strings may hold.
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("env_steps"), int | float):
            lines.append((text, row))
        elif number < len(texts):
            raise RunDirectoryError(
                f"{path} is damaged: line {number} is not a JSON object with env_steps (remove that line, or move the "
                "file away)"
            )
    return lines


def _json_number(value: float) -> float | None:
    if isinstance(value, Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None
