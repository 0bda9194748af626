"""All that stands between the environments and the learner, built from the settings of a training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import find_tasks
from r2ac.launch.cluster.connect import connect
from r2ac.launch.rollouts.batch_pipeline import BUFFERS, BatchPipeline
from r2ac.launch.rollouts.batcher import Batcher, batch_ring
from r2ac.launch.rollouts.failures import FailurePolicy
from r2ac.launch.rollouts.inference.acting_agent import InferenceConfig
from r2ac.launch.rollouts.inference.pool import InferencePool, pool_anywhere, pool_beside
from r2ac.launch.rollouts.orders import Orders
from r2ac.launch.rollouts.publisher import WeightsPublisher
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.rollout_source import InProcessSource, RaySource
from r2ac.launch.rollouts.transport.links import ActorStarter, RayLink, SocketLink
from r2ac.launch.rollouts.transport.shared_memory import NoMemory
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights, Weights
from r2ac.launch.runs.loading import choose_device
from r2ac.launch.runtime.process import available_cores
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.learner import Learner


@dataclass(frozen=True)
class Rollouts:
    """Where a learner's batches come from (the source, or what makes its batches ready ahead) and its weights go."""

    source: RaySource | InProcessSource
    batches: RaySource | InProcessSource | BatchPipeline
    publish: Callable[[], None]


def open_rollouts(
    config: TrainConfig[Any],
    spec: ObservationSpec,
    learner: Learner,
    counters: Mapping[str, int | float],
    stack: ExitStack,
    first_index: int = 0,
) -> Rollouts:
    """Start the learner's rollout actors, with all they need; ``stack`` ends all of it.

    The ``counters`` of the checkpoint that a run goes on from (empty for a new one) let actors begin other episodes
    than those already played; ``first_index`` is the number of this learner's first actor among those of all learners.
    Raises ConfigError for a device that is not there, or where there is no memory for the rollouts; ConnectionFailed
    and InferenceFailed where Ray or an inference worker cannot start.
    """
    sequence = int(counters.get("next_sequence", 0))
    actors = _actor_configs(config, spec, int(counters.get("incarnation", -1)) + 1, first_index)
    if config.num_actors == 0:
        on_gpu = config.inference_device != "auto" or len(spec.shape) == 3
        device = _acting_device(config) if on_gpu else "cpu"
        # Weights need not be copied where both compute here: an actor that shares the learner's has the newest.
        shares = config.publish_every == 1 and device == learner.device.type == "cpu"
        actor = RolloutActor(actors[0], device=device, weights_of=learner.agent if shares else None, slots=2)
        stack.callback(actor.close)
        alone = InProcessSource(actor, config.batch_size, sequence)
        if shares:
            return Rollouts(alone, alone, lambda: alone.publish(Weights(learner.updates, None)))
        return Rollouts(alone, alone, WeightsPublisher(learner, alone.publish, wait=True))
    try:
        source = _ray_source(config, spec, learner, actors, sequence, stack)
    except NoMemory as error:
        raise ConfigError(str(error)) from error
    batches: RaySource | BatchPipeline = source
    in_step = config.learner.on_policy
    if learner.device.type == "cuda" and not in_step:
        # On a CPU a thread that makes batches ready would take the interpreter and a core from the update.
        batches = stack.enter_context(closing(BatchPipeline(source, learner.stage)))
    publish = stack.enter_context(closing(WeightsPublisher(learner, source.publish, wait=in_step)))
    return Rollouts(source, batches, publish)


def _ray_source(
    config: TrainConfig[Any],
    spec: ObservationSpec,
    learner: Learner,
    actors: list[ActorConfig],
    sequence: int,
    stack: ExitStack,
) -> RaySource:
    """Rollout actors in Ray processes. Raises NoMemory."""
    streams, in_flight, final = config.streams_per_actor, config.rollouts_in_flight, config.bootstrap_at_time_limits
    layout = RolloutLayout(config.rollout_length, streams, spec, learner.agent.core.state_size, final)
    inference = _inference_config(config, layout, actors[0]) if acts_on_workers(config, spec) else None
    # Locally there is a place for each actor; a cluster need only have those that fill a batch.
    local = config.ray_address == "local"
    enough = len(actors) if local else math.ceil(config.batch_size / streams)
    ray = stack.enter_context(closing(connect(config.ray_address, num_actors=enough))).ray
    step_timeout = find_tasks(config.task)[0].killed_after(config.env)
    pool: InferencePool | None = None
    link: RayLink | SocketLink
    weights: SharedWeights | InferencePool | RayLink
    if config.shares_memory:
        # Only this user enters the folder.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="r2ac-", ignore_cleanup_errors=True)))
        number = sum(parameter.numel() for parameter in learner.agent.parameters())
        weights = shared = stack.enter_context(closing(SharedWeights.create(number)))
        if inference is not None:
            pool = pool_beside(ray, inference, config.inference_workers, shared.handle(), folder)
            stack.callback(pool.close)
        link = SocketLink(ActorStarter(ray, actors, step_timeout, shared, pool), layout, in_flight, folder)
    else:
        if inference is not None:
            pool = pool_anywhere(ray, inference, config.inference_workers)
            stack.callback(pool.close)
        link = RayLink(ActorStarter(ray, actors, step_timeout, None, pool))
        weights = pool or link
    stack.callback(link.close)
    ring = batch_ring(replace(layout, num_streams=config.batch_size), BUFFERS, pinned=learner.device.type == "cuda")
    return RaySource(
        link,
        weights,
        Orders(len(actors), streams, in_flight, sequence, config.max_policy_lag),
        Batcher(config.batch_size, ring),
        FailurePolicy(ray, len(actors), step_timeout),
        pool,
        update=learner.updates,
        first_index=actors[0].first_index,
        all_have_places=local,
        timeline=partial(_write_timeline, ray),
    )


def _write_timeline(ray: Any, path: Path) -> None:
    # It warns of where another version will look.
    logging.getLogger("ray._private.state").setLevel(logging.ERROR)
    ray.timeline(filename=str(path))


def acts_on_workers(config: TrainConfig[Any], spec: ObservationSpec) -> bool:
    """Whether inference workers compute the actions."""
    if config.inference != "auto":
        return config.inference == "worker"
    return config.num_actors > 0 and config.shares_memory and len(spec.shape) == 3 and torch.cuda.is_available()


def _actor_configs(
    config: TrainConfig[Any], spec: ObservationSpec, incarnation: int, first_index: int
) -> list[ActorConfig]:
    groups = min(2, config.streams_per_actor) if acts_on_workers(config, spec) else 1
    return [
        ActorConfig(
            task=config.task,
            env=config.env,
            agent=config.agent,
            seed=config.seed,
            rollout_length=config.rollout_length,
            num_streams=config.streams_per_actor,
            index=first_index + index,
            first_index=first_index,
            incarnation=incarnation,
            final_observations=config.bootstrap_at_time_limits,
            stagger_streams=config.stagger_streams,
            num_groups=config.stream_groups or groups,
        )
        for index in range(max(config.num_actors, 1))
    ]


def _inference_config(config: TrainConfig[Any], layout: RolloutLayout, actor: ActorConfig) -> InferenceConfig:
    cores = max(1, available_cores() // (config.inference_workers + config.num_actors + 1))
    return InferenceConfig(
        agent=config.agent,
        layout=layout,
        columns=actor.columns,
        num_streams=config.num_streams,
        # Ray may place workers on other machines than this one, unless memory is shared with them.
        device=_acting_device(config) if config.shares_memory else config.inference_device,
        threads=cores if config.shares_memory else 1,
    )


def _acting_device(config: TrainConfig[Any]) -> str:
    """Where actions are computed on this machine."""
    device = choose_device(config.inference_device, "--inference-device")
    return device.type if config.inference_device == "auto" else str(device)
