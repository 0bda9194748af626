"""Checkpoints and agents, found by the path of a run or of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runtime.errors import RunDirectoryError, os_reason
from r2ac.launch.settings.config import ConfigError
from r2ac.learner.checkpoint import Checkpoint, CheckpointError, latest_checkpoint, load_checkpoint, load_model_state


def find_checkpoint(path: Path) -> Path:
    """The checkpoint at ``path``, or the newest one of the run at ``path``.

    Raises:
        RunDirectoryError: if ``path`` is a directory that holds no run, or nothing at all.
        CheckpointError: if the run has no checkpoint yet.
    """
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {os_reason(error)}") from error
    return latest_checkpoint(RunDirectory.open(path, for_writing=False).checkpoints)


def make_agent(spec: ObservationSpec, config: AgentConfig, seed: int, device: torch.device) -> Agent:
    """A new agent whose weights follow from ``seed`` alone.

    Raises:
        ConfigError: if the agent cannot read what the environment shows.
    """
    torch.manual_seed(seed)
    try:
        agent = Agent(spec, config)
        # It is made on the CPU. A fake tensor, of which a memory budget is made, cannot be moved, not even there.
        return agent if device.type == "cpu" else agent.to(device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except RuntimeError as error:
        raise ConfigError(
            f"an agent of hidden_size {config.hidden_size} and encoder_features {config.encoder_features} does not "
            f"fit: {error}"
        ) from error


def load_encoder(agent: Agent, path: Path) -> None:
    """Give ``agent`` the encoder of the run or checkpoint at ``path``.

    Raises:
        RunDirectoryError, CheckpointError: if there is none, or its encoder has another shape.
    """
    model = load_checkpoint(find_checkpoint(path)).model
    prefix = "encoder."
    encoder = {name.removeprefix(prefix): tensor for name, tensor in model.items() if name.startswith(prefix)}
    if not encoder:
        raise CheckpointError(f"{path} has no encoder to take: its agent was trained with --encoder none")
    try:
        load_model_state(agent.encoder, encoder)
    except CheckpointError as error:
        raise CheckpointError(f"the encoder of {path} does not fit this agent: {error}") from error


def load_agent(agent: Agent, checkpoint: Checkpoint, source: Path) -> None:
    """Give ``agent`` the weights of ``checkpoint``, which was read from ``source``.

    Raises:
        CheckpointError: if they do not fit.
    """
    try:
        load_model_state(agent, checkpoint.model)
    except CheckpointError as error:
        raise CheckpointError(f"{source} does not fit this agent: {error}") from error


def choose_device(name: str, flag: str = "--device") -> torch.device:
    """The device called ``name``; "auto" is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{flag} is {name!r}, but it must be auto, cpu, cuda or cuda:<number>") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{flag} is {name!r}, but it must be auto, cpu, cuda or cuda:<number>")
    count = torch.cuda.device_count() if has_gpu else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"{flag} is {name!r}, but this machine has {count} CUDA devices that torch can use")
    return device


def learner_device(name: str) -> torch.device:
    """As :func:`choose_device`, for a learner in this process: a GPU has its number and is torch's current device.

    A bare "cuda" is the first GPU that this process sees.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    device = choose_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device
