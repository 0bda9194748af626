"""The table of cores, and the gradient through time that each is said to have."""

import pytest

from r2ac.agents import CORES, AgentConfig
from r2ac.agents.config import FIXED_GRADIENTS
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
