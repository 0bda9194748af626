"""The public interface of the core."""

import pytest
import torch

from r2ac.agents import ELSTM, Carry, FeedForward


def test_steps_of_an_actor_follow_the_rollout_of_the_learner() -> None:
    core = ELSTM(6, 5)
    x, is_first = torch.randn(8, 3, 6), torch.rand(8, 3) < 0.3
    carry = core.initial_carry(3)
    h, after = core(x, carry, is_first)
    state = carry.state
    for t in range(8):
        h_t, state = core.step(x[t], state, is_first[t])
        torch.testing.assert_close(h_t, h[t])
    torch.testing.assert_close(state, after.state)


def test_the_carry_comes_back_detached_and_the_one_given_is_unchanged() -> None:
    core = ELSTM(6, 5)
    carry = core.initial_carry(3)
    h, after = core(torch.randn(4, 3, 6), carry, torch.zeros(4, 3, dtype=torch.bool))
    assert h.requires_grad
    assert not any(tensor.requires_grad for tensor in (after.state, *after.traces[0].tensors()))
    assert after.traces[0].weight.abs().sum() > 0
    assert carry.traces[0].weight.abs().sum() == 0


def test_two_rollouts_may_run_before_the_first_backward() -> None:
    core = ELSTM(4, 5).double()
    x, is_first = torch.randn(6, 2, 4, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.bool)
    carry = core.initial_carry(2)
    for part in (slice(0, 3), slice(3, 6)):
        h, carry = core(x[part], carry, is_first[part])
        h.square().sum().backward()
    one_by_one = core.input_weight.grad.clone()
    core.zero_grad()
    first, carry = core(x[:3], core.initial_carry(2), is_first[:3])
    second, _ = core(x[3:], carry, is_first[3:])
    (first.square().sum() + second.square().sum()).backward()
    torch.testing.assert_close(core.input_weight.grad, one_by_one)


def test_chrono_initialisation_spreads_the_time_scales() -> None:
    core = ELSTM(4, 4096, chrono_steps=100)
    scales = core.bias[0].exp()
    assert scales.min() >= 1
    assert scales.max() <= 100
    assert 45 < scales.mean() < 56
    assert core.bias[1].abs().max() == 0
    assert ELSTM(4, 8).bias.abs().max() == 0


def test_float64_and_its_carry() -> None:
    core = ELSTM(4, 3).double()
    carry = core.initial_carry(2)
    assert carry.state.dtype == torch.float64
    assert core.initial_carry(2, device="cpu", dtype=torch.float32).state.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "is_first", "carry_of", "words"),
    [
        ((3, 2, 5), (3, 2), (4, 3, 2), r"x must be \[T >= 1, B, 4\], not \[3, 2, 5\]"),
        ((0, 2, 4), (0, 2), (4, 3, 2), r"x must be \[T >= 1, B, 4\], not \[0, 2, 4\]"),
        ((3, 2, 4), (3, 1), (4, 3, 2), r"is_first must be bool \[3, 2\]"),
        ((3, 2, 4), (3, 2), (4, 3, 1), r"carry.state must be \[2, 3\], not \[1, 3\]"),
        ((3, 2, 4), (3, 2), (5, 3, 2), r"traces.weight must be \[2, 2, 3, 4\], not \[2, 2, 3, 5\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    x: tuple[int, ...], is_first: tuple[int, ...], carry_of: tuple[int, int, int], words: str
) -> None:
    width, hidden, batch = carry_of
    carry = ELSTM(width, hidden).initial_carry(batch)
    with pytest.raises(ValueError, match=words):
        ELSTM(4, 3)(torch.zeros(x), carry, torch.zeros(is_first, dtype=torch.bool))


def test_rtrl_refuses_a_carry_without_traces() -> None:
    with pytest.raises(ValueError, match="needs a carry with traces"):
        ELSTM(4, 3)(torch.zeros(1, 2, 4), Carry(torch.zeros(2, 3)), torch.zeros(1, 2, dtype=torch.bool))


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="gradient must be one of rtrl, tbptt, not 'bptt'"):
        ELSTM(4, 3, gradient="bptt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1, not 0 and 3"):
        ELSTM(0, 3)


def test_the_feed_forward_core_is_the_elstm_in_the_first_step_of_an_episode() -> None:
    recurrent, feedforward = ELSTM(6, 5), FeedForward(6, 5)
    with torch.no_grad():
        feedforward.gates.weight.copy_(recurrent.input_weight.flatten(0, 1))
        feedforward.output_gate.load_state_dict(recurrent.output_gate.state_dict())
    x = torch.randn(4, 3, 6)
    everywhere = torch.ones(4, 3, dtype=torch.bool)
    expected, _ = recurrent(x, recurrent.initial_carry(3), everywhere)
    actual, carry = feedforward(x, feedforward.initial_carry(3), ~everywhere)
    torch.testing.assert_close(actual, expected)
    assert carry.state.shape == (3, 0)
