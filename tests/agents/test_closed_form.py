"""The gradients of a step, written out, against autograd stream by stream, in float64."""

from typing import Any

import pytest
import torch

from r2ac.agents import (
    Agent,
    AgentConfig,
    BoxActions,
    ClosedForm,
    DiscreteActions,
    MultiDiscreteActions,
    ObservationSpec,
)
from r2ac.agents.actions import ActionSpec
from r2ac.kernels import CELLS

STREAMS, ACTIONS = 3, MultiDiscreteActions((2, 3))
SMALL: dict[str, Any] = {"hidden_size": 4, "encoder": "none", "recurrent_scale": None}
READ_OUTS: list[dict[str, Any]] = [
    {},
    {"output_gate": True},
    {"output_gate": False, "readout": "mlp", "readout_size": 6},
    {"output_gate": True, "readout": "mlp", "readout_skip": True},
]


def make_agent(actions: ActionSpec = ACTIONS, **settings: Any) -> Agent:
    torch.manual_seed(1)
    return Agent(ObservationSpec((3,), actions), AgentConfig(**SMALL | {"input_scale": 1.0} | settings)).double()


@pytest.mark.parametrize(
    ("cell", "read_out"), [*((cell, READ_OUTS[-1]) for cell in CELLS), *(("elstm", each) for each in READ_OUTS)]
)
def test_gradients_and_sensitivities_are_those_of_autograd(cell: str, read_out: dict[str, Any]) -> None:
    agent = make_agent(core=cell, **read_out)
    closed, core = ClosedForm(agent), agent.core
    observation, reward, state, by_logits, by_value = (
        torch.randn(shape, dtype=torch.float64)
        for shape in ((STREAMS, 3), (STREAMS,), (STREAMS, core.state_size), (STREAMS, 5), (STREAMS,))
    )
    is_first = torch.tensor([False, True, False])
    output = agent.step(observation, reward, is_first, state)
    found = closed.gradients(output, state, is_first, by_logits, by_value)
    state.requires_grad_()
    exact = agent.transition(observation, reward, is_first, state)
    wanted = (exact.logits * by_logits).sum(1) + exact.value * by_value
    parameters = list(agent.parameters())
    for stream in range(STREAMS):
        gradients = torch.autograd.grad(wanted[stream], (*parameters, state), retain_graph=True)
        mine = *(found.by_parameters[each][stream] for each in parameters), found.by_state[stream]
        torch.testing.assert_close(mine, (*gradients[:-1], gradients[-1][stream]))

    streams = torch.tensor([2, 0, 4])
    kept = [core.initial_carry(5).of_streams(streams, torch.zeros_like(is_first)) for _ in range(2)]
    for carry in kept:
        torch.manual_seed(2)
        carry.traces[0].weight.normal_()
        carry.traces[0].vectors.normal_()
    now = [type(carry)(state.detach(), carry.traces) for carry in kept]
    by_formula = closed.core.advance_by(found.linear, output.core_input, now[0], output.state)
    by_scan = core.advance(output.core_input[None], now[1], is_first[None])
    torch.testing.assert_close(by_formula.state, by_scan.state)
    torch.testing.assert_close(by_formula.traces[0].tensors(), by_scan.traces[0].tensors())


def test_it_fits_agents_all_of_whose_layers_it_knows() -> None:
    assert ClosedForm.fits(make_agent())
    assert ClosedForm.fits(make_agent(DiscreteActions(3)))
    assert not ClosedForm.fits(make_agent(BoxActions((-1.0,), (1.0,))))
    for settings in ({"encoder": "mlp"}, {"layer_norm": True}, {"core": "lstm", "gradient": "tbptt"}, {"layers": 2}):
        assert not ClosedForm.fits(make_agent(**settings)), settings
