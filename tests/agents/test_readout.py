"""The read-out: what the heads see, and that gradients stay exact below it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from r2ac.agents import Agent, AgentConfig, ObservationSpec, Recurrent
from r2ac.agents.actions import DiscreteActions
from r2ac.agents.readout import Readout

DOUBLE = torch.float64
SIZE, A, B, N = 4, 3, 2, 5
D = SIZE + 1
EVERY_PART = {"readout": "mlp", "readout_size": 7, "readout_skip": True, "layer_norm": True}


def make_agent(**config: Any) -> Agent:
    torch.manual_seed(1)
    return Agent(ObservationSpec((SIZE,), DiscreteActions(A)), AgentConfig(hidden_size=N, encoder="none", **config)).to(
        DOUBLE
    )


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_features_are_those_of_the_formula(kind: Any, skip: bool, layer_norm: bool) -> None:
    core = Recurrent("lru", D, N)
    readout = Readout(core, AgentConfig(readout=kind, readout_size=7, readout_skip=skip, layer_norm=layer_norm))
    h, x = 3 * torch.randn(6, B, 2 * N) + 1, torch.randn(6, B, D)
    read = h
    if layer_norm:
        centred = h - h.mean(-1, keepdim=True)
        read = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    read = torch.cat((read, x), -1) if skip else read
    if readout.hidden is not None:
        read = (read @ readout.hidden.weight.T + readout.hidden.bias).clamp_min(0)
    torch.testing.assert_close(readout(h, x), read)
    assert readout.output_size == read.shape[-1] == (7 if kind == "mlp" else 2 * N + skip * D)


def test_the_linear_readout_adds_no_parameters() -> None:
    """Checkpoints of linear agents have the names that they always had."""
    heads = {"policy.weight", "policy.bias", "value.weight", "value.bias"}
    outside = {name for name, _ in make_agent(layer_norm=True).named_parameters() if not name.startswith("core.")}
    assert outside == heads
    outside = {name for name, _ in make_agent(**EVERY_PART).named_parameters() if not name.startswith("core.")}
    assert outside == heads | {"readout.hidden.weight", "readout.hidden.bias"}


def losses(agent: Agent, lengths: tuple[int, ...], inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """The gradients of a loss over a stream that is cut into rollouts of these lengths."""
    carry, start = agent.core.initial_carry(B), 0
    for length in lengths:
        output = agent(*(tensor[start : start + length + 1] for tensor in inputs), carry)
        (output.logits.log_softmax(-1)[..., 0].sum() + output.values.square().sum()).backward()
        carry, start = output.carry, start + length
    return {name: parameter.grad for name, parameter in agent.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="elstm"),
        pytest.param({"core": "lru", "output_gate": True}, id="lru with a gate"),
        pytest.param({"output_gate": False}, id="elstm without its gate"),
    ],
)
def test_rtrl_of_a_cut_stream_is_bptt_of_the_whole(config: dict[str, Any]) -> None:
    steps = 9
    is_first = torch.zeros(steps + 1, B, dtype=torch.bool)
    is_first[4, 0] = True
    inputs = torch.randn(steps + 1, B, SIZE, dtype=DOUBLE), torch.randn(steps + 1, B), is_first
    exact = losses(make_agent(**EVERY_PART, **config), (2, 1, 6), inputs)
    whole = losses(make_agent(**EVERY_PART, **config, gradient="tbptt"), (steps,), inputs)
    assert exact.keys() == whole.keys() >= {"core.input_weight", "readout.hidden.weight", "policy.weight"}
    for name, gradient in exact.items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, whole[name], rtol=1e-10, atol=1e-12)


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="readout_size must be at least 1, not 0"):
        make_agent(readout_size=0)
    with pytest.raises(ValueError, match="readout must be one of linear, mlp, not 'deep'"):
        make_agent(readout="deep")
