"""What checkpoints say about their gradients: rollouts are played with their weights, and nothing is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent
from r2ac.launch.inspection.credit import Reach, measure_reach
from r2ac.launch.inspection.inspect_config import InspectConfig
from r2ac.launch.inspection.staleness import Staleness, continued_learner, measure_staleness
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runs.loading import TrainedAgent, choose_device, folder_of
from r2ac.launch.runs.run_directory import RunDirectory, json_text, write_atomically
from r2ac.launch.runtime.errors import RunDirectoryError, RunError, os_errors_as
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.watching.memory_analysis import half_lives
from r2ac.learner import Rollout
from r2ac.learner.checkpoint import latest_checkpoint, load_checkpoint

PERCENTILES = (10, 50, 90)


@dataclass(frozen=True)
class Inspection:
    """What was found with the weights of one checkpoint."""

    checkpoint: Path
    env_steps: int
    training: TrainConfig[Any]
    streams: int
    config: InspectConfig
    reach: Reach
    parameters: int
    """Of the agent."""
    staleness: Staleness | None = None

    @property
    def about(self) -> str:
        """How the agent was trained."""
        return f"{self.training.label}, rollouts of {self.training.rollout_length} steps"

    @property
    def ratio(self) -> float:
        """Of the mean norms: boundary term over the gradient inside the rollout; nan where both are zero."""
        boundary, inside = self.reach.boundary_norm, self.reach.inside_norm
        return boundary / inside if inside else math.inf if boundary else math.nan

    @cached_property
    def half_lives(self) -> np.ndarray:
        """Of each unit, in steps within an episode, [N]."""
        return half_lives(self.reach.jacobians)

    def half_life_percentiles(self) -> tuple[float, ...]:
        """Over the units, at `PERCENTILES`: those of a unit, none between two, for some may be infinite."""
        return tuple(np.percentile(self.half_lives, PERCENTILES, method="inverted_cdf").tolist())

    def to_json(self) -> dict[str, Any]:
        """Numbers may be infinite or NaN."""
        reach = self.reach
        percentiles = zip(PERCENTILES, self.half_life_percentiles(), strict=True)
        return {
            "checkpoint": self.checkpoint.name,
            "env_steps": self.env_steps,
            "parameters": self.parameters,
            "boundary_norm": reach.boundary_norm,
            "inside_norm": reach.inside_norm,
            "ratio": self.ratio,
            "cosine": reach.cosine,
            "credit_horizon": reach.credit_horizon,
            "truncations": [asdict(truncation) for truncation in reach.truncations],
            "half_lives": {f"p{at}": value for at, value in percentiles} | {"units": self.half_lives.tolist()},
            **({"staleness": asdict(self.staleness)} if self.staleness is not None else {}),
        }


def checkpoints_at(path: Path) -> list[Path]:
    """The checkpoint at ``path``, or all that the run there has kept, oldest first. Raises RunDirectoryError where
    there is neither, CheckpointError if the run has no checkpoint yet."""
    with os_errors_as(RunDirectoryError, f"{path} cannot be read"):
        if path.is_file():
            return [path]
    newest = latest_checkpoint(RunDirectory.open(path, for_writing=False).checkpoints)
    # The names count steps, in at least twelve digits.
    return sorted(newest.parent.glob("step_*.safetensors"), key=lambda file: (len(file.name), file.name))


def results_path(path: Path) -> Path:
    """Where the inspection of ``path`` is written: ``inspect.json`` of the run; that of a checkpoint has a file of its
    own, ``inspect-<step>.json``, in the run that it lies in, else beside it."""
    if path.is_dir():
        return folder_of(path) / "inspect.json"
    step = path.stem.removeprefix("step_")
    return folder_of(path) / f"inspect-{int(step) if step.isdecimal() else path.stem}.json"


def inspect_checkpoint(path: Path, config: InspectConfig, report: Callable[[int], object]) -> Inspection:
    """Play rollouts with the weights of the checkpoint at ``path`` and take their gradients apart.

    The episodes are some of the training's, and follow from the settings alone; RTRL's part is measured for agents that
    were trained by TBPTT, or with a frozen core, as well. ``report`` is called with the number of rollouts played.
    Raises ConfigError for a core that RTRL cannot train or settings that do not fit, and CheckpointError, UnknownTask,
    MissingPackage.
    """
    trained = TrainedAgent.load(path)
    training = trained.training
    if config.staleness and training.agent.gradient == "tbptt":
        raise ConfigError(f"{path} holds an agent of TBPTT, which carries no sensitivities: none can be stale")
    if training.agent.layer_gradient == "full":
        raise ConfigError(
            f"{path} holds layers with --layer-gradient full, whose sensitivities are not taken apart: inspect reads "
            "those with rollout or local"
        )
    exact = replace(training.agent, gradient="rtrl", freeze_core=False)
    streams = config.streams or training.batch_size
    if streams < len(training.tasks):
        raise ConfigError(f"--streams is {streams}, but {len(training.tasks)} tasks need at least one each")
    device = choose_device(config.device)
    actor = RolloutActor(
        ActorConfig(
            training.task,
            training.env,
            exact,
            config.seed,
            training.rollout_length,
            streams,
            index=0,
            final_observations=training.bootstrap_at_time_limits,
        )
    )
    try:
        agent = replace(trained, training=replace(training, agent=exact)).agent(actor.spec, device, training.task)
        if agent.core.state_size == 0:
            raise ConfigError(f"{path} holds a feed-forward agent: it has no memory, and so no gradient through time")
        if not agent.core.uses_rtrl:
            raise ConfigError(f"{path} holds a core that RTRL cannot train: --core {exact.core}")
        reach = measure_reach(agent, training.learner, _play(actor, agent, config.rollouts, report), config.warm_up)
        staleness = _staleness(path, config, training, actor, device, report) if config.staleness else None
    finally:
        actor.close()
    return Inspection(path, trained.env_steps, training, streams, config, reach, agent.parameter_count(), staleness)


def write_inspection(inspections: Sequence[Inspection], path: Path) -> None:
    """The inspections of one run as JSON. Raises RunError if it cannot be written."""
    first = inspections[0]
    contents = {
        "task": first.training.task,
        "agent": first.training.label,
        "rollout_length": first.training.rollout_length,
        "streams": first.streams,
        "rollouts": first.config.rollouts,
        "measured": first.reach.measured,
        "seed": first.config.seed,
        "checkpoints": [inspection.to_json() for inspection in inspections],
    }
    with os_errors_as(RunError, f"{path} cannot be written"):
        write_atomically(path, json_text(contents, indent=2))


def _staleness(
    path: Path,
    config: InspectConfig,
    training: TrainConfig[Any],
    actor: RolloutActor,
    device: torch.device,
    report: Callable[[int], object],
) -> Staleness:
    """Of the training that goes on from the checkpoint at ``path``, in the actor's environments."""
    checkpoint = load_checkpoint(path)
    streams = config.streams or training.batch_size
    learner = continued_learner(training, actor.spec, device, checkpoint, streams, config.learning_rate)
    numbers, played = count(int(learner.carries.next_sequence[0])), count(config.rollouts + 1)

    def collect() -> Rollout[np.ndarray]:
        rollout = _collect(actor, learner.agent, next(numbers))
        report(next(played))
        return rollout

    return measure_staleness(learner, collect, config.updates, config.history)


def _play(
    actor: RolloutActor, agent: Agent, rollouts: int, report: Callable[[int], object]
) -> Iterator[Rollout[np.ndarray]]:
    for number in range(rollouts):
        yield _collect(actor, agent, number)
        report(number + 1)


def _collect(actor: RolloutActor, agent: Agent, number: int) -> Rollout[np.ndarray]:
    """The next rollout with the agent's weights."""
    # The actor takes over weights of another version than before alone.
    weights = Weights(number, parameters_to_vector(agent.parameters()).detach().cpu().numpy())
    rollout = actor.collect(weights, number).rollout
    assert rollout is not None
    return rollout
