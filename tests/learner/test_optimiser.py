from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from r2ac.learner import OPTIMISERS, load_optimiser_state, make_optimiser
from r2ac.learner.optimiser import clip_gradient_norm, linear_decay, step_where


def test_rmsprop_adds_eps_outside_the_square_root() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimiser = make_optimiser([parameter], "rmsprop", learning_rate=0.1)
    theta, mean_square = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for gradient in torch.tensor([[1e-3, 0.5, -2.0], [2e-3, -0.5, -1.0]], dtype=torch.float64):
        parameter.grad = gradient.clone()
        optimiser.step()
        mean_square = 0.99 * mean_square + 0.01 * gradient**2
        theta = theta - 0.1 * gradient / (mean_square.sqrt() + 0.01)
    torch.testing.assert_close(parameter.detach(), theta)


def test_adam_has_its_own_eps() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = make_optimiser([parameter], "adam", learning_rate=0.1)
    parameter.grad = torch.full_like(parameter, 1e-3)
    optimiser.step()
    # Adam's first step is the learning rate, whatever the gradient's size; an eps of 0.01 would make it a tenth.
    assert parameter.item() == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_the_optimisers_on_a_cpu_are_pytorchs_to_the_bit(name: str) -> None:
    torch.manual_seed(1)
    ours, theirs = ([torch.nn.Parameter(torch.ones(size)) for size in (3, 20)] for _ in range(2))
    of_pytorch: torch.optim.Optimizer = torch.optim.Adam(theirs, 0.1, fused=True)
    if name == "rmsprop":
        of_pytorch = torch.optim.RMSprop(theirs, 0.1, alpha=0.99, eps=0.01)
    optimisers = make_optimiser(ours, name, learning_rate=0.1), of_pytorch
    for step in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        if step == 2:
            ours[0].grad = theirs[0].grad = None
        for optimiser in optimisers:
            optimiser.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    states = (optimiser.state_dict()["state"] for optimiser in optimisers)
    for mine, other in zip(*(state.values() for state in states), strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in mine.items())


def test_refuses_an_unknown_optimiser() -> None:
    with pytest.raises(ValueError, match="unknown optimiser 'lion': must be one of rmsprop, adam, sgd"):
        make_optimiser([torch.nn.Parameter(torch.zeros(1))], "lion", learning_rate=0.1)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_named_can_be_made(name: str) -> None:
    optimiser = make_optimiser([torch.nn.Parameter(torch.zeros(1))], name, learning_rate=6e-4)
    assert [group["lr"] for group in optimiser.param_groups] == [6e-4]


@pytest.mark.parametrize(("step", "factor"), [(-5, 1.0), (0, 1.0), (50, 0.75), (200, 0.0), (201, 0.0)])
def test_linear_decay_goes_from_one_to_zero_and_stays(step: int, factor: float) -> None:
    assert linear_decay(step, 200) == factor


def test_linear_decay_refuses_a_run_of_no_steps() -> None:
    with pytest.raises(ValueError, match="total_steps must be greater than 0, got 0"):
        linear_decay(0, 0)


def test_clips_the_norm_of_all_gradients_together() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    norm = clip_gradient_norm(gradients, 10.0)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(gradients[0], torch.tensor([3.0, 0.0]))
    norm = clip_gradient_norm(gradients, 1.0)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(gradients[0], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(gradients[1], torch.tensor([0.8]))


def test_clipping_never_reads_a_value_on_the_host() -> None:
    # A meta tensor has no values: any wait for the device, such as item() or a branch on the norm, raises here.
    norm = clip_gradient_norm([torch.ones(2, device="meta")], 1.0)
    assert norm.is_meta
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        norm.item()


def test_a_norm_that_is_not_finite_is_reported() -> None:
    assert math.isinf(clip_gradient_norm([torch.tensor([1.0, math.inf])], 1.0).item())


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_refuses_a_norm_that_is_not_positive(max_norm: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm must be greater than 0, got {max_norm}"):
        clip_gradient_norm([torch.zeros(1)], max_norm)


def assert_same_bits(mine: Any, other: Any) -> None:
    assert mine.dtype == other.dtype
    assert mine.detach().numpy().tobytes() == other.detach().numpy().tobytes()


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("condition", [True, False])
def test_a_step_that_is_selected_is_a_step_that_is_branched_to(name: str, condition: bool) -> None:
    """To the bit, in weights of any shape and dtype and in all of the optimiser's state; a gradient that is not finite
    leaves no trace."""
    outcomes = []
    for may_branch in (True, False):
        torch.manual_seed(3)
        weights = torch.randn(5), torch.randn(()), torch.randn(2, 3).double(), torch.randn(4, 2).t(), torch.randn(0, 2)
        parameters = [torch.nn.Parameter(weight) for weight in weights]
        optimiser = make_optimiser(parameters, name, 0.1)
        places = [parameter.data_ptr() for parameter in parameters]
        for made in (True, condition):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            if not made:
                parameters[0].grad[2] = math.nan
            before = [parameter.detach().clone() for parameter in parameters if parameter.numel()]
            step_where(optimiser, torch.tensor(made), may_branch)
            for parameter, old in zip(parameters, before, strict=False):
                assert torch.equal(parameter, old) != made
        assert [parameter.data_ptr() for parameter in parameters] == places
        state = [optimiser.state[parameter] for parameter in parameters]
        outcomes.append((parameters, [value for each in state for value in each.values()]))
    for one, other in zip(*outcomes, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert_same_bits(mine, theirs)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_state_from_a_gpu_goes_on_as_this_device_computes(name: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = make_optimiser([parameter], name, 0.1)
    (own,) = optimiser.state_dict()["param_groups"]
    state = optimiser.state_dict()
    settings = {"lr": torch.tensor(0.25), "capturable": True, "foreach": True, "fused": None}
    of_gpu = {name: settings.get(name, value) for name, value in own.items()}
    load_optimiser_state(optimiser, {**state, "param_groups": [of_gpu]})
    (group,) = optimiser.state_dict()["param_groups"]
    assert group == {**own, "lr": 0.25}
