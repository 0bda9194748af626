"""Going on with an interrupted run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from r2ac.launch.runs.loading import load_agent
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.learner import Collective, Learner, load_optimiser_state
from r2ac.learner.checkpoint import Checkpoint, CheckpointError, latest_checkpoint, load_checkpoint


@dataclass(frozen=True)
class Resumed:
    """An interrupted run that is to go on."""

    run: RunDirectory
    checkpoint: Checkpoint
    path: Path
    """Where the checkpoint was read from."""


def open_interrupted(path: Path, waits: Callable[[str], object] | None = None) -> Resumed:
    """Lock the run at ``path``, as :meth:`RunDirectory.open` does, and read its newest checkpoint.

    Raises:
        RunDirectoryError: if there is no run, or it is in use.
        CheckpointError: if it has no checkpoint that can be read.
    """
    run = RunDirectory.open(path, for_writing=True, waits=waits)
    try:
        newest = latest_checkpoint(run.checkpoints)
        return Resumed(run, load_checkpoint(newest), newest)
    except CheckpointError as error:
        run.close()
        raise CheckpointError(f"{path} cannot go on: {error} (a damaged file must be removed first)") from error


def check_goes_on(config: TrainConfig[Any], resumed: Resumed) -> None:
    """Raise ConfigError where a setting that the checkpoint depends on is not what it was."""
    before = config_from_json(resumed.checkpoint.config, resumed.path)
    pairs = [(name, getattr(before, name), getattr(config, name)) for name in ("encoder_from", "freeze_encoder")]
    pairs.append(("optimiser", before.learner.optimiser, config.learner.optimiser))
    pairs += [(name, was, getattr(config.agent, name)) for name, was in vars(before.agent).items()]
    for name, was, now in pairs:
        if was != now:
            raise ConfigError(f"--{name.replace('_', '-')} is {now}, but a run goes on as it began, with {was}")


def begin_together(learner: Learner, resumed: Resumed | None, collective: Collective) -> Mapping[str, int | float]:
    """Give all learners what the first one begins with. Returns the counters of its checkpoint, none for a new run."""
    own = resumed.checkpoint if resumed else None
    checkpoint = collective.share(own)
    weights = collective.share({name: tensor.cpu() for name, tensor in learner.agent.state_dict().items()})
    if collective.rank > 0:
        learner.agent.load_state_dict(weights)
        if checkpoint is not None:
            restore(learner, checkpoint, Path("the checkpoint"))
            # They are summed over the learners.
            learner.carries.resets = 0
    return checkpoint.counters if checkpoint else {}


def restore(learner: Learner, checkpoint: Checkpoint, source: Path) -> None:
    """Bring learner, counters and random state back to what they were; every stream begins a new episode."""
    counters = checkpoint.counters
    load_agent(learner.agent, checkpoint, source)
    load_optimiser_state(learner.optimiser, checkpoint.optimiser)
    learner.env_steps, learner.updates = int(counters["env_steps"]), int(counters["updates"])
    learner.skipped_updates = int(counters["skipped_updates"])
    learner.carries.resets = int(counters["stream_resets"])
    learner.carries.next_sequence[:] = int(counters["next_sequence"])
    torch.set_rng_state(checkpoint.random_state)
