"""The passive T-maze: what is seen when, what is paid, and that the vector form equals the single one."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from r2ac.envs import InvalidOption, Signals, make_vector
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.tmaze import TMaze, TMazeVector

LENGTHS = st.integers(1, 60)
SEEDS = st.integers(0, 2**31 - 1)


@given(LENGTHS, SEEDS, st.integers(0, 1), st.randoms(use_true_random=False))
def test_an_episode(length: int, seed: int, choice: int, random) -> None:
    env = TMaze(length)
    first, _ = env.reset(seed=seed)
    cue = int(first.argmax())
    assert first.tolist() in ([1, 0, 0, 0], [0, 1, 0, 0])
    for t in range(1, length + 1):
        observation, reward, terminated, truncated, _ = env.step(np.int64(random.randrange(2)))
        assert observation.tolist() == ([0, 0, 0, 1] if t == length else [0, 0, 1, 0])
        assert (reward, terminated, truncated) == (0.0, False, False)
    observation, reward, terminated, truncated, _ = env.step(np.int64(choice))
    assert (reward, terminated, truncated) == (float(choice == cue), True, False)
    assert observation.tolist() == [0, 0, 0, 1]


@settings(max_examples=30)
@given(LENGTHS, st.integers(1, 5), SEEDS)
def test_the_vector_form_equals_gymnasium_s_vector_of_single_ones(length: int, num_envs: int, seed: int) -> None:
    fast = TMazeVector(num_envs, length)
    slow = SyncVectorEnv([lambda: TMaze(length)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    assert fast.observation_space == slow.observation_space
    assert fast.action_space == slow.action_space
    np.testing.assert_array_equal(fast.reset(seed=seed)[0], slow.reset(seed=seed)[0])
    choose = np.random.default_rng(seed)
    for _ in range(3 * (length + 1)):
        actions = choose.integers(2, size=num_envs)
        *ours, our_info = fast.step(actions)
        *theirs, their_info = slow.step(actions)
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our, their)
            assert our.dtype == their.dtype
        signals = Signals.of(our_info)
        assert (signals.final_observation is not None) == ("final_obs" in their_info)
        if signals.final_observation is not None:
            np.testing.assert_array_equal(signals.final_observation, np.stack(list(their_info["final_obs"])))
            np.testing.assert_array_equal(signals.has_final, their_info["_final_obs"])


def test_gymnasium_makes_and_checks_it() -> None:
    check_env(gymnasium.make("r2ac/TMaze-v0", corridor_length=3).unwrapped, skip_render_check=True)
    vector = gymnasium.make_vec("r2ac/TMaze-v0", num_envs=3, vectorization_mode="vector_entry_point", corridor_length=2)
    assert isinstance(vector.unwrapped, TMazeVector)
    observation, _ = vector.reset(seed=0)
    assert observation in vector.observation_space


def returns_of(split: str, seed: int, remember: bool, length: int = 7, episodes: int = 40) -> np.ndarray:
    """Returns [episodes, 16] of a policy that goes where the cue pointed, or always up."""
    env = make_vector("memory/tmaze", 16, seed, split=split, options=MemoryOptions(corridor_length=length))
    observation, _ = env.reset()
    returns = np.zeros((episodes, 16))
    for episode in range(episodes):
        cue = observation.argmax(axis=1)
        for _ in range(length + 1):
            observation, reward, terminated, _, _ = env.step(cue if remember else np.zeros(16, dtype=np.int64))
            returns[episode] += reward
        assert terminated.all()
    return returns


def test_memory_is_worth_everything_and_nothing_else_is_worth_more_than_chance() -> None:
    assert returns_of("train", 0, remember=True).mean() == 1.0
    assert abs(returns_of("train", 0, remember=False).mean() - 0.5) < 0.08


def test_cues_follow_the_seed() -> None:
    cues = returns_of("train", 5, remember=False)
    np.testing.assert_array_equal(cues, returns_of("train", 5, remember=False))
    assert (cues != returns_of("train", 6, remember=False)).any()
    assert (cues != returns_of("test", 5, remember=False)).any()
    assert len(np.unique(cues, axis=1).T) == 16, "every stream has cues of its own"


def test_a_later_reset_goes_on_with_new_cues_and_a_seed_returns_to_old_ones() -> None:
    env = TMazeVector(64, 3)
    first, _ = env.reset(seed=1)
    env.step(np.zeros(64, dtype=np.int64))
    second, _ = env.reset()
    assert (first != second).any()
    np.testing.assert_array_equal(env.reset(seed=range(1, 65))[0], first)
    with pytest.raises(ValueError, match="got 3 seeds for 64 streams"):
        env.reset(seed=[1, 2, 3])


def test_the_caller_keeps_what_it_got() -> None:
    env = TMazeVector(2, 1)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    first_again, _ = env.reset(seed=0)
    first_again[:] = 9.0
    env.step(np.zeros(2, dtype=np.int64))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(env.reset(seed=0)[0], kept)


@pytest.mark.parametrize("length", [0, -3, 1.5, True])
def test_a_corridor_has_at_least_one_step(length: int) -> None:
    for make in (TMaze, lambda length: TMazeVector(2, length)):
        with pytest.raises(InvalidOption, match=f"corridor_length is {length}"):
            make(length)
