"""Rollouts in step with the weights: each batch is one rollout of every stream, collected with the newest weights."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.settings.config import TrainConfig
from r2ac.learner.config import LearnerConfig
from tests.launch.rollouts.opened import Opened, opened
from tests.processes import ray_processes

ACTORS, STREAMS, FIRST_UPDATE = 2, 3, 5
AGENT = AgentConfig(hidden_size=5, encoder="none")
SPEC = ObservationSpec((4,), DiscreteActions(2))
WEIGHTS = parameters_to_vector(Agent(SPEC, AGENT).parameters()).detach().numpy()
CONFIG = TrainConfig(
    "memory/tmaze",
    MemoryOptions(corridor_length=3),
    AGENT,
    LearnerConfig(algorithm="ppo"),
    rollout_length=4,
    num_actors=ACTORS,
    streams_per_actor=STREAMS,
    inference_workers=2,
    inference_device="cpu",
)


class Learner:
    """Takes batches and publishes weights as the training loop does."""

    def __init__(self, source: Opened) -> None:
        self.source, self.update = source, FIRST_UPDATE
        self.following = np.zeros(ACTORS * STREAMS, dtype=int)
        source.publish(Weights(self.update, WEIGHTS))

    def take(self) -> np.ndarray:
        """An update; returns the rollouts that each stream has lost before this one."""
        rollout = self.source.take().rollout
        assert sorted(rollout.stream.tolist()) == list(range(ACTORS * STREAMS))
        assert set(rollout.weights_version.tolist()) == {self.update}
        lost = np.zeros(ACTORS * STREAMS, dtype=int)
        lost[rollout.stream] = rollout.sequence - self.following[rollout.stream]
        self.following[rollout.stream] = rollout.sequence + 1
        self.update += 1
        # As while an update lasts: time in which an actor that had an order would begin it.
        time.sleep(0.02)
        assert self.source.next_batch(lambda: True) is None
        self.source.publish(Weights(self.update, WEIGHTS))
        return lost


@pytest.mark.parametrize(
    ("transport", "inference"),
    [
        ("shared", "actor"),
        ("ray", "worker"),
        pytest.param("shared", "worker", marks=pytest.mark.slow),
        pytest.param("ray", "actor", marks=pytest.mark.slow),
    ],
)
def test_every_rollout_is_of_the_newest_weights_also_after_an_actor_died(
    local_ray: None, transport: str, inference: str
) -> None:
    config = replace(CONFIG, transport=transport, inference=inference)  # type: ignore[arg-type]
    with opened(replace(config, **config.in_step), SPEC, version=FIRST_UPDATE) as source:
        learner = Learner(source)
        for _ in range(10):
            assert not learner.take().any()
        os.kill(ray_processes("RolloutActor")[0], signal.SIGKILL)
        lost = np.sum([learner.take() for _ in range(10)], axis=0).reshape(ACTORS, STREAMS)
        assert source.counts.actor_restarts == 1
    # At most the one that was ordered, of all streams of one actor.
    assert sorted(map(tuple, lost.tolist())) in ([(0,) * STREAMS, (1,) * STREAMS], [(0,) * STREAMS] * ACTORS)
