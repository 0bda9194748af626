"""Batches that are made ready while the learner learns: in order, bounded, with the errors of whoever makes them."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.rollouts.batch_pipeline import BUFFERS, BatchPipeline
from r2ac.launch.rollouts.batcher import Batcher, batch_ring
from r2ac.launch.rollouts.failures import ActorsLost
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.rollout_source import Batch, InProcessSource
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.settings.policy_lag import PREFETCHED
from r2ac.learner import Learner, LearnerConfig, Rollout

AGENT = AgentConfig(hidden_size=5, encoder="none")
STREAMS, STEPS = 4, 6
SPEC = ObservationSpec((4,), DiscreteActions(2))
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda.is_available() is False")


class CountingSource(InProcessSource):
    """Counts the batches that were taken, and fails when it is told to."""

    taken = 0
    failure: Exception | None = None

    def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
        if self.failure is not None:
            raise self.failure
        self.taken += 1
        return super().next_batch(interrupted)


def make_source(kind: type[CountingSource] = CountingSource) -> CountingSource:
    config = ActorConfig("memory/tmaze", MemoryOptions(corridor_length=3), AGENT, 5, STEPS, STREAMS, index=0)
    return kind(RolloutActor(config), STREAMS, sequence=0)


def make_learner() -> Learner:
    torch.manual_seed(0)
    return Learner(
        Agent(ObservationSpec((4,), DiscreteActions(2)), AGENT),
        LearnerConfig(learning_rate=1e-3),
        STREAMS,
        10**6,
    )


def weights_of(learner: Learner) -> Weights:
    return Weights(learner.updates, parameters_to_vector(learner.agent.parameters()).detach().numpy())


def never() -> bool:
    return False


def test_updates_are_those_of_the_batches_in_order() -> None:
    learner, alone = make_learner(), make_learner()
    ahead, source = make_source(), make_source()
    ahead.publish(weights_of(learner))
    source.publish(weights_of(learner))
    batches = BatchPipeline(ahead, learner.stage)
    for _ in range(8):
        ready, expected = batches.next_batch(never), source.next_batch(never)
        assert ready is not None
        assert expected is not None
        assert ready.episodes == expected.episodes
        np.testing.assert_array_equal(ready.rollout.weights_version, expected.rollout.weights_version)
        learner.update(ready.rollout)
        alone.update(expected.rollout)
    batches.close()
    assert learner.env_steps == 8 * STREAMS * STEPS
    assert learner.carries.resets == 0
    for one, other in zip(learner.agent.parameters(), alone.agent.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_a_ring_that_is_filled_ahead_changes_neither_weights_nor_metrics(device: str) -> None:
    """Four batches make a round of the streams, and the ring has three: what is read late would be of other streams."""
    streams, batch = 16, 4
    config = ActorConfig("memory/tmaze", MemoryOptions(corridor_length=40), AGENT, 5, STEPS, streams, index=0)
    found = []
    for ring in (None, batch_ring(RolloutLayout(STEPS, batch, SPEC, 5), BUFFERS, pinned=device == "cuda")):
        torch.manual_seed(0)
        learner = Learner(Agent(SPEC, AGENT).to(device), LearnerConfig(learning_rate=1e-3), streams, 10**6)
        actor, batcher = RolloutActor(config), Batcher(batch, ring)
        weights = Weights(0, parameters_to_vector(learner.agent.parameters()).detach().cpu().numpy())
        staged: list[Rollout[np.ndarray]] = []
        for number in range(40):
            rollout = actor.collect(weights, number).rollout
            assert rollout is not None
            batcher.add(rollout)
            while (ready := batcher.next_batch()) is not None:
                # As far ahead as the pipeline goes.
                learner.stage(ready)
                staged.append(ready)
                if len(staged) > PREFETCHED:
                    learner.update(staged.pop(0))
        actor.close()
        found.append((learner.read_metrics(), [parameter.detach().cpu() for parameter in learner.agent.parameters()]))
    (metrics, one), (ringed, other) = found
    assert ringed == pytest.approx(metrics)
    assert metrics["rtrl/credit_horizon"] > 0
    for mine, expected in zip(other, one, strict=True):
        torch.testing.assert_close(mine, expected)


def test_no_more_is_taken_than_is_bounded() -> None:
    learner, source = make_learner(), make_source()
    source.publish(weights_of(learner))
    batches = BatchPipeline(source, learner.stage)
    assert batches.next_batch(never) is not None
    deadline = time.monotonic() + 10
    while source.taken < 1 + PREFETCHED and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert source.taken == 1 + PREFETCHED
    batches.close()
    assert threading.active_count() == len(threading.enumerate())
    assert "batches" not in {thread.name for thread in threading.enumerate()}


def test_what_the_source_raises_reaches_the_learner() -> None:
    learner, source = make_learner(), make_source()
    source.failure = ActorsLost("rollout actor 0 failed")
    source.publish(weights_of(learner))
    batches = BatchPipeline(source, learner.stage)
    with pytest.raises(ActorsLost, match="rollout actor 0 failed"):
        batches.next_batch(never)
    batches.close()


def test_what_staging_raises_reaches_the_learner() -> None:
    def stage(rollout: Rollout[np.ndarray]) -> None:
        raise ValueError("streams must lie in 0 to 3")

    source = make_source()
    source.publish(weights_of(make_learner()))
    batches = BatchPipeline(source, stage)
    with pytest.raises(ValueError, match="streams must lie"):
        batches.next_batch(never)
    batches.close()


def test_an_interruption_ends_the_wait() -> None:
    started = threading.Event()

    class Hanging(CountingSource):
        def next_batch(self, interrupted: Callable[[], bool]) -> Batch | None:
            started.set()
            while not interrupted():
                time.sleep(0.01)
            return None

    batches = BatchPipeline(make_source(Hanging), make_learner().stage)
    assert batches.next_batch(started.is_set) is None
    assert batches.waited > 0
    batches.close()


def test_staging_that_never_ends_does_not_keep_the_pipeline_open() -> None:
    staging, goes_on = threading.Event(), threading.Event()

    def stage(rollout: Rollout[np.ndarray]) -> None:
        staging.set()
        goes_on.wait()

    source = make_source()
    source.publish(weights_of(make_learner()))
    batches = BatchPipeline(source, stage)
    assert batches.next_batch(staging.is_set) is None
    with pytest.warns(RuntimeWarning, match="the thread 'batches' did not end within 0.05 s and is left behind"):
        batches.close(seconds=0.05)
    (left,) = (thread for thread in threading.enumerate() if thread.name == "batches")
    assert left.daemon, "the process can end"
    goes_on.set()
    left.join(60)
