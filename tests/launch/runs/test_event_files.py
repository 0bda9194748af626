"""Event files of SummaryWriter and of TensorFlow's form, whole, resumed, torn and damaged."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import SummaryWriter

from r2ac.launch.runs.event_files import find_tag, has_event_files, read_scalars
from r2ac.launch.runtime.errors import RunDirectoryError


def write_events(run: Path, tags: dict[str, Sequence[float]], began: float = 1000.0, suffix: str = "") -> Path:
    """Value i of a tag at step 100 i, 60 i seconds after ``began``; returns the file."""
    before = set(run.iterdir()) if run.exists() else set()
    with SummaryWriter(str(run), filename_suffix=suffix) as writer:
        for tag, values in tags.items():
            for i, value in enumerate(values):
                writer.add_scalar(tag, value, 100 * i, walltime=began + 60 * i)
    (path,) = set(run.iterdir()) - before
    return path


def write_records(path: Path, events: Sequence[Event]) -> Path:
    """An event file byte by byte: length, its checksum, event, its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for event in events:
            data = event.SerializeToString()
            length = len(data).to_bytes(8, "little")
            for part in (length, data):
                file.write(part + masked_crc32c(part).to_bytes(4, "little"))
    return path


def scalar_event(tag: str, value: float, step: int, wall_time: float) -> Event:
    event = Event(wall_time=wall_time, step=step)
    event.summary.value.add(tag=tag, simple_value=value)
    return event


def test_scalars_come_back_as_they_were_written(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        writer.add_text("hyperparameters", "|seed|1|")
        writer.add_histogram("weights", np.arange(10.0))
        writer.add_scalar("new", 0.25, 7, new_style=True)
        writer.add_scalar("double", 1 / 3, 8, new_style=True, double_precision=True)
        for step in (10, 20, 15):
            writer.add_scalar("charts/episodic_return", step / 2, step)
    assert has_event_files(tmp_path / "run")
    scalars = read_scalars(tmp_path / "run")
    assert set(scalars) == {"new", "double", "charts/episodic_return"}
    np.testing.assert_array_equal(scalars["charts/episodic_return"].steps, [10, 20, 15])
    np.testing.assert_array_equal(scalars["charts/episodic_return"].values, [5, 10, 7.5])
    assert (scalars["new"].steps[0], scalars["new"].values[0]) == (7, 0.25)
    assert scalars["double"].values[0] == 1 / 3


def test_seconds_count_from_the_first_event_without_the_time_between_sessions(tmp_path: Path) -> None:
    first = [Event(wall_time=5000.0, file_version="brain.Event:2"), scalar_event("loss", 1.0, 1, 5030.0)]
    second = [Event(wall_time=9000.0, file_version="brain.Event:2"), scalar_event("loss", 2.0, 2, 9010.0)]
    write_records(tmp_path / "events.out.tfevents.5000.host", first)
    write_records(tmp_path / "events.out.tfevents.9000.host", second)
    np.testing.assert_allclose(read_scalars(tmp_path)["loss"].seconds, [30.0, 40.0])


def test_what_a_resumed_run_measures_again_counts_once(tmp_path: Path) -> None:
    for suffix, purge_step, steps in ((".1", None, (1, 2, 3)), (".2", 2, (2, 3, 4))):
        with SummaryWriter(str(tmp_path), purge_step=purge_step, filename_suffix=suffix) as writer:
            for step in steps:
                writer.add_scalar("loss", 10 * step + (purge_step or 0), step)
    loss = read_scalars(tmp_path)["loss"]
    assert loss.steps.tolist() == [1, 2, 3, 4]
    assert loss.values.tolist() == [10, 22, 32, 42]


def test_training_iterations_of_rllib_become_steps(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for iteration in (1, 2, 3):
            writer.add_scalar("ray/tune/env_runners/episode_return_mean", iteration, iteration)
            if iteration < 3:
                writer.add_scalar("ray/tune/num_env_steps_sampled_lifetime", 4000 * iteration, iteration)
    scalars = read_scalars(tmp_path)
    tag = find_tag(scalars, "episode_return")
    assert tag == "ray/tune/env_runners/episode_return_mean"
    # The run died before it had written the third.
    assert scalars[tag].steps.tolist() == [4000, 8000]
    assert scalars[tag].values.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("metric", "tags", "found"),
    [
        ("episode_return", ["charts/episodic_return", "charts/SPS"], "charts/episodic_return"),
        ("episode_return", ["rollout/ep_rew_mean"], "rollout/ep_rew_mean"),
        ("episode_return", ["env_runners/episode_return_mean"], "env_runners/episode_return_mean"),
        ("episode_return", ["episode_return", "rollout/ep_rew_mean"], "episode_return"),
        ("episode_length", ["charts/episodic_length"], "charts/episodic_length"),
        ("losses/value_loss", ["losses/value_loss"], "losses/value_loss"),
        ("info/lr", ["ray/tune/info/lr"], "ray/tune/info/lr"),
        ("episode_return", ["losses/value_loss"], None),
    ],
)
def test_known_tags_are_found(metric: str, tags: list[str], found: str | None) -> None:
    assert find_tag(tags, metric) == found


def test_a_torn_last_record_is_left_out(tmp_path: Path) -> None:
    path = write_events(tmp_path, {"loss": [1.0, 2.0, 3.0]})
    whole = path.read_bytes()
    for cut in (1, 5, 30):
        path.write_bytes(whole[:-cut])
        assert read_scalars(tmp_path)["loss"].values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: whole[:60] + bytes(len(whole) - 60), id="zeros from byte 60 on"),
        pytest.param(lambda whole: b"\xff" * 8 + whole[8:], id="a length that is none"),
        pytest.param(lambda whole: whole[:12] + b"\xff" * 20 + whole[32:], id="an event that is none"),
        pytest.param(lambda whole: b"step,loss\n1,2.0\n" * 9, id="another file"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_events(tmp_path, {"loss": [1.0, 2.0, 3.0]})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunDirectoryError, match=rf"{path.name} is damaged: no TensorBoard event begins at byte \d+$"):
        read_scalars(tmp_path)


def test_what_holds_no_scalars_is_one_sentence(tmp_path: Path) -> None:
    assert not has_event_files(tmp_path)
    assert not has_event_files(tmp_path / "missing")
    with pytest.raises(RunDirectoryError, match="holds no TensorBoard event files"):
        read_scalars(tmp_path)
    (tmp_path / "events.out.tfevents.1.host").touch()
    with pytest.raises(RunDirectoryError, match="hold no scalars: the run has measured nothing yet"):
        read_scalars(tmp_path)
