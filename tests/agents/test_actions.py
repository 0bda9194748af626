"""Action spaces: their distributions against those of torch, and the drawing of actions from them."""

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal, TanhTransform, TransformedDistribution

from r2ac.agents import ActionSpec, AgentConfig, BoxActions, DiscreteActions, MultiDiscreteActions
from r2ac.agents.actions import PolicyHead

BOX = BoxActions((-1.0, -2.0, float("-inf")), (1.0, 5.0, float("inf")))
SQUASHED = BoxActions((-1.0, -2.0), (1.0, 5.0), squash=True)
KINDS = [DiscreteActions(5), MultiDiscreteActions((3, 1, 4)), BOX, SQUASHED]


def as_torch(actions: ActionSpec, parameters: Tensor) -> Distribution:
    """The same distribution by torch."""
    if isinstance(actions, BoxActions):
        mean, log_deviation = parameters.chunk(2, dim=-1)
        gaussian = Normal(mean, log_deviation.exp())
        return TransformedDistribution(gaussian, TanhTransform()) if actions.squash else gaussian
    return Categorical(logits=parameters)


def draw(actions: ActionSpec) -> tuple[Tensor, Tensor]:
    """Parameters [5, 3, P] float64, and actions that they give."""
    random = np.random.default_rng(2)
    parameters = random.standard_normal((15, actions.parameters))
    chosen = actions.choose(parameters, random.random((15, *actions.shape)))
    assert chosen.dtype == actions.dtype
    assert chosen.shape == (15, *actions.shape)
    return torch.from_numpy(parameters).view(5, 3, -1), torch.from_numpy(chosen).view(5, 3, *actions.shape)


@pytest.mark.parametrize("actions", [DiscreteActions(5), BOX, SQUASHED], ids=str)
def test_log_prob_is_that_of_torch(actions: ActionSpec) -> None:
    parameters, action = draw(actions)
    seen = action.double().tanh() if isinstance(actions, BoxActions) and actions.squash else action
    expected = as_torch(actions, parameters).log_prob(seen)
    # torch inverts tanh, which loses digits near 1.
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(actions.log_prob(parameters, action), expected.view(5, 3, -1).sum(-1), **tolerance)


@pytest.mark.parametrize("actions", [DiscreteActions(5), BOX], ids=str)
def test_entropy_is_that_of_torch(actions: ActionSpec) -> None:
    parameters, _ = draw(actions)
    expected = as_torch(actions, parameters).entropy()
    torch.testing.assert_close(actions.entropy(parameters), expected.view(5, 3, -1).sum(-1))


def test_entropy_of_uniform_and_of_certain_policies() -> None:
    actions = DiscreteActions(4)
    assert actions.entropy(torch.zeros(2, 3, 4, dtype=torch.float64)).numpy() == pytest.approx(math.log(4))
    assert float(DiscreteActions(3).entropy(torch.tensor([1000.0, 0.0, -1000.0]))) == 0.0


def test_the_parts_of_a_multi_discrete_action_are_independent() -> None:
    actions = MultiDiscreteActions((3, 1, 4))
    parameters, action = draw(actions)
    parts = list(
        zip(parameters.split([3, 1, 4], dim=-1), action.unbind(-1), map(DiscreteActions, (3, 1, 4)), strict=True)
    )
    log_prob = sum(part.log_prob(logits, taken) for logits, taken, part in parts)
    torch.testing.assert_close(actions.log_prob(parameters, action), log_prob)
    torch.testing.assert_close(actions.entropy(parameters), sum(part.entropy(logits) for logits, _, part in parts))
    both = torch.cat([logits.softmax(-1) for logits, _, _ in parts], dim=-1)
    torch.testing.assert_close(actions.probabilities(parameters), both)
    taken = both.flatten(0, 1).numpy()[np.arange(15)[:, None], actions.chosen(action.flatten(0, 1).numpy())]
    np.testing.assert_allclose(np.log(taken).sum(axis=1), log_prob.flatten())


@pytest.mark.parametrize("far", [-30.0, 30.0])
def test_a_squashed_action_far_from_zero_has_a_finite_density_and_gradient(far: float) -> None:
    """tanh rounds to 1 there, and 1 - tanh^2 to 0."""
    parameters = torch.tensor([far, far, 0.0, 0.0], requires_grad=True)
    log_prob = SQUASHED.log_prob(parameters, torch.tensor([far, far]))
    log_prob.backward()
    assert log_prob.item() == pytest.approx(2 * (2 * 30 - 2 * math.log(2) - 0.5 * math.log(2 * math.pi)), rel=1e-5)
    assert parameters.grad is not None
    assert torch.isfinite(parameters.grad).all()


@pytest.mark.parametrize("actions", KINDS, ids=str)
def test_an_action_of_another_shape_is_refused(actions: ActionSpec) -> None:
    parameters, action = draw(actions)
    with pytest.raises(ValueError, match=r"action must be \[5, 3.*\] to match its parameters, got \[5, 1"):
        actions.log_prob(parameters, action[:, :1])


def test_gaussian_actions_are_drawn_by_inverting_the_cumulative_probability() -> None:
    parameters = np.array([[0.5, -1.0, 0.0, math.log(2), 0.0, math.log(0.1)]])
    drawn = BOX.choose(np.repeat(parameters, 100_000, axis=0), np.random.default_rng(0).random((100_000, 3)))
    np.testing.assert_allclose(drawn.mean(axis=0), [0.5, -1.0, 0.0], atol=5 * 2 / math.sqrt(100_000))
    np.testing.assert_allclose(drawn.std(axis=0), [2.0, 1.0, 0.1], rtol=0.02)
    one = BOX.choose(parameters, np.array([[0.5, 0.8413447460685429, 0.0]]))
    np.testing.assert_allclose(one[0, :2], [0.5, 0.0], atol=1e-6)
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(BOX.choose(parameters, None), np.float32([[0.5, -1.0, 0.0]]))


def test_the_environment_gets_actions_within_its_bounds() -> None:
    np.testing.assert_array_equal(BOX.to_env(np.float32([[-3, 9, 1e9]])), np.float32([[-1, 5, 1e9]]))
    drawn = np.float32([[-50, -50], [0, 0], [50, 50]])
    np.testing.assert_array_equal(SQUASHED.to_env(drawn), np.float32([[-1, -2], [0, 1.5], [1, 5]]))
    np.testing.assert_array_equal(DiscreteActions(3).to_env(np.array([2, 0])), [2, 0])


def test_squashing_needs_bounds() -> None:
    with pytest.raises(ValueError, match=r"squash_actions scales actions to their bounds, but these are .* to .*inf"):
        BOX.configured(AgentConfig(squash_actions=True))
    assert replace(SQUASHED, squash=False).configured(AgentConfig(squash_actions=True)) == SQUASHED
    assert DiscreteActions(3).configured(AgentConfig(squash_actions=True)) == DiscreteActions(3)


@pytest.mark.parametrize("actions", KINDS, ids=str)
def test_random_actions_are_spread_evenly(actions: ActionSpec) -> None:
    drawn = actions.at_random(np.random.default_rng(1), 20_000, None)
    assert drawn.dtype == actions.dtype
    for k, part in enumerate(drawn.reshape(20_000, -1).T):
        if actions.sizes:
            np.testing.assert_allclose(np.bincount(part) / 20_000, 1 / actions.sizes[k], atol=0.02)
        elif math.isfinite(low := actions.low[k]):  # type: ignore[attr-defined]
            shares = np.histogram(part, 4, (low, actions.high[k]))[0] / 20_000  # type: ignore[attr-defined]
            np.testing.assert_allclose(shares, 0.25, atol=0.02)


@pytest.mark.parametrize("deviation", ["state-independent", "state-dependent"])
def test_the_head_gives_means_and_deviations(deviation: Any) -> None:
    torch.manual_seed(0)
    head = PolicyHead(7, BOX, AgentConfig(action_deviation=deviation))
    parameters = head(100 * torch.randn(4, 2, 7))
    assert parameters.shape == (4, 2, 6)
    log_deviation = parameters[..., 3:]
    if deviation == "state-independent":
        assert head.out_features == 3
        assert (log_deviation == 0).all()
        log_deviation.sum().backward()
        assert head.log_deviation is not None
        assert head.log_deviation.grad is not None
        assert head.log_deviation.grad.tolist() == [8, 8, 8]
    else:
        assert head.log_deviation is None
        assert log_deviation.min() >= -20
        assert log_deviation.max() == 2
        assert log_deviation.unique().numel() > 1


def allowed(actions: ActionSpec) -> st.SearchStrategy[list[bool]]:
    """Masks that allow at least one choice of each part."""
    parts = [st.lists(st.booleans(), min_size=size, max_size=size).filter(any) for size in actions.sizes]
    return st.tuples(*parts).map(lambda rows: [each for row in rows for each in row])


@given(data=st.data(), actions=st.sampled_from(KINDS[:2]), seed=st.integers(0, 1000))
def test_a_masked_action_is_never_drawn_and_gets_no_gradient(data: st.DataObject, actions: Any, seed: int) -> None:
    mask = torch.tensor(data.draw(allowed(actions)))
    torch.manual_seed(seed)
    head = PolicyHead(4, actions, AgentConfig())
    parameters = head(30 * torch.randn(4), mask)
    row, random = parameters.detach().numpy()[None], np.random.default_rng(seed)
    ends = [np.zeros(actions.shape), np.full(actions.shape, 1 - 2**-53)]
    draws = [actions.choose(row, uniforms[None]) for uniforms in (*ends, *random.random((20, *actions.shape)))]
    for action in (*draws, actions.choose(row, None), actions.at_random(random, 1, mask[None].numpy())):
        assert mask.numpy()[actions.chosen(action)].all()
    assert (actions.probabilities(parameters)[~mask] == 0).all()
    (actions.log_prob(parameters, torch.as_tensor(draws[0][0])) + actions.entropy(parameters)).backward()
    assert head.bias.grad is not None
    assert torch.isfinite(head.bias.grad).all()
    assert (head.bias.grad[~mask] == 0).all()
    assert head.weight.grad is not None
    assert (head.weight.grad[~mask] == 0).all()


def test_a_spec_comes_from_a_space() -> None:
    assert ActionSpec.of(Discrete(4)) == DiscreteActions(4)
    assert ActionSpec.of(MultiDiscrete([2, 5])) == MultiDiscreteActions((2, 5))
    assert ActionSpec.of(Box(-1, 2, (2,))) == BoxActions((-1.0, -1.0), (2.0, 2.0))
    for space in (MultiBinary(3), Box(0, 1, (2, 2))):
        with pytest.raises(ValueError, match="actions must be Discrete, MultiDiscrete or a Box of one axis, not"):
            ActionSpec.of(space)
    words = ["5 actions", "3 x 1 x 4 actions", "3 continuous actions", "2 continuous actions"]
    assert [str(kind) for kind in KINDS] == words
    assert pickle.loads(pickle.dumps(KINDS)) == KINDS


def test_sampled_frequencies_are_those_of_the_softmax() -> None:
    logits = np.array([[0.0, 1.0, -2.0, 3.0, 0.5]], dtype=np.float32)
    draws = 200_000
    actions = DiscreteActions(5).choose(np.repeat(logits, draws, axis=0), np.random.default_rng(1).random(draws))
    expected = torch.softmax(torch.from_numpy(logits[0]).double(), dim=0).numpy()
    # Five standard deviations.
    bound = 5 * np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(np.bincount(actions, minlength=5) / draws - expected) < bound).all()


def test_actions_are_drawn_by_inverting_the_cumulative_probability() -> None:
    logits = np.log(np.array([[0.25, 0.5, 0.25]]))
    uniforms = np.array([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53])
    assert DiscreteActions(3).choose(np.repeat(logits, 6, axis=0), uniforms).tolist() == [0, 0, 1, 1, 2, 2]


finite = st.floats(-1e4, 1e4, width=32)


@given(
    logits=st.lists(st.one_of(finite, st.just(float("-inf"))), min_size=1, max_size=18).filter(
        lambda row: max(row) > float("-inf")
    ),
    uniform=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53, 2**-60])),
)
@example(logits=[float("-inf"), 0.0, float("-inf")], uniform=0.0)
@example(logits=[0.0, 0.0, 0.0, float("-inf"), -1e4], uniform=1 - 2**-53)
def test_every_draw_is_an_action_of_positive_probability(logits: list[float], uniform: float) -> None:
    row = np.array([logits], dtype=np.float32)
    action = DiscreteActions(len(logits)).choose(row, np.array([uniform]))
    assert action.dtype == np.int64
    assert action.shape == (1,)
    assert 0 <= action[0] < len(logits)
    assert np.exp(row[0, action[0]].astype(np.float64) - row.max()) > 0


@pytest.mark.parametrize("actions", KINDS, ids=str)
def test_tensors_and_arrays_have_the_same_most_probable_actions(actions: ActionSpec) -> None:
    parameters = 3 * torch.randn(50, actions.parameters)
    expected = actions.to_env(actions.choose(parameters.numpy(), None))
    found = actions.most_probable(parameters).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_random_numbers_the_most_probable_actions_are_taken() -> None:
    logits = np.array([[0.0, 3.0, -1.0], [2.0, 1.0, 2.0]], dtype=np.float32)
    assert DiscreteActions(3).choose(logits, None).tolist() == [1, 0]
