"""Trace conditioning: what follows what and when, that each stream is one alone, and how predictions are scored."""

from dataclasses import replace

import numpy as np
import pytest

from r2ac.envs import Signals, find_task, make_vector
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.trace_conditioning import TraceConditioning, mean_squared_return_error

TASK = "memory/trace_conditioning"
OPTIONS = MemoryOptions(isi=10, distractors=3)
STEPS = 4000


def play(options: MemoryOptions = OPTIONS, streams: int = 4, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Observations [steps+1,N,features] and rewards [steps,N]."""
    env = make_vector(TASK, streams, 3, options=options)
    observations, rewards = [env.reset()[0]], []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(np.zeros(streams, dtype=np.int64))
        assert not (terminated | truncated).any()
        assert info == {}
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


def onsets(shown: np.ndarray) -> np.ndarray:
    """The steps at which a stimulus [steps] appears."""
    return np.flatnonzero(np.diff(shown, prepend=0.0) > 0)


def test_trials() -> None:
    observations, rewards = play()
    np.testing.assert_array_equal(rewards, observations[1:, :, 1])
    intervals, pauses = [], []
    for stream in range(4):
        cue, reward = observations[:, stream, 0], observations[:, stream, 1]
        cues, paid = onsets(cue), onsets(reward)
        assert 80 <= cues[0] <= 120
        assert len(paid) > 30
        assert cue.sum() == pytest.approx(4 * len(cues), abs=3)
        assert reward.sum() == pytest.approx(2 * len(paid), abs=1)
        assert all(cue[first : first + 4].all() for first in cues[:-1])
        assert not (cue * reward).any()
        intervals += (paid - cues[: len(paid)]).tolist()
        pauses += (cues[1:] - paid[: len(cues) - 1]).tolist()
    assert set(intervals) == set(range(7, 14))
    assert min(pauses) >= 80
    assert max(pauses) <= 120
    assert len(set(pauses)) > 25


def test_distractors_predict_nothing_and_come_as_often_as_they_should() -> None:
    observations, _ = play(streams=16)
    distractors = observations[1000:, :, 2:]
    seen = distractors.mean(axis=(0, 1))
    expected = 1 - (1 - 1 / np.array([10, 55, 100])) ** 4
    np.testing.assert_allclose(seen, expected, rtol=0.1)
    before_reward = observations[1000:-1, :, 2:][observations[1001:, :, 1] > 0].mean(axis=0)
    np.testing.assert_allclose(before_reward, expected, atol=0.06)


def test_actions_and_pixels_do_not_exist() -> None:
    env = make_vector(TASK, 2, 0)
    assert env.single_action_space.n == 1
    assert env.single_observation_space.shape == (12,)
    assert make_vector(TASK, 2, 0, options=MemoryOptions(distractors=0)).reset()[0].shape == (2, 2)
    assert find_task(TASK).reference_scores() is None


def test_a_stream_is_the_same_whatever_the_number_of_streams() -> None:
    for many, few in zip(play(streams=6, steps=400), play(streams=2, steps=400), strict=True):
        np.testing.assert_array_equal(many[:, :2], few)
    assert (play(steps=400)[0][:, 0] != play(steps=400)[0][:, 1]).any()


def test_a_limit_begins_the_trial_again_in_its_stream_alone() -> None:
    env = make_vector(TASK, 3, 0, options=replace(OPTIONS, max_episode_steps=300))
    env.reset()
    for step in range(1, 601):
        _, _, terminated, truncated, info = env.step(np.zeros(3, dtype=np.int64))
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (step % 300 == 0)
        assert (Signals.of(info).final_observation is not None) == truncated.any()
    one, other = TraceConditioning(3), TraceConditioning(3)
    one.reset(seed=1)
    other.reset(seed=1)
    for step in range(300):
        here, there = one.step(np.zeros(3))[0], other.step(np.zeros(3))[0]
        np.testing.assert_array_equal(here[:, [0, 1]][[0, 2]], there[:, [0, 1]][[0, 2]])
        if step == 90:
            one.reset(options={"reset_mask": np.array([False, True, False])})


def test_the_error_of_the_return_is_that_of_the_sum_written_out() -> None:
    random = np.random.default_rng(0)
    values, rewards, discount = random.random((60, 2)), random.random((60, 2)), 0.7
    returns = [sum(discount**k * rewards[t + k] for k in range(60 - t)) for t in range(60)]
    scored = [t for t in range(60) if 0.7 ** (60 - t) <= 1e-3]
    expected = np.mean([(values[t] - returns[t]) ** 2 for t in scored])
    assert mean_squared_return_error(values, rewards, discount) == pytest.approx(expected, rel=1e-12)
    assert mean_squared_return_error(np.array(returns), rewards, discount) == pytest.approx(0, abs=1e-20)
    with pytest.raises(ValueError, match=r"^60 steps are too few .* 0.99$"):
        mean_squared_return_error(values, rewards, 0.99)
