"""One learner's part of a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import EnvironmentFailed, make_vector
from r2ac.launch.runs.loading import learner_device, load_encoder, make_agent
from r2ac.launch.runtime.process import learner_threads, set_up_process
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.loop import TrainingLoop
from r2ac.launch.train.memory_budget import MemoryBudget, available_memory, check_fits, memory_budget
from r2ac.launch.train.resume import begin_together, restore
from r2ac.launch.train.run_context import RunContext
from r2ac.launch.train.sources import open_rollouts
from r2ac.launch.train.summary import Summary
from r2ac.learner import Collective, Learner, use_matmul_precision
from r2ac.learner.checkpoint import Checkpoint


def learn(
    config: TrainConfig[Any],
    share: TrainConfig[Any],
    collective: Collective,
    run: RunContext | None,
    stop_requested: Callable[[], bool],
    take_signals: Callable[[], None],
) -> Summary | None:
    """One learner's part of a training, in this process, from its rollout actors to the last checkpoint.

    Args:
        config: of the whole training.
        share: the same with the actors and the batch of this learner.
        collective: all learners.
        run: of the first learner; None for the others.
        stop_requested: whether the training was asked to stop.
        take_signals: called where signals are to be taken, again after other libraries have put in their handlers.

    Returns:
        What became of it; None but for the first learner.

    Raises:
        As :func:`r2ac.launch.train.train.train`, and CollectiveBroken.
    """
    device = learner_device(share.device)
    set_up_process(learner_threads(share.learner_threads, share.busy_cores))
    use_matmul_precision(config.learner.matmul_precision)
    spec = observation_spec(config)
    checkpoint = None if run is None else run.checkpoint
    learner, budget = make_learner(share, spec, device, checkpoint, collective)
    if run is not None:
        run.callback.show_budget(budget)
    take_signals()
    with ExitStack() as stack:
        counters = begin_together(learner, checkpoint, collective)
        rollouts = open_rollouts(share, spec, learner, counters, stack, collective.rank * share.num_actors)
        take_signals()
        if run is not None:
            stack.enter_context(run.recording(config))
        training = TrainingLoop(config, learner, rollouts, collective, run, counters)
        began = learner.updates
        try:
            return training.loop(stop_requested)
        except EnvironmentFailed as error:
            error.never_worked = error.never_worked and learner.updates == began
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
    checkpoint: Checkpoint | None = None,
    collective: Collective | None = None,
) -> tuple[Learner, MemoryBudget]:
    """The learner, as new or as it was, and the memory that the run will hold.

    Args:
        config: checked settings, of this learner.
        spec: what the environment shows and takes.
        device: where it learns.
        checkpoint: that the run goes on from; None for a new one.
        collective: all learners; None for one alone. What there is to be read from files, the first of them reads.

    Raises:
        ConfigError: where the memory is not there.
        CheckpointError: where the checkpoint, or that of the encoder, does not fit.
    """
    # An agent that does not fit must not be made.
    budget = memory_budget(config, spec, device)
    check_fits(budget, available_memory(device))
    agent = make_agent(spec, config.agent, config.seed, device)
    if checkpoint is None and config.encoder_from is not None and (collective is None or collective.rank == 0):
        load_encoder(agent, config.encoder_from)
    if config.freeze_encoder:
        agent.freeze_encoder()
    # A trace of a captured update has no parts.
    settings = replace(config.learner, cuda_graph=False) if config.profile else config.learner
    learner = Learner(agent, settings, config.num_streams, config.total_steps, collective)
    if checkpoint is not None:
        restore(learner, checkpoint)
    return learner, budget
