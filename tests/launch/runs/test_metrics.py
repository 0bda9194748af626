"""Metrics: what was written is read back, from the lines and from TensorBoard, also after a crash and a resume."""

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from r2ac.launch.runs.metrics import MetricsWriter, read_metrics
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runtime.errors import RunDirectoryError


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with closing(RunDirectory.create(tmp_path / "run", {"task": "memory/tmaze"})) as run:
        yield run


def write_steps(run: RunDirectory, steps: range, resume_from_step: int | None = None, value: float = 0.0) -> None:
    with MetricsWriter(run, resume_from_step) as metrics:
        for step in steps:
            metrics.write(step, 4 * step, step / 10, {"loss/total": value + step})


def scalars(run: RunDirectory, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run.path))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_lines_are_read_back(run: RunDirectory) -> None:
    with MetricsWriter(run, None) as metrics:
        metrics.write(10, 40, 1.5, {"updates": 1, "loss/total": 0.25})
        # Flushed: there for a reader while the run goes on.
        assert len(read_metrics(run.path)) == 1
        metrics.write(20, 80, 2.5, {"episode_return": -1.0})
    assert read_metrics(run.path) == [
        {"env_steps": 10, "env_frames": 40, "wall_time": 1.5, "updates": 1, "loss/total": 0.25},
        {"env_steps": 20, "env_frames": 80, "wall_time": 2.5, "episode_return": -1.0},
    ]


def test_numbers_of_numpy_and_torch_are_numbers(run: RunDirectory) -> None:
    values: dict[str, Any] = {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(2.0)}
    with MetricsWriter(run, None) as metrics:
        metrics.write(np.int64(10), np.int64(40), np.float64(1.0), values)  # type: ignore[arg-type]
    assert read_metrics(run.path) == [{"env_steps": 10, "env_frames": 40, "wall_time": 1.0, "a": 0.5, "b": 3, "c": 2.0}]


def test_what_is_not_finite_is_null_and_the_line_is_json(run: RunDirectory) -> None:
    with MetricsWriter(run, None) as metrics:
        metrics.write(1, 1, 0.0, {"loss/total": math.nan, "loss/value": math.inf, "episode_return": 1.0})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    row = json.loads(run.metrics_path.read_text(), parse_constant=refuse)
    assert row["loss/total"] is None
    assert row["loss/value"] is None
    assert read_metrics(run.path) == [row]
    assert math.isnan(scalars(run, "loss/total")[0][1])


def test_tensorboard_has_the_same_tags_over_steps(run: RunDirectory) -> None:
    write_steps(run, range(10, 40, 10))
    assert scalars(run, "loss/total") == [(10, 10.0), (20, 20.0), (30, 30.0)]


def test_a_resumed_run_has_no_backward_jump(run: RunDirectory) -> None:
    write_steps(run, range(10, 60, 10))
    # TensorBoard reads event files by the second in their names, and this test takes less than one.
    for events in run.path.glob("events.out.tfevents.*"):
        events.rename(run.path / "events.out.tfevents.0000000001.before")
    write_steps(run, range(40, 80, 10), resume_from_step=30, value=0.5)
    expected = [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.5), (50, 50.5), (60, 60.5), (70, 70.5)]
    assert [(row["env_steps"], row["loss/total"]) for row in read_metrics(run.path)] == expected
    assert scalars(run, "loss/total") == expected


@pytest.mark.parametrize("torn", ['{"env_steps": 30, "loss/tot', "\x00\x00\x00", "3"])
def test_a_torn_last_line_is_left_out_and_goes_on_resume(run: RunDirectory, torn: str) -> None:
    write_steps(run, range(10, 30, 10))
    with open(run.metrics_path, "a") as file:
        file.write(torn)
    assert [row["env_steps"] for row in read_metrics(run.path)] == [10, 20]
    write_steps(run, range(30, 40, 10), resume_from_step=20)
    assert [row["env_steps"] for row in read_metrics(run.path)] == [10, 20, 30]


def test_kept_lines_are_kept_to_the_byte(run: RunDirectory) -> None:
    line = '{"env_steps":10,   "text": "a\u2028b", "loss": 1.0e-3}\n'
    run.metrics_path.write_text(line + '{"env_steps": 20}\n', encoding="utf-8")
    MetricsWriter(run, resume_from_step=10).close()
    assert run.metrics_path.read_text(encoding="utf-8") == line


def test_a_run_without_metrics_can_be_resumed(run: RunDirectory) -> None:
    write_steps(run, range(10, 20, 10), resume_from_step=0)
    assert [row["env_steps"] for row in read_metrics(run.path)] == [10]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"holds no metrics\.jsonl"),
        (b"", "is empty: the run has measured nothing yet"),
        (b'{"env_st', "is empty: the run has measured nothing yet"),
        (b'{"env_steps": 1}\nnonsense\n{"env_steps": 2}\n', r"line 2 is .+ env_steps \(remove that line, or"),
        (b'{"loss": 1}\n', "is damaged: line 1"),
        (b"[1]\n", "is damaged: line 1"),
        (b"\xff\xfe\n", "is damaged: line 1"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(run: RunDirectory, content: bytes | None, sentence: str) -> None:
    if content is not None:
        run.metrics_path.write_bytes(content)
    with pytest.raises(RunDirectoryError, match=sentence) as caught:
        read_metrics(run.path)
    assert "\n" not in str(caught.value)


def test_damaged_metrics_are_not_cut_on_resume(run: RunDirectory) -> None:
    run.metrics_path.write_text('{"env_steps": 1}\nnonsense\n{"env_steps": 2}\n')
    with pytest.raises(RunDirectoryError, match="line 2"):
        MetricsWriter(run, resume_from_step=1)
    assert run.metrics_path.read_text().count("\n") == 3


def test_an_unwritable_file_is_one_sentence(run: RunDirectory) -> None:
    run.metrics_path.mkdir()
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl cannot be written: Is a directory"):
        MetricsWriter(run, None)
