"""Inference workers: they say what an agent of the actor's own would say, to many actors at once, and can be lost."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.rollouts.inference.policies import InferenceLost
from r2ac.launch.rollouts.inference.socket_worker import InferenceConfig, InferenceWorker
from r2ac.launch.rollouts.rollout_actor import INFERENCE, ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout, SharedRollouts
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights, Weights
from r2ac.learner import Rollout

AGENT = AgentConfig(hidden_size=6, encoder="mlp", encoder_features=5)
SPEC = ObservationSpec((4,), DiscreteActions(2))
STREAMS, STEPS, SLOTS = 5, 6, 2
CONFIG = ActorConfig("memory/tmaze", MemoryOptions(corridor_length=3), AGENT, 7, STEPS, STREAMS, index=0, num_groups=2)
LAYOUT = RolloutLayout(STEPS, STREAMS, SPEC, state_size=6)


def make_weights(version: int) -> Weights:
    torch.manual_seed(version)
    values = parameters_to_vector(Agent(SPEC, AGENT).parameters()).detach()
    return Weights(version, (3 * values).numpy())


@pytest.fixture
def shared() -> Iterator[SharedWeights]:
    shared = SharedWeights.create(len(make_weights(1).values))
    yield shared
    shared.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "inference")


@pytest.fixture
def worker(shared: SharedWeights, address: str) -> Iterator[InferenceWorker]:
    config = InferenceConfig(AGENT, LAYOUT, CONFIG.columns, 3 * STREAMS, "cpu")
    worker = InferenceWorker(config, shared.handle(), address)
    shared.publish(make_weights(1))
    yield worker
    if worker.failure() is None:
        worker.close()


@pytest.fixture
def start(worker: InferenceWorker, address: str) -> Iterator[Callable[[int], tuple[RolloutActor, SharedRollouts]]]:
    """start(index) starts a rollout actor that asks the worker, and gives its memory too."""
    started: list[tuple[RolloutActor, SharedRollouts]] = []

    def make(index: int) -> tuple[RolloutActor, SharedRollouts]:
        memory = SharedRollouts.create(LAYOUT, SLOTS)
        config = replace(CONFIG, index=index)
        started.append((RolloutActor(config, memory=memory.handle(), inference=address), memory))
        return started[-1]

    yield make
    for actor, memory in started:
        actor.close()
        memory.close()


def collect_alone(index: int, rollouts: int) -> list[Rollout[np.ndarray]]:
    """What the same actor collects with an agent of its own."""
    actor = RolloutActor(replace(CONFIG, index=index))
    found = []
    for number in range(rollouts):
        rollout = actor.collect(make_weights(1), number).rollout
        assert rollout is not None
        found.append(rollout)
    actor.close()
    return found


def check_same(rollout: Rollout[np.ndarray], expected: Rollout[np.ndarray]) -> None:
    assert rollout.arrays().keys() == expected.arrays().keys()
    for name, array in expected.arrays().items():
        np.testing.assert_allclose(getattr(rollout, name), array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_worker_acts_as_an_agent_of_the_actors_own(
    worker: InferenceWorker, start: Callable[[int], tuple[RolloutActor, SharedRollouts]]
) -> None:
    actor, memory = start(0)
    for number, expected in enumerate(collect_alone(0, 5)):
        collected = actor.collect(make_weights(9), number)
        assert collected.rollout is None, "it lies in the memory"
        assert collected.seconds[INFERENCE] > 0
        check_same(memory.slots[number % SLOTS], expected)
    assert expected.first_state.any()
    done = worker.statistics()
    assert done.requests == 5 * STEPS * 2
    assert done.seconds > 0


def test_actors_that_ask_together_are_answered_together_each_with_its_own_cells(
    worker: InferenceWorker, start: Callable[[int], tuple[RolloutActor, SharedRollouts]]
) -> None:
    pairs = [start(index) for index in range(3)]
    barrier = threading.Barrier(3)

    def collect(actor: RolloutActor) -> None:
        for number in range(20):
            barrier.wait(30)
            actor.collect(make_weights(9), number)

    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(collect, actor) for actor, _ in pairs]:
            each.result()
    for index, (_, memory) in enumerate(pairs):
        check_same(memory.slots[19 % SLOTS], collect_alone(index, 20)[-1])
    done = worker.statistics()
    assert done.requests == 3 * 20 * STEPS * 2
    assert done.batches < done.requests


def test_new_weights_act_from_the_next_step_and_rollouts_tell_the_oldest(
    shared: SharedWeights, start: Callable[[int], tuple[RolloutActor, SharedRollouts]]
) -> None:
    actor, memory = start(0)
    actor.collect(make_weights(9), 0)
    assert set(memory.slots[0].weights_version.tolist()) == {1}
    shared.publish(make_weights(4))
    actor.collect(make_weights(9), 1)
    assert set(memory.slots[1].weights_version.tolist()) == {4}
    assert not np.allclose(memory.slots[1].behaviour_logits, collect_alone(0, 2)[1].behaviour_logits)


def test_an_actor_that_goes_and_comes_again_does_not_disturb_the_others(
    worker: InferenceWorker, start: Callable[[int], tuple[RolloutActor, SharedRollouts]]
) -> None:
    (gone, _), (stays, memory) = start(0), start(1)
    gone.collect(make_weights(9), 0)
    stays.collect(make_weights(9), 0)
    gone.close()
    again, other = start(0)
    again.collect(make_weights(9), 0)
    stays.collect(make_weights(9), 1)
    check_same(memory.slots[1], collect_alone(1, 2)[1])
    check_same(other.slots[0], collect_alone(0, 1)[0])
    assert worker.failure() is None


def test_without_a_worker_the_actor_says_so(
    worker: InferenceWorker, address: str, start: Callable[[int], tuple[RolloutActor, SharedRollouts]]
) -> None:
    actor, memory = start(0)
    actor.collect(make_weights(9), 0)
    worker.close()
    assert worker.failure() is not None
    with pytest.raises(InferenceLost, match="inference worker is gone"):
        actor.collect(make_weights(9), 1)
    with pytest.raises(InferenceLost, match="cannot be reached"):
        RolloutActor(CONFIG, memory=memory.handle(), inference=address)


def test_who_says_nothing_or_nonsense_does_not_end_the_worker(
    worker: InferenceWorker, address: str, start: Callable[[int], tuple[RolloutActor, SharedRollouts]]
) -> None:
    for words in (b"", b"hello"):
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.connect(address)
        if words:
            stranger.send(words)
        stranger.close()
    actor, memory = start(0)
    actor.collect(make_weights(9), 0)
    check_same(memory.slots[0], collect_alone(0, 1)[0])
    assert worker.failure() is None


def test_a_worker_waits_for_its_first_weights(shared: SharedWeights, address: str) -> None:
    late = InferenceWorker(InferenceConfig(AGENT, LAYOUT, CONFIG.columns, STREAMS, "cpu"), shared.handle(), address)
    memory = SharedRollouts.create(LAYOUT, SLOTS)
    actor = RolloutActor(CONFIG, memory=memory.handle(), inference=address)
    with ThreadPoolExecutor(1) as pool:
        collected = pool.submit(actor.collect, make_weights(9), 0)
        with pytest.raises(TimeoutError):
            collected.result(timeout=0.3)
        shared.publish(make_weights(3))
        collected.result(timeout=30)
    assert set(memory.slots[0].weights_version.tolist()) == {3}
    actor.close()
    memory.close()
    late.close()
