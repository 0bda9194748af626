"""Publishing weights: the version, the values, and on a GPU that the learner does not wait."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.launch.rollouts import publisher
from r2ac.launch.rollouts.publisher import WeightsPublisher
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.settings.policy_lag import UNDER_WAY
from r2ac.learner import Learner, LearnerConfig
from tests.learner.simulated_gpu import Order, SimulatedGPU, in_random_order, newest_first, oldest_first

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda.is_available() is False")


def make_learner(device: str) -> Learner:
    torch.manual_seed(0)
    agent = Agent(ObservationSpec((4,), DiscreteActions(2)), AgentConfig(hidden_size=5, encoder="none")).to(device)
    return Learner(agent, LearnerConfig(), num_streams=4, total_steps=1000)


def move(learner: Learner) -> torch.Tensor:
    """As an update would: other weights, the next version."""
    with torch.no_grad():
        for parameter in learner.agent.parameters():
            parameter += 1
    learner.updates += 1
    return parameters_to_vector(learner.agent.parameters()).detach().cpu()


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_every_version_arrives_once_in_order_with_its_values(device: str, wait: bool) -> None:
    learner, published = make_learner(device), list[Weights]()
    publish = WeightsPublisher(learner, published.append, wait)
    expected = []
    for number in range(6):
        expected.append(move(learner))
        publish()
        if wait or number == 0 or device == "cpu":
            assert len(published) == number + 1, "it was waited for"
    publish.close()
    assert [weights.version for weights in published] == list(range(1, 7))
    for weights, values in zip(published, expected, strict=True):
        assert torch.equal(torch.from_numpy(weights.values), values)


@NEEDS_GPU
def test_on_a_gpu_no_more_are_under_way_than_is_said_and_errors_reach_the_learner() -> None:
    learner, go, done = make_learner("cuda"), threading.Event(), list[int]()

    def slowly(weights: Weights) -> None:
        if weights.version > 1:
            go.wait(30)
        if weights.version == 5:
            raise OSError("no space")
        done.append(weights.version)

    publish = WeightsPublisher(learner, slowly, wait=False)
    for _ in range(1 + UNDER_WAY):
        move(learner)
        publish()
    assert done == [1]
    go.set()

    def go_on() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            move(learner)
            publish()
            time.sleep(0.01)

    with pytest.raises(OSError, match="no space"):
        go_on()
    publish.close()
    assert done == [1, 2, 3, 4]


def test_an_error_reaches_the_learner() -> None:
    def fail(weights: Weights) -> None:
        raise OSError("no space")

    publish = WeightsPublisher(make_learner("cpu"), fail, wait=False)
    with pytest.raises(OSError, match="no space"):
        publish()
    publish.close()


class SimulatedLearner:
    """A learner whose weights lie on a simulated GPU; an update that is enqueued sets all of them to its number."""

    device = SimpleNamespace(type="cuda")

    def __init__(self, gpu: SimulatedGPU) -> None:
        self._gpu, self.updates = gpu, 0
        self._weights = [gpu.empty(shape, np.float32, "cuda") for shape in ((3, 2), (4,))]
        self.agent = SimpleNamespace(parameters=lambda: self._weights)

    def update(self) -> None:
        self.updates += 1
        number, arrays = self.updates, [weight.array for weight in self._weights]
        self._gpu.enqueue(lambda: [array.fill(number) for array in arrays])


@pytest.mark.parametrize("order", [oldest_first, newest_first, in_random_order(0)])
def test_from_a_simulated_gpu_every_version_arrives_in_order_with_its_values(
    monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    gpu, published = SimulatedGPU(order), list[Weights]()
    monkeypatch.setattr(publisher, "torch", gpu)
    learner: Any = SimulatedLearner(gpu)
    publish = WeightsPublisher(learner, published.append, wait=False)
    for _ in range(12):
        learner.update()
        publish()
    publish.close()
    assert [weights.version for weights in published] == list(range(1, 13))
    for weights in published:
        assert (weights.values == weights.version).all(), "as they were after its update"
    assert "weights" not in {thread.name for thread in threading.enumerate()}


def test_a_gpu_that_hangs_does_not_keep_the_publisher_open(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, published = SimulatedGPU(oldest_first), list[Weights]()
    monkeypatch.setattr(publisher, "torch", gpu)
    learner: Any = SimulatedLearner(gpu)
    publish = WeightsPublisher(learner, published.append, wait=False)
    for _ in range(2):
        learner.update()
        publish()
        gpu.hang()
    with pytest.warns(RuntimeWarning, match="the thread 'weights' did not end within 0.05 s and is left behind"):
        publish.close(seconds=0.05)
    (left,) = (thread for thread in threading.enumerate() if thread.name == "weights")
    assert left.daemon, "the process can end"
    gpu.hang(False)
    left.join(60)
    assert [weights.version for weights in published] == [1, 2]
