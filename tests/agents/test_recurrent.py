"""The settings of a recurrent core: its output gate, and what its parameters are at the start."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from r2ac.agents import CORES, ELSTM, AgentConfig, Recurrent
from r2ac.agents.core import Core

D, N, MANY = 3, 4, 4096
OWN_CORES = [name for name in CORES if name not in ("lstm", "gru")]


def made(core: str, hidden: int = N, **config: Any) -> Core:
    """The core that the settings name, always from one seed."""
    torch.manual_seed(1)
    return CORES[core](D, AgentConfig(core=core, hidden_size=hidden, **config))


@pytest.mark.parametrize("name", OWN_CORES)
def test_a_core_can_have_an_output_gate_or_not(name: str) -> None:
    gated, bare, own = (made(name, output_gate=choice) for choice in (True, False, None))
    assert own.state_dict().keys() == (gated if name in ("elstm", "feedforward") else bare).state_dict().keys()
    gate: Any = gated.output_gate
    bare.load_state_dict({key: value for key, value in gated.state_dict().items() if "output_gate" not in key})
    x, is_first = torch.randn(6, 2, D), torch.rand(6, 2) < 0.3
    h, state = (core(x, core.initial_carry(2), is_first)[0] for core in (gated, bare))
    torch.testing.assert_close(h, torch.sigmoid(gate(torch.cat((x, state), -1))) * state)


@pytest.mark.parametrize("through_inputs", [True, False])
def test_the_output_gates_gradient_is_autograds(through_inputs: bool) -> None:
    core: Any = made("elstm").double()
    x = torch.randn(6, 2, D, dtype=torch.float64, requires_grad=through_inputs)
    is_first, weights = torch.rand(6, 2) < 0.3, torch.randn(6, 2, N, dtype=torch.float64)
    given = [*core.parameters(), *[x] * through_inputs]
    h, _ = core(x, core.initial_carry(2), is_first)
    found = torch.autograd.grad((weights * h).sum(), given)
    states, _ = core.states(x, core.initial_carry(2), is_first)
    h = torch.sigmoid(core.output_gate(torch.cat((x, states), -1))) * states
    for ours, autograds in zip(found, torch.autograd.grad((weights * h).sum(), given), strict=True):
        torch.testing.assert_close(ours, autograds)


@pytest.mark.parametrize("name", OWN_CORES)
def test_the_input_scale_changes_the_input_weights_alone(name: str) -> None:
    plain, wide = (dict(made(name, input_scale=scale).named_parameters()) for scale in (None, 2.0))
    for parameter, value in wide.items():
        factor = 20.0 if parameter in ("input_weight", "gates.weight") else 1.0
        torch.testing.assert_close(value, factor * plain[parameter])


@pytest.mark.parametrize("name", ["elstm", "indrnn"])
def test_the_recurrent_scale_is_the_deviation_of_recurrent_weights(name: str) -> None:
    plain, wide = (dict(made(name, MANY, recurrent_scale=scale).named_parameters()) for scale in (None, 2.0))
    assert plain["recurrent_weight"].std().item() == pytest.approx(0.1, rel=0.05)
    assert wide["recurrent_weight"].std().item() == pytest.approx(2, rel=0.05)
    assert torch.equal(plain["input_weight"], wide["input_weight"])


def test_log_uniform_time_scales_have_as_many_units_in_every_decade() -> None:
    core: Any = made("elstm", MANY, chrono_steps=1000, time_scales="log-uniform")
    counts = torch.histc(core.bias[0].detach() / torch.tensor(10.0).log(), bins=3, min=0, max=3)
    torch.testing.assert_close(counts, torch.full((3,), MANY / 3), rtol=0.1, atol=0)
    assert core.bias[1].count_nonzero() == 0


@pytest.mark.parametrize(
    ("core", "config", "words"),
    [
        ("mingru", {"recurrent_scale": 2.0}, "recurrent_scale is 2.0, but mingru has no recurrent weights"),
        ("rglru", {"recurrent_scale": 2.0}, "recurrent_scale is 2.0, but rglru has no recurrent weights"),
        ("indrnn", {"recurrent_scale": 2.0, "chrono_steps": 9}, "the recurrent weights of indrnn are its time scales"),
        ("elstm", {"time_scales": "log-uniform"}, "time_scales is log-uniform, but chrono_steps is 0"),
        ("elstm", {"time_scales": "even", "chrono_steps": 9}, "one of uniform, log-uniform, not 'even'"),
        ("lstm", {"output_gate": True}, "output_gate is True, but it must be None for the core lstm"),
        ("gru", {"output_gate": False}, "output_gate is False, but it must be None for the core gru"),
        ("feedforward", {"recurrent_scale": 2.0}, "recurrent_scale is 2.0, but it must be None for the core feedf"),
        ("feedforward", {"time_scales": "log-uniform", "chrono_steps": 9}, "time_scales is log-uniform, but it must"),
    ],
)
def test_a_setting_that_means_nothing_to_a_core_is_refused(core: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(core, **config)


def test_the_library_has_the_same_settings() -> None:
    settings: dict[str, Any] = {"chrono_steps": 50, "output_gate": False, "input_scale": 2.0, "recurrent_scale": 0.5}
    expected = made("elstm", time_scales="log-uniform", **settings).state_dict()
    for make in (ELSTM, partial(Recurrent, "elstm")):
        torch.manual_seed(1)
        torch.testing.assert_close(make(D, N, time_scales="log-uniform", **settings).state_dict(), expected)


@pytest.mark.parametrize("name", ["elstm", "lru", "rotation", "mingru"])
def test_a_traced_step_gives_what_the_step_gives(name: str) -> None:
    core = Recurrent(name, 3, 5)
    x, state, is_first = torch.randn(4, 3), torch.randn(4, core.state_size), torch.tensor([True, False, False, True])
    with torch.no_grad():
        traced = make_fx(lambda *given: core.step(*given))(torch.zeros_like(x), torch.zeros_like(state), is_first)
        for one, other in zip(traced(x, state, is_first), core.step(x, state, is_first), strict=True):
            torch.testing.assert_close(one, other)


def test_a_step_under_autocast_gives_what_it_gives_with_gradients() -> None:
    core = Recurrent("lru", 3, 5)
    arguments = torch.randn(4, 3), torch.randn(4, core.state_size), torch.zeros(4, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = core.step(*arguments)[1]
        with torch.no_grad():
            torch.testing.assert_close(core.step(*arguments)[1], expected.detach())
