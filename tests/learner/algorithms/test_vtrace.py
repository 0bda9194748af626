"""V-trace against the definition in Espeholt et al. 2018, written out with plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2ac.learner.algorithms.vtrace import VTrace, gae, vtrace

BOUNDS = st.sampled_from([0.3, 1.0, 1.7, float("inf")])


def draw_inputs(seed: int, length: int, batch: int, on_policy: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ends = rng.random((length, batch)) < 0.2
    return {
        "log_rhos": np.zeros((length, batch)) if on_policy else rng.normal(size=(length, batch)),
        "discounts": np.where(ends, 0.0, rng.uniform(0.5, 1.0, size=(length, batch))),
        "rewards": rng.normal(size=(length, batch)),
        "values": rng.normal(size=(length, batch)),
        "bootstrap_value": rng.normal(size=batch),
    }


def compute(inputs: dict[str, np.ndarray], dtype: torch.dtype = torch.float64, **bounds: Any) -> VTrace:
    tensors: dict[str, Any] = {name: torch.as_tensor(array, dtype=dtype) for name, array in inputs.items()}
    return vtrace(**tensors, **bounds)


def definition(
    inputs: dict[str, np.ndarray], clip_rho: float, clip_pg_rho: float, clip_c: float, lambda_: float
) -> tuple[np.ndarray, np.ndarray]:
    """Equation 1, its sum and its product as they stand, with the lambda of remark 2, and the advantage of section 4.2
    with the lambda-mixture of target and value as what follows."""
    discount, reward = inputs["discounts"], inputs["rewards"]
    ratio = np.exp(inputs["log_rhos"])
    value = np.concatenate((inputs["values"], inputs["bootstrap_value"][None]))
    length, batch = reward.shape
    target = value.copy()
    advantage = np.zeros((length, batch))
    for b in range(batch):
        for s in range(length):
            for t in range(s, length):
                product = 1.0
                for i in range(s, t):
                    product *= discount[i, b] * lambda_ * min(clip_c, ratio[i, b])
                rho = min(clip_rho, ratio[t, b])
                target[s, b] += product * rho * (reward[t, b] + discount[t, b] * value[t + 1, b] - value[t, b])
        for s in range(length):
            rho = min(clip_pg_rho, ratio[s, b])
            ahead = lambda_ * target[s + 1, b] + (1 - lambda_) * value[s + 1, b]
            advantage[s, b] = rho * (reward[s, b] + discount[s, b] * ahead - value[s, b])
    return target[:-1], advantage


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 12),
    batch=st.integers(0, 4),
    clip_rho=BOUNDS,
    clip_pg_rho=BOUNDS,
    clip_c=BOUNDS,
    lambda_=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_equals_the_definition(
    seed: int, length: int, batch: int, clip_rho: float, clip_pg_rho: float, clip_c: float, lambda_: float
) -> None:
    inputs = draw_inputs(seed, length, batch)
    result = compute(inputs, clip_rho=clip_rho, clip_pg_rho=clip_pg_rho, clip_c=clip_c, lambda_=lambda_)
    targets, advantages = definition(inputs, clip_rho, clip_pg_rho, clip_c, lambda_)
    np.testing.assert_allclose(result.targets.numpy(), targets, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.pg_advantages.numpy(), advantages, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 12))
def test_on_policy_targets_are_n_step_returns(seed: int, length: int) -> None:
    inputs = draw_inputs(seed, length, batch=3, on_policy=True)
    returns, following = np.zeros((length, 3)), inputs["bootstrap_value"]
    for t in reversed(range(length)):
        following = returns[t] = inputs["rewards"][t] + inputs["discounts"][t] * following
    result = compute(inputs)
    np.testing.assert_allclose(result.targets.numpy(), returns, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.pg_advantages.numpy(), returns - inputs["values"], rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 12), lambda_=st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_generalised_advantages_are_the_weighted_mean_of_those_of_all_lengths(
    seed: int, length: int, lambda_: float
) -> None:
    inputs = draw_inputs(seed, length, batch=2, on_policy=True)
    values = np.concatenate((inputs["values"], inputs["bootstrap_value"][None]))
    expected = np.zeros((length, 2))
    for b in range(2):
        for t in range(length):
            # A of n steps: rewards, then the value; with weights (1 - lambda) lambda^(n-1), the last one the rest.
            total, factor = 0.0, 1.0
            for n in range(1, length - t + 1):
                total += factor * inputs["rewards"][t + n - 1, b]
                factor *= inputs["discounts"][t + n - 1, b]
                weight = lambda_ ** (n - 1) * (1 - lambda_ if n < length - t else 1.0)
                expected[t, b] += weight * (total + factor * values[t + n, b] - values[t, b])
    tensors = {name: torch.as_tensor(array) for name, array in inputs.items() if name != "log_rhos"}
    found = gae(**tensors, lambda_=lambda_)
    np.testing.assert_allclose(found.pg_advantages.numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.targets.numpy(), expected + inputs["values"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lambda_", [-0.1, 1.1, float("nan")])
def test_refuses_a_lambda_outside_its_range(lambda_: float) -> None:
    with pytest.raises(ValueError, match="lambda_ must lie in 0 to 1"):
        compute(draw_inputs(0, 2, 1), lambda_=lambda_)


def test_one_step_by_hand() -> None:
    result = vtrace(
        log_rhos=torch.tensor([[2.0, 0.5]]).log(),
        discounts=torch.tensor([[0.9, 0.9]]),
        rewards=torch.tensor([[1.0, 1.0]]),
        values=torch.tensor([[3.0, 3.0]]),
        bootstrap_value=torch.tensor([10.0, 10.0]),
        clip_rho=1.0,
        clip_pg_rho=1.5,
    )
    torch.testing.assert_close(result.targets, torch.tensor([[10.0, 6.5]]))
    torch.testing.assert_close(result.pg_advantages, torch.tensor([[10.5, 3.5]]))


def test_nothing_passes_the_end_of_an_episode() -> None:
    inputs = draw_inputs(0, length=6, batch=1)
    inputs["discounts"][:] = 0.9
    inputs["discounts"][2] = 0.0
    changed = {name: array.copy() for name, array in inputs.items()}
    changed["rewards"][3:] += 5.0
    changed["bootstrap_value"] += 5.0
    before, after = compute(inputs), compute(changed)
    assert torch.equal(before.targets[:3], after.targets[:3])
    assert torch.equal(before.pg_advantages[:3], after.pg_advantages[:3])
    assert not torch.isclose(before.targets[3:], after.targets[3:]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_the_dtype_of_the_values_and_carries_no_gradient(dtype: torch.dtype) -> None:
    inputs: dict[str, Any] = {
        name: torch.as_tensor(array).float() for name, array in draw_inputs(1, length=4, batch=2).items()
    }
    inputs["values"] = inputs["values"].to(dtype).requires_grad_()
    inputs["log_rhos"].requires_grad_()
    result = vtrace(**inputs)
    for tensor in (result.targets, result.pg_advantages):
        assert tensor.dtype == dtype
        assert not tensor.requires_grad


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("values", (4,), r"values must be \[T, B\] with T > 0, got \[4\]"),
        ("values", (0, 2), r"values must be \[T, B\] with T > 0, got \[0, 2\]"),
        ("log_rhos", (4, 1), r"log_rhos must be \[4, 2\] to match values, got \[4, 1\]"),
        ("discounts", (5, 2), r"discounts must be \[4, 2\] to match values, got \[5, 2\]"),
        ("rewards", (4, 2, 1), r"rewards must be \[4, 2\] to match values, got \[4, 2, 1\]"),
        ("bootstrap_value", (1, 2), r"bootstrap_value must be \[2\] to match values, got \[1, 2\]"),
    ],
)
def test_refuses_other_shapes(name: str, shape: tuple[int, ...], message: str) -> None:
    inputs = draw_inputs(2, length=4, batch=2) | {name: np.zeros(shape)}
    with pytest.raises(ValueError, match=message):
        compute(inputs)


@pytest.mark.parametrize("name", ["clip_rho", "clip_pg_rho", "clip_c"])
@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_refuses_bounds_that_are_not_positive(name: str, bound: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be greater than 0, got {bound}"):
        compute(draw_inputs(3, length=2, batch=2), **{name: bound})  # type: ignore[arg-type]


def test_refuses_values_of_low_precision() -> None:
    with pytest.raises(ValueError, match=r"values must be float32 or float64, got torch\.bfloat16"):
        compute(draw_inputs(4, length=2, batch=2), dtype=torch.bfloat16)
