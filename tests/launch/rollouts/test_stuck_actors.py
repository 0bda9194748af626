"""Rollout actors whose environment does not come back from a step."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.envs.gym import GymOptions
from r2ac.launch.rollouts.policies import Weights
from r2ac.launch.rollouts.rollout_actor import ActorConfig
from r2ac.launch.rollouts.rollout_source import ActorsLost, RayConfig, RaySource

AGENT = AgentConfig(hidden_size=5, encoder="none")
STREAMS = 2


@pytest.fixture
def times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each step that is not to come back."""
    path = tmp_path / "times"
    path.write_text("once\n")
    monkeypatch.setenv("STUCK_TIMES", str(path))
    monkeypatch.setenv("STUCK_AFTER", "20")
    return path


@pytest.fixture
def source(times: Path) -> Iterator[RaySource]:
    options = GymOptions(step_timeout=1.5)
    actor = ActorConfig("gym/tests.stuck_envs:Stuck-v0", options, AGENT, 5, 6, STREAMS, 0)
    source = RaySource([actor], RayConfig(STREAMS, 2), [7])
    torch.manual_seed(0)
    parameters = Agent(ObservationSpec((1,), 2), AGENT).parameters()
    source.publish(Weights(1, parameters_to_vector(parameters).detach().numpy()))
    yield source
    source.close()


@pytest.mark.slow
def test_an_actor_that_is_stuck_is_replaced_and_one_that_always_is_ends_the_run(
    source: RaySource, times: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    for _ in range(12):
        batch = source.next_batch(lambda: False)
        assert batch is not None
        numbers += batch.rollout.sequence.tolist()
    assert source.counts.actor_restarts == 1
    # In order, each once, with a gap where the rollouts of the lost actor would be.
    assert numbers[::2] == numbers[1::2] == sorted(set(numbers))
    assert 7 + 12 < numbers[-1] + 1 <= 7 + 12 + 2
    assert "rollout actor 0 died, " in caplog.text
    assert "(a step may take --step-timeout 1.5)" in caplog.text
    monkeypatch.setattr(source, "restarts_in_a_row", 0)
    times.write_text("again\n" * 9)
    sentence = r"^rollout actor 0 died 1 times in a row without a rollout, .* \(a step may take --step-timeout 1.5\)$"

    def take_all() -> None:
        while source.next_batch(lambda: False):
            pass

    with pytest.raises(ActorsLost, match=sentence):
        take_all()
