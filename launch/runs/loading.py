"""Checkpoints and agents, found by the path of a run or of a checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.envs import find_task
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.learner.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint, load_model_state


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """The agent of a checkpoint, and the settings that it was trained with."""

    path: Path
    """Of the checkpoint."""
    env_steps: int
    training: TrainConfig[Any]
    model: dict[str, Tensor]

    @staticmethod
    def load(path: Path) -> TrainedAgent:
        """As `find_checkpoint` finds it. Raises RunDirectoryError, CheckpointError, ConfigError, UnknownTask."""
        file = find_checkpoint(path)
        checkpoint = load_checkpoint(file)
        training = config_from_json(checkpoint.config, file)
        return TrainedAgent(file, int(checkpoint.counters["env_steps"]), training, checkpoint.model)

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint's file, wherever it lies. Raises CheckpointError where it cannot be read."""
        with os_errors_as(CheckpointError, f"cannot read checkpoint {self.path}"), open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def label(self) -> str:
        """Which agent it is: ``rtrl agent of my-run``."""
        path = self.path.resolve()
        run = path.parent.parent if path.parent.name == "checkpoints" else path
        return f"{self.training.label} agent of {run.name}"

    def check_plays(self, task: str) -> None:
        """Raise ConfigError for a task of another suite: its options and its engine are others."""
        if find_task(task).suite.name != self.training.tasks[0].suite.name:
            raise ConfigError(f"the agent of {self.path} was trained on {self.training.task} and cannot play {task}")

    def agent(self, spec: ObservationSpec, device: torch.device, task: str) -> Agent:
        """The agent on ``device``. Raises CheckpointError, which names ``task``, if it does not fit ``spec``."""
        try:
            agent = make_agent(spec, self.training.agent, self.training.seed, device).eval()
            load_model_state(agent, self.model)
        except (ConfigError, CheckpointError) as error:
            shown = f"observations {list(spec.shape)}{' with instructions' if spec.instruction_length else ''}"
            there = f"{task}, which has {shown} and {spec.actions}"
            raise CheckpointError(f"the agent of {self.path} cannot play {there}: {error}") from error
        return agent


def find_checkpoint(path: Path) -> Path:
    """The checkpoint at ``path``, or the newest one of the run at ``path``. Raises RunDirectoryError where there is no
    run, CheckpointError where it has no checkpoint yet."""
    with os_errors_as(RunDirectoryError, f"{path} cannot be read"):
        if path.is_file():
            return path
    return latest_checkpoint(RunDirectory.open(path, for_writing=False).checkpoints)


def folder_of(path: Path) -> Path:
    """The run that ``path`` is, or that the checkpoint ``path`` lies in, else the checkpoint's folder."""
    path = path.resolve()
    return path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent


def make_agent(spec: ObservationSpec, config: AgentConfig, seed: int, device: torch.device) -> Agent:
    """A new agent whose weights follow from ``seed`` alone. Raises ConfigError if it cannot read the observations."""
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
    """Copy the encoder of a run or checkpoint, and how the vectors that it sees are normalised. Raises
    RunDirectoryError, CheckpointError where it does not fit, ConfigError where one of both agents normalises them and
    the other does not."""
    model = load_checkpoint(find_checkpoint(path)).model
    encoder, observations = (
        {name.removeprefix(prefix): tensor for name, tensor in model.items() if name.startswith(prefix)}
        for prefix in ("encoder.", "observations.")
    )
    if not encoder:
        raise CheckpointError(f"{path} has no encoder to take: its agent was trained with --encoder none")
    try:
        load_model_state(agent.encoder, encoder)
    except CheckpointError as error:
        raise CheckpointError(f"the encoder of {path} does not fit this agent: {error}") from error
    if bool(observations) != (agent.observations is not None):
        raise ConfigError(
            f"--normalise-observations is {not observations}, but it must be {bool(observations)} as in the training "
            f"of the encoder of {path}"
        )
    if agent.observations is not None:
        load_model_state(agent.observations, observations)


def choose_device(name: str, flag: str = "--device") -> torch.device:
    """The device ``name``; "auto" is the GPU, or the CPU without one. Raises ConfigError for one that is not here."""
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{flag} is {name!r}, but it must be auto, cpu, cuda or cuda:<number>")
    count = torch.cuda.device_count() if has_gpu else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"{flag} is {name!r}, but this machine has {count} CUDA devices that torch can use")
    return device


def learner_device(name: str) -> torch.device:
    """As `choose_device`, for a learner in this process: a GPU has its number and is torch's current device."""
    device = choose_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device
