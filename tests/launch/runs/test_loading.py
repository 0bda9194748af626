"""What an agent takes over from a checkpoint."""

from pathlib import Path

import pytest
import torch

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.launch.runs.loading import load_encoder
from r2ac.launch.settings.config import ConfigError
from r2ac.learner.checkpoint import Checkpoint, save_checkpoint


def make_agent(seed: int, normalises: bool) -> Agent:
    torch.manual_seed(seed)
    config = AgentConfig(hidden_size=4, encoder="mlp", encoder_features=3, normalise_observations=normalises)
    agent = Agent(ObservationSpec((5,), DiscreteActions(2)), config)
    if agent.observations is not None:
        agent.observations.observe(torch.full((3, 5), 1.0 + seed, dtype=torch.float64))
    return agent


def saved(agent: Agent, path: Path) -> Path:
    save_checkpoint(path, Checkpoint(agent.state_dict(), {}, {}, torch.get_rng_state(), {}))
    return path


@pytest.mark.parametrize("normalises", [True, False])
def test_an_encoder_comes_with_how_its_observations_are_normalised(tmp_path: Path, normalises: bool) -> None:
    source, agent = make_agent(1, normalises), make_agent(2, normalises)
    load_encoder(agent, saved(source, tmp_path / "source.safetensors"))
    expected, found = source.state_dict(), agent.state_dict()
    taken = {name for name in expected if torch.equal(expected[name], found[name])}
    parts = ("encoder.", "observations.")
    assert {name for name in expected if name.startswith(parts)} <= taken
    assert any(name.startswith("observations.") for name in taken) is normalises
    assert "core.input_weight" not in taken


@pytest.mark.parametrize("normalises", [True, False])
def test_an_encoder_of_other_observations_is_refused(tmp_path: Path, normalises: bool) -> None:
    path = saved(make_agent(1, normalises), tmp_path / "source.safetensors")
    said = f"^--normalise-observations is {not normalises}, but it must be {normalises} as in the training of"
    with pytest.raises(ConfigError, match=said) as error:
        load_encoder(make_agent(2, not normalises), path)
    assert str(path) in str(error.value)
