"""The measurements of a run: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from numbers import Integral
from pathlib import Path
from typing import Any

from r2ac.launch.runs.run_directory import RunDirectory, write_atomically
from r2ac.launch.runs.tensorboard import EventWriter
from r2ac.launch.runtime.errors import RunDirectoryError, os_reason


class MetricsWriter:
    """Appends the measurements of a run to ``metrics.jsonl`` and to TensorBoard events in the run directory.

    ``resume_from_step`` is None for a new run and the ``env_steps`` of the checkpoint for a resumed one. What was
    measured beyond that step will be measured again: those lines are removed, and TensorBoard hides them, so that no
    curve jumps backward.

    All methods raise RunDirectoryError where the file system takes no more; the first also where the metrics of a
    resumed run are damaged.
    """

    def __init__(self, run: RunDirectory, resume_from_step: int | None) -> None:
        self._path = run.metrics_path
        purge_step = None
        with _writing(self._path):
            if resume_from_step is not None:
                _remove_lines_beyond(run.metrics_path, resume_from_step)
                # TensorBoard hides the steps from purge_step on; the checkpoint's own step stays.
                purge_step = resume_from_step + 1
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (open until close)
            self._events = EventWriter(run.path, purge_step)

    def write(self, env_steps: int, env_frames: int, wall_time: float, values: Mapping[str, float]) -> None:
        """One line, flushed: steps, frames, seconds since the run began (cumulative over resumes) and ``values``.

        A value of NaN or infinity is written as null, which says: measured, but not finite (JSON has no NaN).
        TensorBoard gets it as it is, and marks it, under the tags that :mod:`r2ac.launch.runs.tensorboard` lists. The
        x axis is ``env_steps``.
        """
        row: dict[str, float | None] = {
            "env_steps": int(env_steps),
            "env_frames": int(env_frames),
            "wall_time": round(float(wall_time), 3),
        }
        row.update({name: _json_number(value) for name, value in values.items()})
        with _writing(self._path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
            self._events.write(int(env_steps), values)

    def write_config(self, config: Mapping[str, Any], env_steps: int) -> None:
        """Gives TensorBoard the settings with which the run begins, or goes on, at ``env_steps``."""
        with _writing(self._path):
            self._events.write_config(config, int(env_steps))

    def write_gif(self, gif: bytes, size: tuple[int, int], env_steps: int) -> None:
        """Gives TensorBoard an animated GIF of this width and height, of an episode at ``env_steps``."""
        with _writing(self._path):
            self._events.write_gif(gif, size, int(env_steps))

    def close(self) -> None:
        """Closes both files; a second call does nothing."""
        with _writing(self._path):
            self._file.close()
            self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # An error that is under way says what is wrong.
        with nullcontext() if error is None else suppress(RunDirectoryError):
            self.close()


def read_metrics(run_path: Path | str) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` in the run directory ``run_path``, in order; null comes back as None.

    A torn last line (the run is writing it, or died writing it) is left out. Raises RunDirectoryError where the file
    is missing, holds no whole line or is damaged.
    """
    path = RunDirectory(Path(run_path)).metrics_path
    try:
        lines = _read_lines(path)
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{run_path} holds no metrics.jsonl: nothing was measured there") from error
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {os_reason(error)}") from error
    if not lines:
        raise RunDirectoryError(f"{path} is empty: the run has measured nothing yet")
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
        row = _parse(text)
        if row is not None:
            lines.append((text, row))
        elif number < len(texts):
            raise RunDirectoryError(f"{path} is damaged: line {number} is not a JSON object with env_steps")
    return lines


def _parse(text: str) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(row, dict) and isinstance(row.get("env_steps"), int | float)
    return row if whole else None


def _json_number(value: float) -> float | None:
    if isinstance(value, Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be written: {os_reason(error)}") from error
