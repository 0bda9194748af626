"""The size with which one core gives an agent as many parameters as another."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from r2ac.agents import CORES, Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.agents.matching import matched_size

VECTOR, IMAGE = (ObservationSpec(shape, DiscreteActions(4)) for shape in ((5,), (3, 20, 20)))


def count(spec: ObservationSpec, config: AgentConfig) -> int:
    return Agent(spec, config).parameter_count()


@pytest.mark.parametrize("core", CORES)
def test_no_other_size_comes_nearer(core: str) -> None:
    config = AgentConfig(core=core, hidden_size=24, match_parameters="elstm", encoder="none")
    wanted = count(VECTOR, replace(config, core="elstm"))
    size = matched_size(VECTOR, config)
    misses = [abs(count(VECTOR, replace(config, hidden_size=near)) - wanted) for near in (size, size - 1, size + 1)]
    assert misses[0] == min(misses)
    assert misses[0] < 0.1 * wanted


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (IMAGE, {"readout": "mlp", "readout_skip": True}),
        (VECTOR, {"chrono_steps": 9, "time_scales": "log-uniform", "recurrent_scale": 1.0, "normalise_rewards": True}),
        (VECTOR, {"output_gate": False, "core": "elstm", "normalise_observations": True}),
    ],
)
def test_the_whole_agent_counts_and_nothing_else(spec: ObservationSpec, settings: dict[str, Any]) -> None:
    config = AgentConfig(**{"core": "lstm", **settings}, hidden_size=40, match_parameters="feedforward")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    size = matched_size(spec, config)
    assert torch.equal(torch.get_rng_state(), before)
    plain = AgentConfig(
        core="feedforward", hidden_size=40, readout=config.readout, readout_skip=config.readout_skip, layer_norm=False
    )
    assert count(spec, replace(config, hidden_size=size)) == pytest.approx(count(spec, plain), rel=0.02)


def test_frozen_weights_are_counted_but_not_learned() -> None:
    config = AgentConfig(hidden_size=8, encoder="none", normalise_rewards=True, normalise_observations=True)
    learning, frozen = (Agent(VECTOR, replace(config, freeze_core=freeze)) for freeze in (False, True))
    # Core input: 5 numbers and the reward; two gates, the output gate, then 4 logits and the value.
    core = 2 * 8 * 6 + 2 * 8 + 2 * 8 + (6 + 8) * 8 + 8
    assert learning.parameter_count() == learning.parameter_count(learned=True) == core + (8 + 1) * 5
    assert (frozen.parameter_count(), frozen.parameter_count(learned=True)) == (core + (8 + 1) * 5, (8 + 1) * 5)


def test_an_impossible_agent_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, not 0 and 256"):
        matched_size(VECTOR, AgentConfig(core="lstm", hidden_size=0, match_parameters="elstm"))
