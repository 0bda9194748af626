"""TensorBoard: what was written is read back by TensorBoard's own reader, hyperparameters and pictures too."""

import io
import math
import mmap
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util

from r2ac.launch.cli import main
from r2ac.launch.runs.event_files import find_tag, read_scalars
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.tensorboard import TAGS, EventWriter, flat
from r2ac.launch.train.training_log import memory_used
from r2ac.learner.checkpoint import load_checkpoint

TrainTiny = Callable[..., Path]
FILMED = {"--video-minutes": 1e-9, "--total-steps": 400}


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run), size_guidance={IMAGES: 0})
    events.Reload()
    return events


def hparams_of(run: Path, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(events_of(run).PluginTagToContent("hparams")[tag])


def test_a_training_stands_in_groups_and_keeps_its_keys_in_metrics_jsonl(finished_run: Path) -> None:
    rows, events = read_metrics(finished_run), events_of(finished_run)
    tags = set(events.Tags()["scalars"])
    groups = {"returns", "loss", "rtrl", "learner", "policy_lag", "throughput", "system"}
    assert {tag.split("/")[0] for tag in tags} == groups
    assert {"returns/episode_return", "returns/episode_length", "returns/episodes", "learner/updates"} <= tags
    measured = {key for row in rows for key in row} - {"env_steps", "env_frames", "wall_time"}
    assert {"episode_return", "episode_length", "episodes", "updates", "loss/total"} <= measured
    assert tags == {TAGS.get(key, key) for key in measured}
    for key in measured:
        written = [(event.step, event.value) for event in events.Scalars(TAGS.get(key, key))]
        assert written == [(row["env_steps"], pytest.approx(row[key])) for row in rows if key in row]


def test_other_readers_find_the_keys_under_their_tags(finished_run: Path) -> None:
    scalars, rows = read_scalars(finished_run), read_metrics(finished_run)
    for key in ("episode_return", "episode_length", "episodes", "updates", "loss/total"):
        tag = find_tag(scalars, key)
        assert tag is not None
        assert scalars[tag].values.tolist() == pytest.approx([row[key] for row in rows])


def test_the_settings_are_hyperparameters_of_the_run_itself(finished_run: Path) -> None:
    assert not [path for path in finished_run.rglob("events.out.tfevents.*") if path.parent != finished_run]
    start = hparams_of(finished_run, SESSION_START_INFO_TAG).session_start_info.hparams
    assert start["hidden_size"].number_value == 8
    assert start["learning_rate"].number_value == 4e-3
    assert start["gradient"].string_value == "rtrl"
    assert start["freeze_encoder"].string_value == "False"
    assert start["corridor_length"].number_value == 4
    assert "encoder_from" not in start
    experiment = hparams_of(finished_run, EXPERIMENT_TAG).experiment
    (metric,) = experiment.metric_infos
    assert metric.name.tag in events_of(finished_run).Tags()["scalars"]
    assert metric.name.tag == "returns/episode_return"
    assert {info.name for info in experiment.hparam_infos} == set(start)
    assert hparams_of(finished_run, SESSION_END_INFO_TAG).session_end_info.status == 1  # success


def text_of(run: Path) -> list[tuple[int, str]]:
    tensors = events_of(run).Tensors("config/text_summary")
    return [(event.step, tensor_util.make_ndarray(event.tensor_proto).item().decode()) for event in tensors]


def test_the_settings_are_a_table(finished_run: Path) -> None:
    ((step, text),) = text_of(finished_run)
    lines = text.splitlines()
    assert step == 0
    assert lines[:2] == ["| setting | value |", "| --- | --- |"]
    assert "| task | memory/tmaze |" in lines
    assert "| learning_rate | 0.004 |" in lines


def test_a_resumed_run_tells_its_new_settings(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    # TensorBoard reads event files by the second in their names, and this test takes less than one.
    for events in run.glob("events.out.tfevents.*"):
        events.rename(run / "events.out.tfevents.0000000001.before")
    assert main(["train", "--resume", str(run), "--total-steps", "2400"]) == 0
    (before, _), (after, text) = text_of(run)
    assert (before, after) == (0, 2000)
    assert "| total_steps | 2400 |" in text
    assert [event.step for event in events_of(run).Scalars("learner/updates")] == list(range(200, 2401, 200))


def test_settings_lose_their_groups_and_what_is_not_set() -> None:
    config = {"seed": 1, "agent": {"core": "elstm"}, "learner": {"clip_c": 1.0}, "run_dir": None, "list": [1, 2]}
    assert flat(config) == {"seed": 1, "core": "elstm", "clip_c": 1.0, "list": [1, 2]}


def test_text_that_would_break_the_table_is_kept_whole(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, None)
    writer.write_config({"task": "a|b", "levels": [1, 2], "on": True}, 5)
    writer.close()
    ((step, text),) = text_of(tmp_path)
    assert step == 5
    assert text.splitlines()[2:] == ["| task | a\\|b |", "| levels | [1, 2] |", "| on | True |"]


def test_numbers_that_are_not_finite_are_marked(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, None)
    writer.write(3, {"episode_return": math.nan, "loss/total": math.inf})
    writer.close()
    assert math.isnan(events_of(tmp_path).Scalars("returns/episode_return")[0].value)
    assert events_of(tmp_path).Scalars("loss/total")[0].value == math.inf


def test_memory_is_that_of_this_process() -> None:
    before = memory_used(torch.device("cpu"))
    assert before.keys() == {"system/resident_mb"}
    # Pages of the kernel's: an allocator could give memory that an earlier test has left resident. What else the
    # process frees, or the kernel takes back meanwhile, is small beside them.
    with mmap.mmap(-1, 400_000_000) as pages:
        pages[:: mmap.PAGESIZE] = bytes(-(-len(pages) // mmap.PAGESIZE))
        after = memory_used(torch.device("cpu"))
    assert after["system/resident_mb"] - before["system/resident_mb"] == pytest.approx(400, abs=100)


def test_episodes_are_filmed_at_intervals_and_change_nothing(train_tiny: TrainTiny, tmp_path: Path) -> None:
    filmed = train_tiny(tmp_path / "filmed", FILMED)
    plain = train_tiny(tmp_path / "plain", {"--total-steps": 400})
    images = events_of(filmed).Images("episode")
    assert [image.step for image in images] == list(range(40, 401, 40))
    for image in images:
        with Image.open(io.BytesIO(image.encoded_image_string)) as video:
            assert video.format == "GIF"
            assert video.size == (image.width, image.height)
            # A corridor of 4 steps makes an episode of 5.
            assert 1 < video.n_frames <= 5
    assert "episode" not in events_of(plain).Tags()["images"]
    one, other = (load_checkpoint(find_checkpoint(run)) for run in (filmed, plain))
    assert all(torch.equal(one.model[name], other.model[name]) for name in other.model)
    assert torch.equal(one.random_state, other.random_state)


def test_an_interval_below_zero_is_refused(
    train_tiny: TrainTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "memory/tmaze", "--video-minutes", "-1", "--run-dir", str(tmp_path / "run")]
    assert main(command) == 2
    assert "--video-minutes is -1.0, but it must be at least 0" in capsys.readouterr().err
