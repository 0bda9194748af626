"""Scalars from TensorBoard event files of r2ac and of other programs."""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2ac.launch.runs.tensorboard import TAGS
from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as, os_reason

_Floats = NDArray[np.float64]

# What stands for a key of metrics.jsonl in the event files of CleanRL, Stable-Baselines3 and RLlib (new and old).
_OTHER_TAGS = {
    "episode_return": "charts/episodic_return rollout/ep_rew_mean env_runners/episode_return_mean "
    "env_runners/episode_reward_mean episode_reward_mean",
    "episode_length": "charts/episodic_length rollout/ep_len_mean env_runners/episode_len_mean episode_len_mean",
}
# Ray Tune puts this before the names of the trainer.
_PREFIXES = ("", "ray/tune/")
# Ray Tune may count training iterations on the x axis; RLlib then says here how many steps they took.
_STEP_TAGS = tuple(prefix + "num_env_steps_sampled_lifetime" for prefix in _PREFIXES)
# DT_FLOAT, DT_DOUBLE, DT_INT32, DT_INT64, DT_HALF.
_NUMBERS = frozenset({1, 2, 3, 9, 19})


@dataclass(frozen=True)
class Scalar:
    """The points of one tag, in the order in which they were written."""

    steps: _Floats
    """[P]: environment steps, as far as the program that wrote them counts those."""
    seconds: _Floats
    """[P] since the run began; the time between two sessions of a run is left out."""
    values: _Floats
    """[P]; they may hold NaN or infinity."""


def has_event_files(run: Path) -> bool:
    """Whether TensorBoard event files lie in the directory ``run`` itself."""
    return run.is_dir() and bool(_event_files(run))


def read_scalars(run: Path) -> dict[str, Scalar]:
    """Tag -> points, from all event files of the directory ``run`` in the order of their names, thus of their times.

    A torn last record and points that a resumed run measures again are left out. Steps that RLlib counts in training
    iterations become environment steps. Raises RunDirectoryError where files are missing, damaged or without scalars.
    """
    paths = _event_files(run)
    if not paths:
        raise RunDirectoryError(f"{run} holds no TensorBoard event files")
    points: dict[str, list[tuple[float, float, float]]] = {}
    began: float | None = None
    ended = paused = 0.0
    for path in paths:
        for number, event in enumerate(_events(path)):
            if began is None:
                began = ended = event.wall_time
            if number == 0:
                paused += max(0.0, event.wall_time - ended)
            ended = max(ended, event.wall_time)
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                # The session measures again what an earlier one has measured from this step on.
                for rows in points.values():
                    rows[:] = [row for row in rows if row[0] < event.step]
            for tag, value in _values(event):
                points.setdefault(tag, []).append((event.step, event.wall_time - began - paused, value))
    if not points:
        raise RunDirectoryError(
            f"the TensorBoard event files of {run} hold no scalars: the run has measured nothing yet"
        )
    scalars = {tag: Scalar(*np.asarray(rows, dtype=np.float64).T) for tag, rows in points.items()}
    counted = next((scalars[tag] for tag in _STEP_TAGS if tag in scalars), None)
    return scalars if counted is None else {tag: _recount(scalar, counted) for tag, scalar in scalars.items()}


def find_tag(tags: Container[str], metric: str) -> str | None:
    """The tag that holds ``metric``: the one of that name, or what other programs call it; None where there is none."""
    names = (metric, *([TAGS[metric]] if metric in TAGS else []), *_OTHER_TAGS.get(metric, "").split())
    return next((prefix + name for name in names for prefix in _PREFIXES if prefix + name in tags), None)


def _event_files(run: Path) -> list[Path]:
    with os_errors_as(RunDirectoryError, f"{run} cannot be read"):
        return sorted(path for path in run.iterdir() if "tfevents" in path.name and path.is_file())


def _events(path: Path) -> Iterator[Any]:
    """The events of a file: records of their length (8 bytes), its checksum (4), the event and its checksum (4).

    Unlike TensorBoard's own loader it raises an error at a damaged record, and skips the checksums of events, which
    take ten times as long as the rest: a flipped bit of a number is not noticed.
    """
    # TensorBoard takes long to import.
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    damaged = "{} is damaged: no TensorBoard event begins at byte {}"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            while len(header := file.read(12)) == 12:
                at = file.tell() - 12
                length, checksum = struct.unpack("<QI", header)
                if length + 4 > size - file.tell():
                    if masked_crc32c(header[:8]) != checksum:
                        raise RunDirectoryError(damaged.format(path, at))
                    return
                event = Event.FromString(file.read(length + 4)[:length])
                # Zeros are an event without anything in it: a file system leaves them after a crash.
                if not event.wall_time:
                    raise RunDirectoryError(damaged.format(path, at))
                yield event
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {os_reason(error)}") from error
    except DecodeError as error:
        raise RunDirectoryError(damaged.format(path, at)) from error


def _values(event: Any) -> Iterator[tuple[str, float]]:
    """Tag and value of every scalar of an event: a plain number, or, from TensorFlow 2, a tensor that holds one."""
    from tensorboard.util import tensor_util

    for value in event.summary.value:
        if value.HasField("simple_value"):
            yield value.tag, value.simple_value
        elif value.HasField("tensor") and value.tensor.dtype in _NUMBERS and not value.tensor.tensor_shape.dim:
            # The metadata that calls it a scalar may stand in the tag's first event only.
            yield value.tag, float(tensor_util.make_ndarray(value.tensor))


def _recount(scalar: Scalar, counted: Scalar) -> Scalar:
    """The points whose steps are among those of ``counted``, with its values as their steps."""
    count = dict(zip(counted.steps.tolist(), counted.values.tolist(), strict=True))
    known = np.array([step in count for step in scalar.steps.tolist()], dtype=bool)
    steps = np.array([count[step] for step in scalar.steps[known].tolist()], dtype=np.float64)
    return Scalar(steps, scalar.seconds[known], scalar.values[known])
