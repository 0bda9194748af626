"""Checkpoints: one safetensors file each, written whole or not at all; nothing is ever unpickled.

The tensors are named ``model/...``, ``optimiser/...`` and ``random_state``. The metadata in the file's header holds
``format``, ``format_version``, ``contents`` (all that is not a tensor, as JSON) and ``checksum`` (of all the rest).
"""

from __future__ import annotations

import json
import os
import platform
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

FORMAT = "r2ac checkpoint"
FORMAT_VERSION = 1

_NAME = re.compile(r"step_(\d{12,})\.safetensors")
_PARTIAL = ".r2ac-partial"


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read, used or written; the message is one sentence that names it."""


class _DamagedError(CheckpointError):
    """The file is not what was once written: another checkpoint may do instead."""


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a run needs to go on from where it was; every tensor is on the CPU once loaded."""

    model: dict[str, Tensor]
    """The ``state_dict`` of the agent."""
    optimiser: dict[str, Any]
    """The ``state_dict`` of the optimiser."""
    counters: dict[str, int | float]
    """``env_steps``, ``updates`` and whatever else is counted; exact, of any size."""
    random_state: Tensor
    """``torch.get_rng_state()``, uint8."""
    config: dict[str, Any]
    """The configuration of the run, as JSON (a tuple comes back as a list)."""
    versions: dict[str, str] = field(default_factory=_versions)
    """Of Python and of the packages that wrote the checkpoint."""


def checkpoint_path(directory: Path, step: int) -> Path:
    """Of the checkpoint after ``step`` environment steps: ``directory/step_000000001000.safetensors``."""
    return directory / f"step_{step:012d}.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path`` so that, whenever the machine stops, ``path`` is whole or as it was before.

    The file is first written as ``.NAME.r2ac-partial`` beside ``path``, brought to disk and then renamed. Such files
    left over by an interrupted save are removed, hence one process at a time may save into a directory, which is
    created where missing.

    Raises:
        CheckpointError: when the file cannot be written (what was there before remains) or something in
            ``checkpoint`` is no JSON.
    """
    data = _encode(checkpoint)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f".*{_PARTIAL}"):
            left_over.unlink()
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {error.strerror or error}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        CheckpointError: when the file is missing, unreadable, damaged, foreign or of a newer format. If it is
            damaged, the message names the newest older checkpoint in the same directory that is sound.
    """
    try:
        return _load(path)
    except _DamagedError as error:
        sound = _newest_sound_before(path)
        advice = f"{sound.name} beside it can be used instead" if sound else "no older checkpoint beside it can be used"
        raise CheckpointError(f"{error}; {advice}") from error


def latest_checkpoint(directory: Path) -> Path:
    """The checkpoint of the most environment steps in ``directory``, by name alone.

    Raises:
        CheckpointError: when the directory is missing or holds none.
    """
    paths = _list(directory)
    if not paths:
        raise CheckpointError(f"there is no checkpoint (step_*.safetensors) in {directory}")
    return paths[-1]


def prune_checkpoints(directory: Path, keep: int) -> list[Path]:
    """Remove all but the ``keep`` newest checkpoints of ``directory``; returns those removed, oldest first.

    Raises:
        ValueError: when ``keep`` is less than 1.
        CheckpointError: when the directory is missing or a file cannot be removed.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    removed = _list(directory)[:-keep]
    for path in removed:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot remove checkpoint {path}: {error.strerror or error}") from error
    return removed


def load_model_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state``, as in :attr:`Checkpoint.model`, into ``module``.

    Raises:
        CheckpointError: naming the first tensor whose name or shape differs; ``module`` is then unchanged.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        if name not in state:
            raise CheckpointError(f"the checkpoint lacks the tensor {name} {shape}, which the model has")
        if list(state[name].shape) != shape:
            raise CheckpointError(f"the model expects {name} of shape {shape}, got {list(state[name].shape)}")
    for name, tensor in state.items():
        if name not in expected:
            raise CheckpointError(f"the checkpoint has the tensor {name} {list(tensor.shape)}, which the model lacks")
    module.load_state_dict(state)


def _list(directory: Path) -> list[Path]:
    """The checkpoints of ``directory``, oldest first."""
    try:
        steps = {int(match[1]): path for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))}
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint directory {directory}: {error.strerror or error}") from error
    return [steps[step] for step in sorted(steps)]


def _newest_sound_before(path: Path) -> Path | None:
    paths = _list(path.parent)
    older = paths[: paths.index(path)] if path in paths else []
    for candidate in reversed(older):
        try:
            _load(candidate)
        except CheckpointError:
            continue
        return candidate
    return None


def _encode(checkpoint: Checkpoint) -> bytes:
    named: dict[str, Tensor] = {"random_state": checkpoint.random_state}
    named |= {f"model/{name}": tensor for name, tensor in checkpoint.model.items()}
    contents = {
        "optimiser": _split(checkpoint.optimiser, "optimiser", named),
        "counters": checkpoint.counters,
        "config": checkpoint.config,
        "versions": checkpoint.versions,
    }
    try:
        text = json.dumps(contents, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint holds something that is no JSON: {error}") from error
    # Copies, because safetensors refuses views and tensors that share memory.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in named.items()
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "contents": text,
        "checksum": _checksum(text, tensors),
    }
    return safetensors.torch.save(tensors, metadata)


def _load(path: Path) -> Checkpoint:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # beside its own error, safetensors raises several kinds for sizes that do not fit
        raise _DamagedError(f"{path} is damaged or no safetensors file ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return _decode(path, tensors, header.get("__metadata__") or {})


def _decode(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Checkpoint:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file but not a checkpoint of r2ac")
    version = metadata.get("format_version", "")
    if version.isdecimal() and int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this r2ac reads versions up to {FORMAT_VERSION}: use a newer r2ac"
        )
    text = metadata.get("contents", "")
    if version != str(FORMAT_VERSION) or metadata.get("checksum") != _checksum(text, tensors):
        raise _DamagedError(f"{path} is damaged: its contents do not match their checksum")
    try:
        contents = json.loads(text)
        return Checkpoint(
            model={name.removeprefix("model/"): tensors[name] for name in tensors if name.startswith("model/")},
            optimiser=_join(contents["optimiser"], tensors),
            counters=contents["counters"],
            random_state=tensors["random_state"],
            config=contents["config"],
            versions=contents["versions"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} lacks a part of a checkpoint ({error!r})") from error


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON, its tensors moved to ``tensors`` under ``name``; :func:`_join` undoes it, types included."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _split(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_split(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": items}:
            return {key: _join(item, tensors) for key, item in items}
        case {"list": items}:
            return [_join(item, tensors) for item in items]
        case {"tuple": items}:
            return tuple(_join(item, tensors) for item in items)
    return value


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of the JSON and of every tensor's name, dtype, shape and bytes: safetensors has no checksum itself."""
    checksum = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
