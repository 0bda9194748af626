"""Batches from rollout actors in Ray processes, and what becomes of these processes."""

import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.agents.config import Gradient
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.rollouts.rollout_actor import ENVIRONMENT, INFERENCE, WAITING, ActorConfig, RolloutActor
from r2ac.launch.rollouts.rollout_source import Batch, InProcessSource
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.settings.config import TrainConfig
from r2ac.learner import DeviceFeed, Rollout
from tests.launch.rollouts.opened import Opened, opened
from tests.processes import is_loopback, listening_addresses, processes_below, ray_processes

# A batch needs rollouts of both actors, so that neither can fall behind the other.
ACTORS, STREAMS, BATCH, IN_FLIGHT, FIRST_SEQUENCE = 2, 4, 7, 2, 7
AGENT = AgentConfig(hidden_size=5, encoder="none")
SPEC = ObservationSpec((4,), DiscreteActions(2))


CONFIG = TrainConfig(
    "memory/tmaze",
    MemoryOptions(corridor_length=3),
    AGENT,
    seed=5,
    rollout_length=6,
    batch_size=BATCH,
    num_actors=ACTORS,
    streams_per_actor=STREAMS,
    rollouts_in_flight=IN_FLIGHT,
)
COUNTERS = {"next_sequence": FIRST_SEQUENCE}


def make_weights(version: int, agent: AgentConfig = AGENT) -> Weights:
    torch.manual_seed(version)
    return Weights(version, parameters_to_vector(Agent(SPEC, agent).parameters()).detach().numpy())


def never() -> bool:
    return False


def actor_processes() -> list[int]:
    """The processes of the rollout actors that this process has started."""
    actors = ray_processes("RolloutActor")
    assert len(actors) == ACTORS
    return actors


class Consumer:
    """Takes batches as the learner does, publishing new weights after each, and checks what comes."""

    def __init__(self, source: Opened) -> None:
        self.source = source
        self.version = 1
        self.next_sequence = np.full(ACTORS * STREAMS, FIRST_SEQUENCE)
        self.lost = np.zeros(ACTORS * STREAMS, dtype=int)
        self.lags: list[int] = []
        source.publish(make_weights(self.version))

    def take(self, interrupted: Callable[[], bool] = never) -> Batch | None:
        batch = self.source.next_batch(interrupted)
        if batch is not None:
            self._check(batch.rollout)
            self.version += 1
            self.source.publish(make_weights(self.version))
        return batch

    def _check(self, rollout: Rollout[np.ndarray]) -> None:
        assert rollout.batch_size == BATCH
        assert len(set(rollout.stream.tolist())) == BATCH
        gap = rollout.sequence - self.next_sequence[rollout.stream]
        assert gap.min() >= 0
        self.lost[rollout.stream] += gap
        self.next_sequence[rollout.stream] = rollout.sequence + 1
        self.lags += (self.version - rollout.weights_version).tolist()
        for version in set(rollout.weights_version.tolist()):
            check_logits(rollout, rollout.weights_version == version, make_weights(version))


def check_logits(rollout: Rollout[np.ndarray], columns: np.ndarray, weights: Weights) -> None:
    """These columns are what an agent with ``weights`` says, step after step from the first cell."""
    agent, batch = Agent(SPEC, AGENT), Rollout(**DeviceFeed(torch.device("cpu"))(rollout.arrays()))
    vector_to_parameters(torch.from_numpy(weights.values), agent.parameters())
    chosen = torch.from_numpy(columns)
    cell = batch.first_state[chosen]
    for t in range(rollout.length):
        output = agent.step(batch.observation[t, chosen], batch.reward[t, chosen], batch.is_first[t, chosen], cell)
        cell = output.state
        torch.testing.assert_close(output.logits, batch.behaviour_logits[t, chosen])


@pytest.fixture(scope="module")
def earlier_processes() -> set[int]:
    """What runs below this process before the actors start, such as a fork server of another test."""
    return set(processes_below())


@pytest.fixture(scope="module", params=["shared", "ray"])
def consumer(earlier_processes: set[int], request: pytest.FixtureRequest) -> Iterator[Consumer]:
    with opened(replace(CONFIG, transport=request.param), SPEC, version=1, counters=COUNTERS) as source:
        yield Consumer(source)


def _batches_are_in_order_and_use_every_stream(consumer: Consumer) -> None:
    lengths = {length for _ in range(24) if (batch := consumer.take()) is not None for length in batch.episodes.lengths}
    assert consumer.next_sequence.min() > FIRST_SEQUENCE
    assert not consumer.lost.any()
    assert consumer.source.counts.actor_restarts == 0
    assert lengths == {4}
    spent = consumer.source.counts.actor_seconds
    assert spent.keys() == {ENVIRONMENT, INFERENCE, WAITING}
    assert min(spent.values()) > 0


def _actors_wait_for_a_slow_learner(consumer: Consumer) -> None:
    del consumer.lags[:]
    for _ in range(12):
        time.sleep(0.1)  # time in which an actor could collect a hundred rollouts
        consumer.take()
    # The weights are those of the moment when the actor got its order. From then until its rollout is used up, the
    # batches take what the actor is ahead, at least BATCH - STREAMS streams of it each.
    assert max(consumer.lags) <= math.ceil(IN_FLIGHT * STREAMS / (BATCH - STREAMS))
    assert not consumer.lost.any()


def _everything_listens_on_loopback_only(consumer: Consumer, earlier_processes: set[int]) -> None:
    processes = {pid: command for pid, command in processes_below().items() if pid not in earlier_processes}
    assert any("raylet" in command for command in processes.values())
    addresses = listening_addresses(set(processes) | {os.getpid()})
    assert addresses
    assert [address for address in addresses if not is_loopback(address)] == []


def _a_terminal_that_is_closed_ends_none_of_them(earlier_processes: set[int]) -> None:
    for pid in set(processes_below()) - earlier_processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            (blocked,) = re.findall(r"^SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            assert int(blocked, 16) & 1 << signal.SIGHUP - 1


def _a_killed_actor_is_replaced_and_leaves_a_gap(consumer: Consumer) -> None:
    os.kill(actor_processes()[0], signal.SIGKILL)
    for _ in range(2000):
        consumer.take()
        lost = consumer.lost.reshape(ACTORS, STREAMS)
        if (lost > 0).any(axis=1).sum() == 1 and (lost > 0).all(axis=1).any():
            break
    # All streams of one actor have lost the same few rollouts, those of the other none.
    assert sorted({tuple(row) for row in lost.tolist()})[0] == (0,) * STREAMS
    victim = lost[lost.any(axis=1)]
    assert victim.shape == (1, STREAMS)
    assert len(set(victim[0].tolist())) == 1
    assert 1 <= victim.max() <= IN_FLIGHT
    assert consumer.source.counts.actor_restarts == 1
    before = consumer.next_sequence.copy()
    for _ in range(24):
        consumer.take()
    assert (consumer.next_sequence > before).all()
    np.testing.assert_array_equal(consumer.lost.reshape(ACTORS, STREAMS), lost)


def _an_interruption_ends_the_wait_for_actors_that_hang(consumer: Consumer) -> None:
    actors = actor_processes()
    try:
        for pid in actors:
            os.kill(pid, signal.SIGSTOP)
        ready = 0
        for _ in range(2):
            while consumer.take(interrupted=lambda: True) is not None:
                ready += 1
            # What was on its way when they were stopped arrives, too.
            time.sleep(0.5)
        # No more was waiting than the actors may be ahead of the learner.
        assert ready <= IN_FLIGHT * ACTORS * STREAMS / BATCH
        before = consumer.source.counts.silent
        # One may have delivered all that it was ordered, and so have nothing to do.
        assert before
        assert before.keys() <= {0, 1}
        time.sleep(0.2)
        assert consumer.take(interrupted=lambda: True) is None
        assert all(consumer.source.counts.silent[actor] >= seconds + 0.2 for actor, seconds in before.items())
    finally:
        for pid in actors:
            os.kill(pid, signal.SIGCONT)
    assert consumer.take() is not None
    assert consumer.source.waited > 0


def _nothing_is_left_after_close(consumer: Consumer, earlier_processes: set[int]) -> None:
    started = set(processes_below()) - earlier_processes
    assert len(started) > ACTORS
    consumer.source.close()
    deadline = time.monotonic() + 30
    while started & set(processes_below()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert started & set(processes_below()) == set()


def test_actors_from_their_start_to_their_end(consumer: Consumer, earlier_processes: set[int]) -> None:
    """One life, in its order: a start of Ray takes longer than all of it."""
    _batches_are_in_order_and_use_every_stream(consumer)
    _actors_wait_for_a_slow_learner(consumer)
    _everything_listens_on_loopback_only(consumer, earlier_processes)
    _a_terminal_that_is_closed_ends_none_of_them(earlier_processes)
    _a_killed_actor_is_replaced_and_leaves_a_gap(consumer)
    _an_interruption_ends_the_wait_for_actors_that_hang(consumer)
    _nothing_is_left_after_close(consumer, earlier_processes)


@pytest.mark.parametrize("core", ["elstm", "mingru", "lru", "rotation", "mixed:elstm+lru", "indrnn", "gru"])
@pytest.mark.parametrize(("batch_size", "groups"), [(1, 1), (STREAMS - 1, 2), (STREAMS, 1)])
def test_in_process_two_slots_hold_all_that_a_batch_is_made_of(core: str, batch_size: int, groups: int) -> None:
    gradient: Gradient = "tbptt" if core == "gru" else "rtrl"
    own = replace(AGENT, core=core, hidden_size=6, gradient=gradient)
    config = ActorConfig(CONFIG.task, CONFIG.env, own, 5, 6, STREAMS, index=0, num_groups=groups)
    sources = [InProcessSource(RolloutActor(config, slots=slots), batch_size, sequence=3) for slots in (2, 0)]
    for number in range(9):
        weights = make_weights(number, own)
        for source in sources:
            source.publish(weights)
        batches = [source.next_batch(lambda: False) for source in sources]
        in_slots, in_new_memory = [batch.rollout.arrays() for batch in batches if batch is not None]
        for name, array in in_new_memory.items():
            np.testing.assert_array_equal(in_slots[name], array, err_msg=name)


def test_in_process_the_rollouts_are_those_of_the_actor_with_the_newest_weights() -> None:
    actor = RolloutActor(ActorConfig(CONFIG.task, CONFIG.env, AGENT, 5, 6, STREAMS, index=0))
    with opened(replace(CONFIG, num_actors=0, batch_size=STREAMS), SPEC, counters=COUNTERS) as source:
        for number in range(4):
            source.publish(make_weights(number))
            batch = source.take()
            collected = actor.collect(make_weights(number), FIRST_SEQUENCE + number)
            expected = collected.rollout
            assert expected is not None
            assert batch.episodes == collected.episodes
            np.testing.assert_array_equal(batch.rollout.observation, expected.observation)
            np.testing.assert_array_equal(batch.rollout.action, expected.action)
            np.testing.assert_array_equal(batch.rollout.sequence, FIRST_SEQUENCE + number)
        assert source.next_batch(lambda: True) is None
    actor.close()
