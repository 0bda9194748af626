"""The table of cores, and the gradient through time that each is said to have."""

import pytest
import torch

from r2ac.agents import CORES, AgentConfig
from r2ac.agents.config import FIXED_GRADIENTS
from r2ac.agents.cores import make_core
from tests.own_core import add_own_core


def test_the_cores_whose_gradient_is_fixed_are_those_that_rtrl_cannot_train() -> None:
    config = AgentConfig(gradient="rtrl", hidden_size=4)
    assert {name for name, make in CORES.items() if not make(3, config).uses_rtrl} == set(FIXED_GRADIENTS)


def test_the_label_has_the_gradient_that_trains_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    add_own_core(monkeypatch)
    asked = [
        ("elstm", "rtrl"),
        ("elstm", "tbptt"),
        ("lru", "tbptt"),
        ("feedforward", "rtrl"),
        ("own", "rtrl"),
        ("lstm", "tbptt"),
    ]
    labels = [AgentConfig(core=core, gradient=gradient).label for core, gradient in asked]  # type: ignore[arg-type]
    assert labels == ["rtrl", "tbptt", "lru tbptt", "feedforward", "own tbptt", "lstm tbptt"]
    frozen = [AgentConfig(core=core, freeze_core=True).label for core in ("elstm", "gru", "feedforward")]
    assert frozen == ["frozen", "gru frozen", "feedforward frozen"]


@pytest.mark.parametrize("core", CORES)
def test_a_frozen_core_is_the_start_of_one_that_learns_and_has_no_traces(core: str) -> None:
    torch.manual_seed(1)
    learning = make_core(3, AgentConfig(core=core, hidden_size=4, chrono_steps=9))
    torch.manual_seed(1)
    frozen = make_core(3, AgentConfig(core=core, hidden_size=4, chrono_steps=9, freeze_core=True))
    torch.testing.assert_close(frozen.state_dict(), learning.state_dict(), rtol=0, atol=0)
    assert not frozen.uses_rtrl
    assert frozen.initial_carry(2).traces == ()
    x, is_first = torch.randn(5, 2, 3, requires_grad=True), torch.zeros(5, 2, dtype=torch.bool)
    h, _ = frozen(x, frozen.initial_carry(2), is_first)
    (by_x,) = torch.autograd.grad(h.sum(), x)
    (expected,) = torch.autograd.grad(learning(x, learning.initial_carry(2), is_first)[0].sum(), x)
    torch.testing.assert_close(by_x, expected)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AgentConfig(layers=0), "layers must be at least 1, not 0"),
        (AgentConfig(layer_gradient="full"), "layer_gradient is full, but layers is 1"),
        (
            AgentConfig(layers=2, layer_gradient="full", gradient="tbptt"),
            r"must be rollout or local .* \(2-layer tbptt\)",
        ),
        (
            AgentConfig(layers=2, layer_gradient="full", core="feedforward"),
            r"rollout or local .* \(2-layer feedforward\)",
        ),
        (AgentConfig(layers=2, layer_gradient="full", freeze_core=True), r"rollout or local .* \(2-layer frozen\)"),
        (AgentConfig(layers=2, layer_gradient="full"), "2 layers of 256 units take 412 MB .* at most 64 MB"),
    ],
)
def test_layers_that_cannot_be_are_refused(config: AgentConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_core(3, config)
