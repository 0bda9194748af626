"""One learner's part of a training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import EnvironmentFailed, Signals, make_vector
from r2ac.launch.runs.loading import learner_device, load_encoder, make_agent
from r2ac.launch.runtime.process import learner_threads, set_up_process
from r2ac.launch.runtime.stop_signals import StopSignals
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
    config: TrainConfig[Any], collective: Collective, run: RunContext | None, signals: StopSignals
) -> Summary | None:
    """One learner's part of a training, in this process, from its rollout actors to the last checkpoint. The first
    learner alone has the ``run``, and returns a summary. Raises as `train`, and CollectiveBroken."""
    share = share_of(config)
    device = learner_device(config.device)
    set_up_process(share.learner_threads)
    use_matmul_precision(config.learner.matmul_precision)
    spec = observation_spec(config)
    checkpoint = None if run is None else run.checkpoint
    learner, budget = make_learner(share, spec, device, checkpoint, collective)
    if run is not None:
        run.callback.show_budget(budget)
    signals.install()
    with ExitStack() as stack:
        counters = begin_together(learner, checkpoint, collective)
        rollouts = open_rollouts(share, spec, learner, counters, stack, collective.rank * share.num_actors)
        # Again: Ray, where it starts, puts in handlers of its own.
        signals.install()
        if run is not None:
            stack.enter_context(run.recording(config))
        training = TrainingLoop(config, learner, rollouts, collective, run, counters)
        began = learner.updates
        try:
            return training.loop(signals.stop_requested)
        except EnvironmentFailed as error:
            error.never_worked = error.never_worked and learner.updates == began
            raise


def share_of(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """The settings of each of the learners: its part of the actors, of the batch and of the cores."""
    count = max(1, config.num_learners)
    return replace(
        config,
        num_actors=config.num_actors // count,
        batch_size=config.batch_size // count,
        learner_threads=learner_threads(config.learner_threads, config.busy_cores, count),
        inference_workers=max(1, config.inference_workers // count),
    )


def observation_spec(config: TrainConfig[Any]) -> ObservationSpec:
    """What the environment shows. Raises EnvironmentFailed where one that no suite lists cannot make a step."""
    # One stream of each task, so that all are seen to show the same.
    count = len(config.tasks)
    env = make_vector(config.task, count, config.seed, options=config.env)
    try:
        spec = ObservationSpec.of(env)
        if config.tasks[0].suite.look_up is not None:
            mask = Signals.of(env.reset()[1]).action_mask
            env.step(spec.actions.at_random(np.random.default_rng(config.seed), count, mask))
        return spec
    finally:
        env.close()


def make_learner(
    config: TrainConfig[Any],
    spec: ObservationSpec,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    collective: Collective | None = None,
) -> tuple[Learner, MemoryBudget]:
    """The learner, as new or as its checkpoint has it, and the memory that the run will hold. Raises ConfigError where
    the memory is not there, and CheckpointError where the checkpoint, or that of the encoder, does not fit."""
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
