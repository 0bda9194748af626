"""The rollout actors of a training, from its settings: how many, where they act, and how their rollouts travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from r2ac.agents import ObservationSpec
from r2ac.launch.rollouts.batch_pipeline import BUFFERS, Batches, BatchPipeline, DirectBatches
from r2ac.launch.rollouts.batcher import BatchRing
from r2ac.launch.rollouts.in_process_source import InProcessSource
from r2ac.launch.rollouts.inference.acting_agent import InferenceConfig
from r2ac.launch.rollouts.publisher import WeightsPublisher
from r2ac.launch.rollouts.rollout_actor import ActorConfig
from r2ac.launch.rollouts.rollout_source import NoMemory, RayConfig, RaySource, RolloutSource
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.runs.loading import choose_device
from r2ac.launch.runtime.process import available_cores
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.learner import Learner


def make_source(
    config: TrainConfig[Any],
    spec: ObservationSpec,
    learner: Learner,
    counters: Mapping[str, int | float],
    first_index: int = 0,
) -> RolloutSource:
    """The rollout actors; those of a resumed run begin other episodes than the ones already played.

    Args:
        config: checked settings.
        spec: what the environment shows and takes.
        learner: for which the rollouts are.
        counters: of the checkpoint that the run goes on from, empty for a new run.
        first_index: the number of this learner's first actor among the actors of all learners.

    Raises:
        ConfigError: for a device that is not there, or where there is no memory for the rollouts.
        ConnectionFailed, InferenceFailed: where Ray or an inference worker cannot start.
    """
    sequence = int(counters.get("next_sequence", 0))
    uses_workers = acts_on_workers(config, spec)
    anywhere = uses_workers and config.num_actors > 0 and not config.shares_memory
    acting = _acting_device(config, anywhere)
    actors = [
        ActorConfig(
            task=config.task,
            env=config.env,
            agent=config.agent,
            seed=config.seed,
            rollout_length=config.rollout_length,
            num_streams=config.streams_per_actor,
            index=first_index + index,
            first_index=first_index,
            incarnation=int(counters.get("incarnation", -1)) + 1,
            final_observations=config.bootstrap_at_time_limits,
            num_groups=config.stream_groups or (min(2, config.streams_per_actor) if uses_workers else 1),
        )
        for index in range(max(config.num_actors, 1))
    ]
    if config.num_actors == 0:
        on_gpu = config.inference_device != "auto" or len(spec.shape) == 3
        return InProcessSource(actors[0], config.batch_size, sequence, acting if on_gpu else "cpu")
    layout = RolloutLayout(
        config.rollout_length,
        config.streams_per_actor,
        spec,
        learner.agent.core.state_size,
        config.bootstrap_at_time_limits,
    )
    inference = None
    if uses_workers:
        inference = InferenceConfig(
            agent=config.agent,
            layout=layout,
            columns=actors[0].columns,
            num_streams=config.num_streams,
            device=acting,
            threads=1 if anywhere else max(1, available_cores() // (config.inference_workers + config.num_actors + 1)),
        )
    settings = RayConfig(
        batch_size=config.batch_size,
        in_flight=config.rollouts_in_flight,
        address=config.ray_address,
        memory=layout if config.shares_memory else None,
        num_parameters=sum(parameter.numel() for parameter in learner.agent.parameters()),
        inference=inference,
        inference_workers=config.inference_workers,
        max_policy_lag=config.max_policy_lag,
    )
    ring = BatchRing(replace(layout, num_streams=config.batch_size), BUFFERS, pinned=learner.device.type == "cuda")
    try:
        return RaySource(actors, settings, [sequence] * len(actors), ring)
    except NoMemory as error:
        raise ConfigError(str(error)) from error


def make_batches(config: TrainConfig[Any], source: RolloutSource, learner: Learner) -> Batches:
    """The learner's batches: for a GPU made ready ahead, while it computes. On a CPU a thread that does so would take
    the interpreter and a core from the update."""
    made_ahead = config.num_actors > 0 and learner.device.type == "cuda"
    return (BatchPipeline if made_ahead else DirectBatches)(source, learner.stage)


def make_publisher(config: TrainConfig[Any], batches: Batches, learner: Learner) -> WeightsPublisher:
    """Of the learner's weights to those who act; with one process for all the newest act, and are waited for."""
    return WeightsPublisher(learner, batches.publish, wait=config.num_actors == 0)


def acts_on_workers(config: TrainConfig[Any], spec: ObservationSpec) -> bool:
    """Whether inference workers compute the actions."""
    if config.inference != "auto":
        return config.inference == "worker"
    return config.num_actors > 0 and config.shares_memory and len(spec.shape) == 3 and torch.cuda.is_available()


def _acting_device(config: TrainConfig[Any], anywhere: bool) -> str:
    """Where actions are computed; auto where Ray may place inference workers on other machines than this one."""
    if anywhere:
        return config.inference_device
    device = choose_device(config.inference_device, "--inference-device")
    return device.type if config.inference_device == "auto" else str(device)
