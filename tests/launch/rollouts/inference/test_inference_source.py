"""Batches from rollout actors in Ray processes that ask inference workers: the bound on their lag, and losses."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.cluster.connect import connect
from r2ac.launch.rollouts.inference.pool import InferencePool
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.settings.policy_lag import least_bound
from r2ac.learner import DeviceFeed, Rollout
from tests.launch.rollouts.opened import Opened, opened
from tests.processes import ray_processes, wait_until

ACTORS, STREAMS, STEPS, BATCH, IN_FLIGHT, WORKERS = 3, 4, 6, 8, 2, 2
AGENT = AgentConfig(hidden_size=5, encoder="none")
SPEC = ObservationSpec((4,), DiscreteActions(2))
MOST_LAG = least_bound(ACTORS * STREAMS, BATCH, IN_FLIGHT, prefetched=0, publish_every=1)


CONFIG = TrainConfig(
    "memory/tmaze",
    MemoryOptions(corridor_length=3),
    AGENT,
    seed=5,
    rollout_length=STEPS,
    batch_size=BATCH,
    num_actors=ACTORS,
    streams_per_actor=STREAMS,
    rollouts_in_flight=IN_FLIGHT,
    max_policy_lag=MOST_LAG,
    inference="worker",
    inference_workers=WORKERS,
    inference_device="cpu",
    stream_groups=2,
)


def make_weights(version: int) -> Weights:
    torch.manual_seed(0)
    return Weights(version, parameters_to_vector(Agent(SPEC, AGENT).parameters()).detach().numpy())


@pytest.fixture(scope="module")
def source() -> Iterator[Opened]:
    # Of this test alone: other processes leave things behind too.
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        with opened(CONFIG, SPEC) as source:
            source.publish(make_weights(0))
            yield source


def check_logits(rollout: Rollout[np.ndarray]) -> None:
    """All is what the agent says, step after step from the first cell: the weights are always the same."""
    agent, batch = Agent(SPEC, AGENT), Rollout(**DeviceFeed(torch.device("cpu"))(rollout.arrays()))
    vector_to_parameters(torch.from_numpy(make_weights(0).values), agent.parameters())
    cell = batch.first_state
    for t in range(rollout.length):
        output = agent.step(batch.observation[t], batch.reward[t], batch.is_first[t], cell)
        cell = output.state
        torch.testing.assert_close(output.logits, batch.behaviour_logits[t])


class Consumer:
    """Takes batches as the learner does and checks what comes."""

    def __init__(self, source: Opened) -> None:
        self.source, self.update = source, 0
        self.following = np.zeros(ACTORS * STREAMS, dtype=int)

    def take(self, patience: int = 10**9) -> bool:
        """False if none came within so many waits of the source."""
        questions = iter(range(patience))
        batch = self.source.next_batch(lambda: next(questions, None) is None)
        if batch is None:
            return False
        rollout = batch.rollout
        assert (self.update - rollout.weights_version).max() <= MOST_LAG
        assert (rollout.sequence >= self.following[rollout.stream]).all()
        self.following[rollout.stream] = rollout.sequence + 1
        check_logits(rollout)
        self.update += 1
        self.source.publish(make_weights(self.update))
        return True


@pytest.fixture(scope="module")
def consumer(source: Opened) -> Consumer:
    return Consumer(source)


def _batches_are_what_the_agent_says_with_weights_as_new_as_was_asked(consumer: Consumer) -> None:
    # Training begins before the last actor has started.
    while consumer.following.min() <= 5:
        assert consumer.take()
        assert consumer.update < 5000
    assert consumer.source.counts.actor_restarts == 0


def _the_learner_waits_for_an_actor_that_is_late(consumer: Consumer) -> None:
    late, before = ray_processes("RolloutActor")[0], consumer.update
    os.kill(late, signal.SIGSTOP)
    try:
        while consumer.take(patience=4):
            assert consumer.update - before < 20, "the others are not to go on for ever"
    finally:
        os.kill(late, signal.SIGCONT)
    for _ in range(10):
        assert consumer.take()
    assert consumer.source.counts.held_back > 0


def _a_killed_worker_is_replaced_with_the_actors_that_asked_it(consumer: Consumer) -> None:
    workers = ray_processes("InferenceWorker")
    assert len(workers) == WORKERS
    os.kill(workers[0], signal.SIGKILL)
    for _ in range(2000):
        assert consumer.take()
        if consumer.source.counts.inference_restarts:
            break
    for _ in range(20):
        assert consumer.take()
    counts = consumer.source.counts
    assert counts.inference_restarts == 1
    # Those of one worker: actors 0 and 2, or actor 1.
    assert counts.actor_restarts in (1, 2)
    assert set(ray_processes("InferenceWorker")) > set(workers[1:])
    # Each stream goes on.
    assert (consumer.following[: ACTORS * STREAMS] > 10).all()


def _a_killed_actor_is_replaced_and_the_worker_stays(consumer: Consumer) -> None:
    restarts = consumer.source.counts.actor_restarts
    folders = set(Path(tempfile.gettempdir()).glob("r2ac-*/orders"))
    assert folders
    assert all(path.parent.stat().st_mode & 0o777 == 0o700 for path in folders)
    workers = set(ray_processes("InferenceWorker"))
    os.kill(ray_processes("RolloutActor")[0], signal.SIGKILL)
    for _ in range(2000):
        assert consumer.take()
        if consumer.source.counts.actor_restarts > restarts:
            break
    for _ in range(20):
        assert consumer.take()
    assert consumer.source.counts.actor_restarts == restarts + 1
    assert set(ray_processes("InferenceWorker")) == workers


def _an_actor_and_its_worker_are_replaced_that_are_killed_together(consumer: Consumer) -> None:
    restarts = consumer.source.counts.inference_restarts
    for pid in (*ray_processes("RolloutActor"), *ray_processes("InferenceWorker")):
        os.kill(pid, signal.SIGKILL)
    for _ in range(40):
        assert consumer.take()
    assert consumer.source.counts.inference_restarts == restarts + WORKERS
    assert consumer.following.min() > 10


def _nothing_is_left_in_the_file_system(consumer: Consumer) -> None:
    ours = set(Path(tempfile.gettempdir()).glob("r2ac-*/inference-*"))
    assert ours
    consumer.source.close()
    assert not [path for path in ours if path.exists() or path.parent.exists()]


@pytest.mark.slow
def test_workers_and_actors_from_their_start_to_their_end(consumer: Consumer) -> None:
    """One life, in its order: a start of Ray takes longer than all of it."""
    _batches_are_what_the_agent_says_with_weights_as_new_as_was_asked(consumer)
    _the_learner_waits_for_an_actor_that_is_late(consumer)
    _a_killed_worker_is_replaced_with_the_actors_that_asked_it(consumer)
    _a_killed_actor_is_replaced_and_the_worker_stays(consumer)
    _an_actor_and_its_worker_are_replaced_that_are_killed_together(consumer)
    _nothing_is_left_in_the_file_system(consumer)


class Worker:
    """Answers as an inference worker that lives; the first of its kind loses the weights that are sent to it."""

    def __init__(self, loses: bool) -> None:
        self._loses = loses

    def failure(self) -> None:
        pass

    def load(self, weights: Weights) -> None:
        if self._loses:
            raise OSError("lost on their way")


@pytest.mark.slow
def test_a_worker_that_lives_but_did_not_take_weights_is_replaced() -> None:
    with closing(connect("local", num_actors=1)) as connection:
        starts = count()

        def start(index: int) -> tuple[Any, Any]:
            handle = connection.ray.remote(Worker).options(num_cpus=0).remote(loses=next(starts) == 0)
            return handle, handle

        pool = InferencePool(connection.ray, 1, start, sends_weights=True)
        pool.publish(make_weights(3))
        wait_until(lambda: pool.version(0) == -1 and pool.revive_lost() == 1)
        wait_until(lambda: pool.version(0) == 3)
        pool.close()
