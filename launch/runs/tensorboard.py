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

The settings stand in the tab HPARAMS too, with the return as what they are judged by. All of it is in the event files
of the run itself: ``SummaryWriter.add_hparams`` would begin a second run below it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_RETURNS = ("episode_return", "episode_length", "episodes", "normalised_return", "capped_normalised_return")
TAGS: Mapping[str, str] = {**{key: f"returns/{key}" for key in _RETURNS}, "updates": "learner/updates"}
"""The tags of keys of ``metrics.jsonl`` that stand in no group; the tag of any other key is the key."""

_JUDGED_BY = TAGS["episode_return"]


class EventWriter:
    """Appends to the TensorBoard events of a run.

    Args:
        folder: where the event files lie.
        purge_step: TensorBoard hides what earlier files hold of this step and later ones; None hides nothing.

    Raises:
        OSError: from all methods, where the file system takes no more.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        # TensorBoard and torch take seconds to import, and who reads metrics needs neither.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)
        self._records = _Records(self._writer._get_file_writer().event_writer._async_writer)
        self._end: Any = None

    def write(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Scalars by their keys in ``metrics.jsonl``."""
        for key, value in values.items():
            self._writer.add_scalar(TAGS.get(key, key), float(value), env_steps)
        self._records.check()

    def write_config(self, config: Mapping[str, Any], env_steps: int) -> None:
        """The settings, as a text and as hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        settings = flat(config)
        rows = [f"| {name} | {_text(value)} |" for name, value in settings.items()]
        self._writer.add_text("config", "\n".join(["| setting | value |", "| --- | --- |", *rows]), env_steps)
        # A bool is an int, and 1.0 says less than True.
        numbers = {
            name: value if isinstance(value, int | float) and not isinstance(value, bool) else _text(value)
            for name, value in settings.items()
        }
        experiment, start, self._end = hparams(numbers, {_JUDGED_BY: None})
        for summary in (experiment, start):
            self._writer._get_file_writer().add_summary(summary)

    def write_gif(self, gif: bytes, size: tuple[int, int], env_steps: int) -> None:
        """An animated GIF of this width and height."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        # add_video would want moviepy, and encode again.
        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag="episode", image=image)])
        self._writer._get_file_writer().add_summary(summary, env_steps)

    def flush(self) -> None:
        """Writes out what is held back."""
        self._writer.flush()
        self._records.check()

    def close(self) -> None:
        """Says that the session has ended, and writes out what is held back."""
        if self._end is not None:
            self._writer._get_file_writer().add_summary(self._end)
            self._end = None
        self._writer.close()
        self._records.check()


class _Records:
    """Takes the place of the file in TensorBoard's thread, which would end with a traceback where the disk is full: the
    error is kept for the next call from outside, and what comes after it is dropped."""

    def __init__(self, asynchronous: Any) -> None:
        self._file = asynchronous._writer
        self._error: OSError | None = None
        asynchronous._worker._record_writer = self

    def write(self, record: bytes) -> None:
        if self._error is None:
            self._try(self._file.write, record)

    def flush(self) -> None:
        self._try(self._file.flush)

    def check(self) -> None:
        """Raises the error that was kept."""
        if self._error is not None:
            raise self._error

    def _try(self, action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self._error = self._error or error


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
