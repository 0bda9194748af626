"""Actions of every kind reach the environment as it wants them, and masks reach the agent."""

import re

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from r2ac.agents import ObservationSpec
from r2ac.envs import EnvironmentFailed, InvalidOption, Signals, UnknownTask, make_vector
from r2ac.envs.gym import GymOptions
from r2ac.launch.cli import main

ACTING = "gym/tests.acting_envs:acting/"
FROM_INFO = GymOptions(mask_from_info=True)
MASKED = [("Masked", GymOptions()), ("MaskedGamepad", GymOptions()), ("TellingInfo", FROM_INFO)]


def test_a_box_of_any_shape_takes_rows_and_clips_them() -> None:
    env = make_vector(f"{ACTING}Steering-v0", 2, 0)
    space = env.single_action_space
    assert isinstance(space, Box)
    assert (space.shape, space.dtype) == ((3,), np.float32)
    assert space.high.tolist() == [1, np.float32(0.1), np.inf]
    env.reset()
    rewards = env.step(np.array([[5, 0.1, 2], [0.25, -3, 0]], np.float32))[1]
    np.testing.assert_allclose(rewards, [1 + 0.1 + 2, 0.25])


def test_the_parts_of_a_multi_discrete_action_count_from_its_start() -> None:
    env = make_vector(f"{ACTING}Gamepad-v0", 2, 0)
    assert env.single_action_space == MultiDiscrete([3, 2])
    env.reset()
    assert env.step(np.array([[0, 0], [2, 1]]))[1].tolist() == [1 + 5, 3 + 6]


@pytest.mark.parametrize(("name", "options"), MASKED)
@pytest.mark.parametrize("limit", [0, 4])
def test_what_a_mask_allows_is_never_refused(name: str, options: GymOptions, limit: int) -> None:
    """In every step, also in the first of an episode that a limit or the end of another one began."""
    options = GymOptions(mask_from_info=options.mask_from_info, max_episode_steps=limit)
    env = make_vector(f"{ACTING}{name}-v0", 3, 5, options=options)
    spec = ObservationSpec.of(env)
    assert spec.action_masks
    assert spec.shape == (2,), "the mask is not shown"
    random = np.random.default_rng(0)
    _, info = env.reset()
    seen, ends = [], 0
    for _ in range(30):
        mask = Signals.of(info).action_mask
        assert mask is not None
        assert (mask.shape, mask.dtype) == ((3, spec.actions.parameters), np.bool_)
        seen.append(mask)
        _, _, terminated, truncated, info = env.step(spec.actions.at_random(random, 3, mask))
        ends += int((terminated | truncated).sum())
    assert ends == 3 * (30 // (limit or 6))
    assert 0.2 < np.mean(seen) < 0.8


def test_a_mask_beside_other_observations_leaves_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    observation, _ = make_vector(f"{ACTING}MaskedRows-v0", 1, 0).reset()
    assert observation[0, 2:].tolist() == [0, 1, 0]
    assert main(["envs", "--check", f"{ACTING}MaskedRows-v0", "--steps", "30"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "seen as a vector: float32 [5], in the order seen, choice" in said
    assert "MultiDiscrete([[3 2]], start=[[1 5]]): 3 x 2 actions, masked" in said


@pytest.mark.parametrize(("name", "options"), MASKED)
def test_an_action_is_repeated_while_it_is_allowed(name: str, options: GymOptions) -> None:
    options = GymOptions(mask_from_info=options.mask_from_info, action_repeat=3)
    env = make_vector(f"{ACTING}{name}-v0", 3, 5, options=options)
    spec, random = ObservationSpec.of(env), np.random.default_rng(0)
    _, info = env.reset()
    ends = 0
    for _ in range(30):
        actions = spec.actions.at_random(random, 3, Signals.of(info).action_mask)
        _, _, terminated, truncated, info = env.step(actions)
        ends += int((terminated | truncated).sum())
    assert 3 * 30 // 6 < ends < 3 * 30 // 2, "some actions are repeated, and some less than three times"


def test_a_masked_action_is_refused_by_these_environments() -> None:
    """So that the test above can fail."""
    env = make_vector(f"{ACTING}Masked-v0", 1, 5)
    _, info = env.reset()
    mask = Signals.of(info).action_mask
    assert mask is not None
    with pytest.raises(EnvironmentFailed, match="is masked"):
        env.step(mask.argmin(axis=1))


def test_several_tasks_have_one_kind_of_actions() -> None:
    both = make_vector(f"{ACTING}Masked-v0,{ACTING}Barred-v0", 4, 0)
    assert both.single_action_space == Discrete(4)
    mask = Signals.of(both.reset()[1]).action_mask
    assert mask is not None
    assert mask.any(axis=1).all()
    shown = r"have the same|show the same and take the same actions"
    with pytest.raises(InvalidOption, match=rf"{shown}.* 3 x 2 actions, and .* 3 x 2 actions with masks"):
        make_vector(f"{ACTING}Gamepad-v0,{ACTING}MaskedGamepad-v0", 2, 0)
    with pytest.raises(InvalidOption, match=r"3 continuous actions, and .* 1 continuous actions"):
        make_vector(f"{ACTING}Steering-v0,{ACTING}Wheel-v0", 2, 0)


def test_a_step_in_which_nothing_is_allowed_is_one_sentence() -> None:
    env = make_vector(f"{ACTING}Barred-v0", 2, 0, first_stream=4)
    spec, random = ObservationSpec.of(env), np.random.default_rng(0)
    info = env.reset()[1]
    for _ in range(2):
        info = env.step(spec.actions.at_random(random, 2, Signals.of(info).action_mask))[4]
    last = spec.actions.at_random(random, 2, Signals.of(info).action_mask)
    said = re.escape(
        f"{ACTING}Barred-v0 allows no action after step 3 of stream 4: its action_mask must allow at least"
    )
    with pytest.raises(EnvironmentFailed, match=said):
        env.step(last)


def test_a_mask_that_is_not_there_or_not_possible_is_named() -> None:
    with pytest.raises(EnvironmentFailed, match="there is no action_mask in its info, which mask_from_info says is"):
        make_vector(f"{ACTING}Gamepad-v0", 1, 0, options=FROM_INFO).reset()
    with pytest.raises(UnknownTask, match=r"it masks actions, but these are Box"):
        make_vector(f"{ACTING}Wheel-v0", 1, 0, options=FROM_INFO)


def test_the_taxi_says_in_its_infos_where_it_can_drive() -> None:
    env = make_vector("gym/Taxi-v4", 2, 0, options=FROM_INFO)
    mask = Signals.of(env.reset()[1]).action_mask
    assert mask is not None
    assert (mask.shape, mask.any(axis=1).all(), mask.all()) == ((2, 6), True, False)
    assert not ObservationSpec.of(make_vector("gym/Taxi-v4", 2, 0)).action_masks
