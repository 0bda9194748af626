"""PyTorch's LSTM and GRU as cores, against PyTorch's own modules run over the pieces between resets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from r2ac.agents import GRU, LSTM, Carry

T, B, D, N = 7, 3, 4, 5
KINDS = pytest.mark.parametrize("kind", [LSTM, GRU])
Kind = type[LSTM] | type[GRU]


def made(kind: Kind, seed: int = 0, **settings: Any) -> LSTM | GRU:
    torch.manual_seed(seed)
    return kind(D, N, **settings).double()


def rollout(seed: int = 1, steps: int = T) -> tuple[Tensor, Tensor]:
    """Inputs and is_first: resets of one stream, of two at once, and in steps that follow one another."""
    torch.manual_seed(seed)
    is_first = torch.zeros(steps, B, dtype=torch.bool)
    for step, stream in ((0, 1), (2, 0), (3, 0), (3, 1), (steps - 1, 1)):
        is_first[min(step, steps - 1), stream] = True
    return torch.randn(steps, B, D, dtype=torch.float64), is_first


def by_torch(core: LSTM | GRU, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
    """h and the last state, stream by stream: PyTorch's module over each piece of a stream that no reset cuts."""
    outputs, states = [], []
    for stream in range(x.shape[1]):
        now = tuple(state[stream : stream + 1].chunk(core.parts, dim=-1))
        pieces = []
        cuts = [0, *(t for t in range(1, len(x)) if is_first[t, stream]), len(x)]
        for begin, end in pairwise(cuts):
            if is_first[begin, stream]:
                now = tuple(torch.zeros_like(part) for part in now)
            h, last = core.rnn(x[begin:end, stream], now if core.parts == 2 else now[0])
            now = last if isinstance(last, tuple) else (last,)
            pieces.append(h)
        outputs.append(torch.cat(pieces))
        states.append(torch.cat(now, dim=-1))
    return torch.stack(outputs, dim=1), torch.cat(states)


@KINDS
@pytest.mark.parametrize(("steps", "resets"), [(T, False), (T, True), (1, False), (24, True)])
def test_outputs_states_and_gradients_are_those_of_torch(kind: Kind, steps: int, resets: bool) -> None:
    """By pieces between resets where these are long enough in the mean, else step by step."""
    core, (x, is_first) = made(kind), rollout(steps=steps)
    is_first = is_first if resets else torch.zeros_like(is_first)
    state = torch.randn(B, core.state_size, dtype=torch.float64)
    x.requires_grad_()
    expected, last = by_torch(core, x, state, is_first)
    calls = []
    core.rnn.register_forward_hook(lambda *_: calls.append(1))
    weights = torch.randn(steps, B, N, dtype=torch.float64)
    h, states, carry = core.unroll(x, Carry(state), is_first)
    assert len(calls) == {(T, False): 1, (T, True): 0, (1, False): 0, (24, True): 4}[steps, resets]
    torch.testing.assert_close((h, states[-1], carry.state), (expected, last, last))
    assert carry.traces == ()
    assert not any(tensor.requires_grad for tensor in (states, carry.state))
    stepwise = core.truncated_states(x, state, is_first)
    torch.testing.assert_close(states, stepwise)
    by_all = torch.autograd.grad((expected * weights).sum(), (x, *core.parameters()))
    for found in (h, stepwise[..., :N]):
        torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), (x, *core.parameters())), by_all)


@KINDS
def test_steps_make_the_states_of_the_rollout(kind: Kind) -> None:
    core, (x, is_first) = made(kind), rollout()
    state = torch.randn(B, core.state_size, dtype=torch.float64)
    h, states, _ = core.unroll(x, Carry(state), is_first)
    for t in range(T):
        h_t, state = core.step(x[t], state, is_first[t])
        torch.testing.assert_close((h_t, state), (h[t], states[t]))
    torch.testing.assert_close(core.advance(x[3:], Carry(states[2]), is_first[3:]).state, states[-1])


@KINDS
def test_the_gradient_ends_at_the_rollouts_start_and_at_a_reset(kind: Kind) -> None:
    core, (x, is_first) = made(kind), rollout()
    x.requires_grad_()
    carry = core(x[:3], core.initial_carry(B), is_first[:3])[1]
    h, _ = core(x[3:], carry, is_first[3:])
    (by_x,) = torch.autograd.grad(h.sum(), x, retain_graph=True)
    assert by_x[:3].count_nonzero() == 0
    # Stream 1 begins again in the last step: what came before has no part in it.
    (by_x,) = torch.autograd.grad(h[-1, 1].sum(), x)
    assert by_x[:-1].count_nonzero() == 0
    assert by_x[-1, 1].count_nonzero() == D


@KINDS
def test_retention_is_the_diagonal_of_the_jacobian(kind: Kind) -> None:
    core, (x, _) = made(kind), rollout()
    state, is_first = torch.randn(B, core.state_size, dtype=torch.float64), torch.tensor([False, True, False])

    def after(state: Tensor) -> Tensor:
        return core.transition(x[0], state, is_first)[1]

    jacobian = torch.autograd.functional.jacobian(after, state)
    expected = torch.stack([jacobian[b, :, b].diagonal() for b in range(B)])
    with torch.no_grad():
        torch.testing.assert_close(core.retention(x[0], state, is_first), expected)
    assert expected[1].count_nonzero() == 0


def test_chrono_steps_spread_the_biases_of_the_gates_that_remember() -> None:
    """Tallec and Ollivier 2018: forget gates at log u, input gates at -log u."""
    lstm, gru = made(LSTM, chrono_steps=50), made(GRU, chrono_steps=50, time_scales="log-uniform")
    of_input, of_forget, *others = (lstm.rnn.bias_ih_l0 + lstm.rnn.bias_hh_l0).chunk(4)
    assert ((of_forget >= 0) & (of_forget <= torch.tensor(50.0).log())).all()
    assert of_forget.unique().numel() == N
    torch.testing.assert_close(of_input, -of_forget)
    torch.manual_seed(0)
    torch.testing.assert_close(torch.cat(others), sum(nn.LSTM(D, N).all_weights[0][2:]).double()[2 * N :])
    update = (gru.rnn.bias_ih_l0 + gru.rnn.bias_hh_l0).chunk(3)[1]
    assert ((update >= 0) & (update <= torch.tensor(50.0).log())).all()


@KINDS
def test_the_start_is_torchs_unless_scales_are_given(kind: Kind) -> None:
    torch.manual_seed(0)
    own = (nn.LSTM if kind is LSTM else nn.GRU)(D, N).double()
    torch.testing.assert_close(made(kind).rnn.state_dict(), own.state_dict())
    wide = kind(D, 400, input_scale=3.0, recurrent_scale=0.5).rnn
    assert wide.weight_ih_l0.std().item() == pytest.approx(3, rel=0.1)
    assert wide.weight_hh_l0.std().item() == pytest.approx(0.5, rel=0.1)


@KINDS
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chrono_steps": 1}, "chrono_steps must be 0 or at least 2, not 1"),
        ({"time_scales": "log-uniform"}, "time_scales is log-uniform, but chrono_steps is 0"),
    ],
)
def test_what_means_nothing_is_refused(kind: Kind, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(kind, **settings)
