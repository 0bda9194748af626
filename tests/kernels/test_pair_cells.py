"""Cells whose units are complex numbers: their formulas in complex arithmetic, and what they are at the start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from r2ac.agents import Recurrent
from r2ac.kernels import CELLS

MANY = 4096


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def as_complex(pair: Tensor) -> Tensor:
    return torch.complex(*pair.unbind(-2))


def test_s5_holds_its_input_for_a_step_of_its_own_size() -> None:
    own, gates, previous = normal(3, 4), normal(5, 2, 4), normal(5, 2, 4)
    rate, size = torch.complex(-own[0].exp(), own[1]), own[2].exp()
    held = torch.exp(rate * size)
    expected = held * as_complex(previous) + (held - 1) / rate * as_complex(gates)
    torch.testing.assert_close(as_complex(CELLS["s5"].step(gates, own, previous)), expected)


def test_a_small_step_loses_no_digits_of_what_s5_adds() -> None:
    own = torch.tensor([[math.log(0.5)], [3.0], [math.log(1e-6)]], dtype=torch.float64)
    gates = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    single, double = (
        CELLS["s5"].step(gates.to(dtype), own.to(dtype), torch.zeros(1, 2, 1, dtype=dtype)).double()
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-13)


def test_an_input_turns_a_rotation() -> None:
    """With p_0 far below 0 a unit holds: an event of 2 pi / 5 makes it a counter modulo 5."""
    gates = torch.tensor([-50.0, 1.0, 1.0, 2 * math.pi / 5], dtype=torch.float64).view(1, 4, 1)
    start = state = normal(1, 2, 1)
    for events in range(1, 6):
        state = CELLS["input_rotation"].step(gates, torch.zeros(1, 1, dtype=torch.float64), state)
        assert torch.allclose(state, start) == (events == 5)


def test_a_quarter_of_the_rotations_hold_and_the_others_are_spread_over_half_a_turn() -> None:
    for cell in ("rotation", "input_rotation"):
        angle = Recurrent(cell, 3, 12).get_parameter("angle")[0].detach()
        torch.testing.assert_close(angle, math.pi / 9 * torch.tensor([0.0, 0, 0, *range(1, 10)]))
        assert Recurrent(cell, 3, 1).get_parameter("angle").item() == 0


def test_an_lru_has_states_of_one_size_whatever_its_time_scales() -> None:
    """White input of variance 1 in each part gives states of variance 1."""
    for chrono_steps in (0, 100):
        core = Recurrent("lru", 3, MANY, chrono_steps=chrono_steps).double()
        radius, gain = core.get_parameter("decay").exp().neg().exp(), core.get_parameter("gain").exp()
        torch.testing.assert_close(gain.square() / (1 - radius.square()), torch.ones_like(gain), rtol=1e-4, atol=0)
        quarters = torch.histc(core.get_parameter("angle").detach(), bins=4, min=0, max=math.pi)
        torch.testing.assert_close(quarters, torch.full_like(quarters, MANY / 4), rtol=0.15, atol=0)


def test_s5_begins_with_frequencies_and_step_sizes_of_the_paper() -> None:
    core = Recurrent("s5", 3, MANY)
    size = core.get_parameter("log_step").detach().exp()
    assert 1e-3 <= size.min() < 1.1e-3
    assert 0.09 < size.max() <= 0.1
    frequency = core.get_parameter("frequency")[0].detach()
    torch.testing.assert_close(frequency[:9], math.pi * torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 0]))
