"""Going on with an interrupted run: its settings, its newest checkpoint, and a learner as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from r2ac.launch.runs.mirror import staging_path
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.settings.flags import changed_config, last_value
from r2ac.launch.settings.places import is_url
from r2ac.learner import Collective, Learner, load_optimiser_state
from r2ac.learner.checkpoint import Checkpoint, CheckpointError, load_model_state


def newest_step(place: Path | str) -> int | None:
    """The environment steps of the newest checkpoint of the run at a path or a URL; None where there is none."""
    local = staging_path(str(place)) if is_url(str(place)) else Path(place)
    names = {path.name for path in RunDirectory(local).checkpoints.glob("step_*.safetensors")}
    if is_url(str(place)):
        # The learner's own folder may lie on another machine.
        with suppress(StorageUnavailable):
            names |= {name.removeprefix("checkpoints/") for name in Store(str(place)).files()}
    steps = [name.removeprefix("step_").removesuffix(".safetensors") for name in names]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


def continued_config(place: Path | str, arguments: Sequence[str], names: str | None = None) -> TrainConfig[Any]:
    """The settings of the interrupted run at a path or a URL, changed by the flags, which may be for each of the tasks
    ``names``. Raises RunDirectoryError, StorageError and StorageUnavailable where they cannot be read, ConfigError for
    another --run-dir."""
    before = config_from_json(_read_config(place), Path(place) / "config.json")
    before = replace(before, run_dir=None if is_url(str(place)) else Path(place))
    algorithm = last_value(arguments, "--algorithm") or before.learner.algorithm
    if algorithm != before.learner.algorithm:
        # Before its settings are checked, most of which would be another algorithm's.
        raise ConfigError(f"--algorithm is {algorithm}, but a run goes on as it began, with {before.learner.algorithm}")
    config = changed_config(before, "r2ac train --resume RUN", arguments, names=names)
    if config.run_dir != before.run_dir:
        raise ConfigError(f"--run-dir is {config.run_dir}, but a run goes on where it is, in {place}")
    try:
        config.check()
    except ConfigError:
        # A flag that cannot be changed may be why others do not fit.
        _check_same(before, config)
        raise
    return config


def check_goes_on(config: TrainConfig[Any], checkpoint: Checkpoint, source: Path) -> None:
    """Raise ConfigError where a setting that a checkpoint, read from ``source``, depends on is not what it was."""
    _check_same(config_from_json(checkpoint.config, source), config)


def _check_same(before: TrainConfig[Any], config: TrainConfig[Any]) -> None:
    pairs = [(name, getattr(before, name), getattr(config, name)) for name in ("encoder_from", "freeze_encoder")]
    of_learner = ("algorithm", "optimiser")
    pairs += [(name, getattr(before.learner, name), getattr(config.learner, name)) for name in of_learner]
    pairs += [(name, was, getattr(config.agent, name)) for name, was in vars(before.agent).items()]
    # The gradient last: another core or a frozen one implies it.
    for name, was, now in sorted(pairs, key=lambda pair: pair[0] == "gradient"):
        if was != now:
            raise ConfigError(f"--{name.replace('_', '-')} is {now}, but a run goes on as it began, with {was}")


def _read_config(place: Path | str) -> dict[str, Any]:
    if not is_url(str(place)):
        return RunDirectory.open(place, for_writing=False).read_config()
    # Of a run that died before it was first copied only this machine knows.
    copy = RunDirectory(staging_path(str(place)))
    values = Store(str(place)).read_json("config.json")
    if values is None and not copy.config_path.exists():
        raise StorageError(f"{place} holds no run: there is no config.json")
    return copy.read_config() if values is None else values


def begin_together(
    learner: Learner, checkpoint: Checkpoint | None, collective: Collective
) -> Mapping[str, int | float]:
    """Give all learners what the first one begins with. Returns the counters of its checkpoint, none for a new run."""
    checkpoint = collective.share(checkpoint)
    weights = collective.share({name: tensor.cpu() for name, tensor in learner.agent.state_dict().items()})
    if collective.rank > 0:
        learner.agent.load_state_dict(weights)
        if checkpoint is not None:
            restore(learner, checkpoint)
            # They are summed over the learners.
            learner.carries.resets = 0
    return checkpoint.counters if checkpoint else {}


def restore(learner: Learner, checkpoint: Checkpoint) -> None:
    """Bring learner, counters and random state back to what they were; every stream begins a new episode."""
    counters = checkpoint.counters
    try:
        load_model_state(learner.agent, checkpoint.model)
    except CheckpointError as error:
        step = f"{counters['env_steps']:,}"
        raise CheckpointError(f"the checkpoint of step {step} does not fit this agent: {error}") from error
    load_optimiser_state(learner.optimiser, checkpoint.optimiser)
    learner.env_steps, learner.updates = int(counters["env_steps"]), int(counters["updates"])
    learner.skipped_updates = int(counters["skipped_updates"])
    learner.carries.resets = int(counters["stream_resets"])
    learner.carries.next_sequence[:] = int(counters["next_sequence"])
    torch.set_rng_state(checkpoint.random_state)
