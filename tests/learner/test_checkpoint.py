from __future__ import annotations

import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from r2ac.learner import OPTIMISERS, make_optimiser
from r2ac.learner.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    load_model_state,
    prune_checkpoints,
    save_checkpoint,
)


def make_module() -> nn.Module:
    # Batch norm brings buffers and a tensor without dimensions.
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def train(module: nn.Module, optimiser: torch.optim.Optimizer, updates: int) -> None:
    for _ in range(updates):
        optimiser.zero_grad()
        module(torch.randn(8, 3, dtype=torch.float64)).square().sum().backward()
        optimiser.step()


def make_checkpoint(value: float = 1.0) -> Checkpoint:
    return Checkpoint(
        model={"weight": torch.full((2, 3), value)},
        optimiser={"state": {}, "param_groups": []},
        counters={"env_steps": 7},
        random_state=torch.get_rng_state(),
        config={"task": "memory/tmaze"},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint, alone in its directory."""
    path = checkpoint_path(tmp_path, 2000)
    save_checkpoint(path, make_checkpoint())
    return path


def assert_same(got: object, expected: object) -> None:
    """Equal to the bit and in type, through dictionaries and sequences."""
    assert type(got) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert isinstance(got, torch.Tensor)
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    elif isinstance(expected, dict):
        assert isinstance(got, dict)
        assert list(got) == list(expected)
        for key, value in expected.items():
            assert_same(got[key], value)
    elif isinstance(expected, list | tuple):
        assert isinstance(got, list | tuple)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert got == expected


@pytest.mark.parametrize("name", OPTIMISERS)
def test_round_trip_is_exact_and_training_goes_on_identically(name: str, tmp_path: Path) -> None:
    module = make_module()
    optimiser = make_optimiser(module.parameters(), name, learning_rate=0.01)
    train(module, optimiser, updates=3)
    path = checkpoint_path(tmp_path / "checkpoints", 1234)
    counters = {"env_steps": 2**60 + 1, "wall_time": 0.1}
    config = {"task": "memory/tmaze", "name": "späte Übung", "sizes": [1, 2], "nothing": None, "nested": {"lr": 6e-4}}
    save_checkpoint(
        path, Checkpoint(module.state_dict(), optimiser.state_dict(), counters, torch.get_rng_state(), config)
    )

    loaded = load_checkpoint(path)
    assert_same(dict(sorted(loaded.model.items())), dict(sorted(module.state_dict().items())))
    assert_same(loaded.optimiser, optimiser.state_dict())
    assert_same(loaded.counters, counters)
    assert_same(loaded.config, config)
    assert loaded.versions["torch"] == torch.__version__

    train(module, optimiser, updates=3)
    resumed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    load_model_state(resumed, loaded.model)
    resumed_optimiser = make_optimiser(resumed.parameters(), name, learning_rate=0.5)
    resumed_optimiser.load_state_dict(loaded.optimiser)
    torch.set_rng_state(loaded.random_state)
    train(resumed, resumed_optimiser, updates=3)
    assert_same(resumed.state_dict(), module.state_dict())
    assert_same(resumed_optimiser.state_dict(), optimiser.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_keeps_every_dtype_and_tensors_that_are_empty_or_views(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = torch.arange(6).reshape(2, 3).to(dtype)
    model = {"empty": whole[:0], "row": whole[1], "scalar": whole[0, 1], "transposed": whole.T, "whole": whole}
    path = tmp_path / "named_otherwise.safetensors"
    save_checkpoint(path, Checkpoint(model, {}, {}, torch.get_rng_state(), {}))
    loaded = load_checkpoint(path).model
    assert_same(dict(sorted(loaded.items())), model)


def test_a_loaded_checkpoint_may_be_changed_in_place(path: Path) -> None:
    load_checkpoint(path).model["weight"].add_(1)
    assert_same(load_checkpoint(path).model, make_checkpoint().model)


def test_latest_is_by_number_and_passes_over_other_files(tmp_path: Path) -> None:
    for step in (999_999_999_999, 1_000_000_000_000, 5):
        save_checkpoint(checkpoint_path(tmp_path, step), make_checkpoint())
    for name in ("step_9.safetensors", "step_999999999999999.safetensors.bak", ".step_000000000009.safetensors"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path).name == "step_1000000000000.safetensors"
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 1_000_000_000_000)


def test_prune_keeps_the_newest_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for step in (30, 10, 20, 40):
        save_checkpoint(checkpoint_path(tmp_path, step), make_checkpoint())
    assert prune_checkpoints(tmp_path, keep=2) == [checkpoint_path(tmp_path, 10), checkpoint_path(tmp_path, 20)]
    assert sorted(os.listdir(tmp_path)) == [
        "notes.txt",
        "step_000000000030.safetensors",
        "step_000000000040.safetensors",
    ]
    assert prune_checkpoints(tmp_path, keep=2) == []
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        prune_checkpoints(tmp_path, keep=0)


def test_a_left_over_partial_file_is_ignored_and_removed_by_the_next_save(path: Path) -> None:
    left_over = path.with_name(".step_000000009999.safetensors.r2ac-partial")
    left_over.write_bytes(b"cut off")
    assert latest_checkpoint(path.parent) == path
    save_checkpoint(checkpoint_path(path.parent, 3000), make_checkpoint())
    assert sorted(os.listdir(path.parent)) == ["step_000000002000.safetensors", "step_000000003000.safetensors"]


def test_missing_file_and_missing_or_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^there is no checkpoint .*step_000000000001\.safetensors$"):
        load_checkpoint(checkpoint_path(tmp_path, 1))
    with pytest.raises(CheckpointError, match=r"^there is no checkpoint \(step_\*\.safetensors\) in .*$"):
        latest_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"^cannot read the checkpoint directory .*nowhere: No such file"):
        latest_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"^cannot read checkpoint .*: Is a directory$"):
        load_checkpoint(tmp_path)


def test_every_truncation_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for size in (*range(0, len(data), 97), len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
            load_checkpoint(path)


def test_every_flipped_bit_is_refused(path: Path) -> None:
    data = path.read_bytes()
    header_size = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for position in (*rng.integers(0, header_size, 150), *rng.integers(header_size, len(data), 50)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_a_damaged_file_names_the_newest_sound_older_one(tmp_path: Path) -> None:
    paths = [checkpoint_path(tmp_path, step) for step in (10, 20, 30, 40, 50)]
    for path in paths:
        save_checkpoint(path, make_checkpoint())
    for path in paths[2:4]:
        path.write_bytes(path.read_bytes()[:-1])
    newest = paths[3]
    with pytest.raises(
        CheckpointError, match=f"^{newest} is damaged .*; {paths[1].name} beside it can be used instead$"
    ):
        load_checkpoint(newest)
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"; no older checkpoint beside it can be used$"):
        load_checkpoint(newest)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_safetensors_file_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(3)}, metadata))
    with pytest.raises(CheckpointError, match=r"is a safetensors file but not a checkpoint of r2ac$"):
        load_checkpoint(path)


def test_a_newer_format_version_is_refused(path: Path) -> None:
    metadata = {"format": "r2ac checkpoint", "format_version": "12"}
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(3)}, metadata))
    with pytest.raises(
        CheckpointError, match=r"has format version 12, this r2ac reads versions up to 1: use a newer r2ac$"
    ):
        load_checkpoint(path)


class RunsWhenUnpickled:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_refused_and_not_executed(write: object, tmp_path: Path) -> None:
    assert callable(write)
    path, target = checkpoint_path(tmp_path, 1), tmp_path / "executed"
    write(RunsWhenUnpickled(target), path)
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        load_checkpoint(path)
    assert not target.exists()
    if write is not torch.save:
        pickle.loads(path.read_bytes())
        assert target.exists(), "the pickle must be one that runs something"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"bias": torch.zeros(2)}, r"^the checkpoint lacks the tensor weight \[2, 3\], which the model has$"),
        (
            {"weight": torch.zeros(2, 4), "bias": torch.zeros(9)},
            r"^the model expects weight of shape \[2, 3\], got \[2, 4\]$",
        ),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "core.F": torch.zeros(5)},
            r"^the checkpoint has the tensor core\.F \[5\], which the model lacks$",
        ),
    ],
)
def test_a_model_of_other_names_or_shapes_is_refused(other: dict[str, torch.Tensor], message: str) -> None:
    module = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_model_state(module, other)
    assert_same(dict(module.state_dict()), before)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than ``size`` bytes to a file fails with an OSError, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("step", [2000, 3000])
def test_a_write_that_fails_leaves_the_directory_as_it_was(path: Path, step: int) -> None:
    before = path.read_bytes()
    with largest_file(1000), pytest.raises(CheckpointError, match=f"^cannot write checkpoint .*step_00000000{step}"):
        save_checkpoint(checkpoint_path(path.parent, step), make_checkpoint(value=5.0))
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"^cannot write checkpoint .*: (Not a directory|File exists)$"):
        save_checkpoint(checkpoint_path(tmp_path / "file", 1), make_checkpoint())


def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    checkpoint = Checkpoint({}, {}, {}, torch.get_rng_state(), {"path": tmp_path})
    with pytest.raises(CheckpointError, match=r"holds something that is no JSON: Object of type PosixPath"):
        save_checkpoint(checkpoint_path(tmp_path, 1), checkpoint)
    assert os.listdir(tmp_path) == []
