"""One learner's part of a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import EnvironmentFailed, make_vector
from r2ac.launch.runs.loading import learner_device, load_encoder, make_agent
from r2ac.launch.runs.metrics import MetricsWriter
from r2ac.launch.runs.mirror import Mirror
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runtime.errors import RunDirectoryError, RunUnwritable, with_details_kept
from r2ac.launch.runtime.process import learner_threads, set_up_process
from r2ac.launch.runtime.progress import TrainingStatus
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.callback import TrainCallback
from r2ac.launch.train.loop import Records, Rollouts, Summary, TrainingLoop
from r2ac.launch.train.memory_budget import MemoryBudget, available_memory, check_fits, memory_budget
from r2ac.launch.train.resume import Resumed, begin_together, restore
from r2ac.launch.train.sources import make_batches, make_publisher, make_source
from r2ac.launch.train.summary import RUN_FAILURES, resume_command
from r2ac.learner import Collective, Learner, use_matmul_precision
from r2ac.learner.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint


@dataclass(frozen=True)
class Front:
    """What the first learner of a training has beside what all have: it opens the run, and tells how it goes."""

    path: Path
    """Of the run."""
    resumed: Resumed | None
    """The run, where it goes on; None where it is to be created."""
    show_status: Callable[[TrainingStatus], None]
    tell_budget: Callable[[MemoryBudget], None]
    callback: TrainCallback
    mirror: Mirror | None
    again: bool
    """Whether the training was started again after a failure."""


def learn(
    config: TrainConfig[Any],
    share: TrainConfig[Any],
    collective: Collective,
    front: Front | None,
    stop_requested: Callable[[], bool],
    take_signals: Callable[[], None],
) -> Summary | None:
    """One learner's part of a training, in this process, from its rollout actors to the last checkpoint.

    Args:
        config: of the whole training.
        share: the same with the actors and the batch of this learner.
        peers: all learners.
        front: of the first learner; None for the others.
        stop_requested: whether the training was asked to stop.
        take_signals: called where signals are to be taken, again after other libraries have put in their handlers.

    Returns:
        What became of it; None but for the first learner.

    Raises:
        As :func:`train`, and CollectiveBroken.
    """
    device = learner_device(share.device)
    set_up_process(learner_threads(share.learner_threads, share.busy_cores))
    use_matmul_precision(config.learner.matmul_precision)
    spec = observation_spec(config)
    resumed = front.resumed if front else None
    learner, budget = make_learner(share, spec, device, resumed, collective)
    with ExitStack() as stack:
        if front is not None:
            run = resumed.run if resumed else RunDirectory.create(front.path, config.to_json())
            stack.enter_context(run)
            front.tell_budget(budget)
        take_signals()
        try:
            counters = begin_together(learner, resumed, collective)
            source = make_source(share, spec, learner, counters, first_index=collective.rank * share.num_actors)
        except BaseException:
            if front is not None and resumed is None:
                run.discard()
            raise
        batches = stack.enter_context(closing(make_batches(share, source, learner)))
        take_signals()
        records = None
        if front is not None:
            metrics = stack.enter_context(MetricsWriter(run, learner.env_steps if resumed else None))
            if resumed is not None:
                run.write_config(config.to_json())
            metrics.write_config(config.to_json(), learner.env_steps)
            again = front.again and resumed is not None
            records = Records(run, metrics, front.show_status, front.callback, front.mirror, again)
        publisher = stack.enter_context(closing(make_publisher(share, batches, learner)))
        training = TrainingLoop(config, learner, Rollouts(source, batches, publisher), collective, records, counters)
        began = learner.updates
        try:
            return training.loop(stop_requested)
        except EnvironmentFailed as error:
            if front is None:
                raise
            sentence = with_details_kept(error, run.path)
            raise EnvironmentFailed(sentence, "", error.never_worked and learner.updates == began) from error
        except (RunDirectoryError, CheckpointError) as error:
            if not any(run.checkpoints.glob("step_*")):
                run.discard()
                raise RunUnwritable(f"{error}; nothing was learned") from error
            place = front.mirror.url if front is not None and front.mirror is not None else run.path
            rest = f"the checkpoints before are whole, and {resume_command(place)} goes on once there is room"
            raise RunUnwritable(f"{error}; {rest}") from error
        except Exception as error:
            # One that nothing is known about comes with its traceback.
            if front is not None and not isinstance(error, RUN_FAILURES):
                with suppress(CheckpointError):
                    steps = int(load_checkpoint(latest_checkpoint(run.checkpoints)).counters["env_steps"])
                    error.add_note(f"What was learned in {steps:,} steps is saved: {resume_command(run.path)} goes on.")
            raise


def observation_spec(config: TrainConfig[Any]) -> ObservationSpec:
    """What the environment shows and takes. Raises EnvironmentFailed where one that no suite lists cannot make a step:
    before there is a run."""
    # One stream of each task, so that all are seen to show the same.
    count = len(config.tasks)
    env = make_vector(config.task, count, config.seed, options=config.env)
    try:
        if config.tasks[0].suite.look_up is not None:
            env.reset()
            env.step(np.zeros(count, dtype=np.int64))
        return ObservationSpec.of(env)
    finally:
        env.close()


def make_learner(
    config: TrainConfig[Any],
    spec: ObservationSpec,
    device: torch.device,
    resumed: Resumed | None = None,
    collective: Collective | None = None,
) -> tuple[Learner, MemoryBudget]:
    """The learner, as new or as it was, and the memory that the run will hold.

    Args:
        config: checked settings, of this learner.
        spec: what the environment shows and takes.
        device: where it learns.
        resumed: the run that goes on; None for a new one.
        peers: all learners; None for one alone. What there is to be read from files, the first of them reads.

    Raises:
        ConfigError: where the memory is not there.
        CheckpointError: where the checkpoint, or that of the encoder, does not fit.
    """
    # An agent that does not fit must not be made.
    budget = memory_budget(config, spec, device)
    check_fits(budget, available_memory(device))
    agent = make_agent(spec, config.agent, config.seed, device)
    if resumed is None and config.encoder_from is not None and (collective is None or collective.rank == 0):
        load_encoder(agent, config.encoder_from)
    if config.freeze_encoder:
        agent.freeze_encoder()
    # A trace of a captured update has no parts.
    settings = replace(config.learner, cuda_graph=False) if config.profile else config.learner
    learner = Learner(agent, settings, config.num_streams, config.total_steps, collective)
    if resumed is not None:
        restore(learner, resumed.checkpoint, resumed.path)
    return learner, budget
