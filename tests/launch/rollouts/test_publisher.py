"""Publishing weights: the version, the values, and on a GPU that the learner does not wait."""

import threading
import time

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.launch.rollouts.policies import Weights
from r2ac.launch.rollouts.policy_lag import UNDER_WAY
from r2ac.launch.rollouts.publisher import WeightsPublisher
from r2ac.learner import Learner, LearnerConfig

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda.is_available() is False")


def make_learner(device: str) -> Learner:
    torch.manual_seed(0)
    agent = Agent(ObservationSpec((4,), 2), AgentConfig(hidden_size=5, encoder="none")).to(device)
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
