"""What a training run shows in TensorBoard.

Tags, over environment steps; ``metrics.jsonl`` has the same numbers under the keys of :class:`MetricsWriter`:

=============== ======================================================================================================
``returns/``    ``episode_return``, ``episode_length``, ``episodes``, ``normalised_return``, of several tasks
                ``capped_normalised_return`` and the return of each
``loss/``       total, policy, baseline, entropy, gradient norm
``rtrl/``       what RTRL adds to the gradient, see :class:`r2ac.learner.rtrl_metrics.RTRLMetrics`
``learner/``    ``updates``, learning rate, skipped updates, stream resets
``policy_lag/`` updates between a rollout's weights and those that learn from it
``throughput/`` steps a second, seconds waited, restarts
``population/`` of a member of a population: copies of others, and the settings that change
``system/``     memory of this process: ``resident_mb``, and on a GPU ``gpu_mb``
``config``      every setting, as a table (tab TEXT)
``episode``     an episode at intervals, as an animated picture (tab IMAGES)
=============== ======================================================================================================

The settings stand in the tab HPARAMS too, with the return as the metric. All of it is in the event files of the run
itself, written by TensorBoard's own `RecordWriter`: torch's ``SummaryWriter`` writes from a thread, which a full disk
ends with a traceback, and its ``add_hparams`` begins a second run.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as

_RETURNS = ("episode_return", "episode_length", "episodes", "normalised_return", "capped_normalised_return")
TAGS: Mapping[str, str] = {**{key: f"returns/{key}" for key in _RETURNS}, "updates": "learner/updates"}
"""The tags of keys of ``metrics.jsonl`` that stand in no group; the tag of any other key is the key."""


class EventWriter:
    """Appends to the TensorBoard events in ``folder``, flushed when a method returns. TensorBoard hides what earlier
    files hold of ``purge_step`` and later steps. All methods raise RunDirectoryError where the file system takes no
    more."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        # TensorBoard takes seconds to import, and who reads metrics does not need it.
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Readers take event files in the order of their names.
        path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._unwritable = f"{path} cannot be written"
        with os_errors_as(RunDirectoryError, self._unwritable):
            self._records = RecordWriter(open(path, "xb"))  # noqa: SIM115 (open until close)
        self._end: Any = None
        self._add(file_version="brain.Event:2")
        if purge_step is not None:
            self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Scalars by their keys in ``metrics.jsonl``."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=TAGS.get(key, key), simple_value=float(value)) for key, value in values.items()]
        self._add(step=env_steps, summary=Summary(value=scalars))

    def write_config(self, config: Mapping[str, Any], env_steps: int) -> None:
        """The settings, as a text and as hyperparameters."""
        from torch.utils.tensorboard.summary import hparams, text

        settings = flat(config)
        rows = [f"| {name} | {_text(value)} |" for name, value in settings.items()]
        table = "\n".join(["| setting | value |", "| --- | --- |", *rows])
        self._add(step=env_steps, summary=text("config", table))
        # A bool is an int, and 1.0 says less than True.
        numbers = {name: value if type(value) in (int, float) else _text(value) for name, value in settings.items()}
        experiment, start, self._end = hparams(numbers, {TAGS["episode_return"]: None})
        self._add(summary=experiment)
        self._add(summary=start)

    def write_gif(self, gif: bytes, size: tuple[int, int], env_steps: int) -> None:
        """An animated GIF of this width and height."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=gif)
        self._add(step=env_steps, summary=Summary(value=[Summary.Value(tag="episode", image=image)]))

    def close(self) -> None:
        """Says that the session has ended, and closes the file."""
        try:
            if self._end is not None:
                end, self._end = self._end, None
                self._add(summary=end)
        finally:
            # Also where it takes no more: since Python 3.13 a file that closes itself reports that on standard error.
            with os_errors_as(RunDirectoryError, self._unwritable):
                self._records.close()

    def _add(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with os_errors_as(RunDirectoryError, self._unwritable):
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self._records.flush()


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration by the names of their flags, without groups, and without those that are None."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            settings |= flat(value)
        elif value is not None:
            settings[name] = value
    return settings


def _text(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|")
