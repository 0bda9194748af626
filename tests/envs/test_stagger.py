"""Streams of tasks whose episodes have one length are out of phase: what is cut short, where, and what comes after."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from r2ac.envs import SUITES, Signals, find_task, make_vector
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.seeding import stagger_positions

SMALL = MemoryOptions(
    corridor_length=11, symbols=3, sequence_length=6, lag=3, episode_length=13, delay=11, chain_length=12
)
MEMORY = [task.name for task in SUITES["memory"].tasks if task.episode_steps(SMALL)]
FAMILIES = ["Autoencode", "RepeatPrevious", "RepeatFirst", "CountRecall", "MultiarmedBandit", "HigherLower"]
FAMILIES += ["PositionOnlyPendulum", "NoisyPositionOnlyPendulum"]
OF_ONE_LENGTH = [f"popgym/{family}{level}" for family in FAMILIES for level in ("Easy", "Medium", "Hard")]


def steps_of(task: str, options: Any = None) -> int:
    steps = find_task(task).episode_steps(options)
    assert steps is not None
    return steps


def ends(env: VectorEnv, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(over, whole), bool [steps,N], of random actions."""
    env.reset()
    env.action_space.seed(0)
    found = []
    for _ in range(steps):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        found.append(Signals.of(info).ends(terminated, truncated))
    over, whole = zip(*found, strict=True)
    return np.array(over), np.array(whole)


@pytest.mark.parametrize("task", MEMORY)
def test_first_episodes_are_cut_short_and_streams_stay_out_of_phase(task: str) -> None:
    length, streams = steps_of(task, SMALL), 40
    positions = stagger_positions(5, 0, [length] * streams)
    over, whole = ends(make_vector(task, streams, 0, options=SMALL, stagger=5), 4 * length)
    time = np.arange(1, 4 * length + 1)[:, None]
    np.testing.assert_array_equal(over, (time >= positions) & ((time - positions) % length == 0))
    np.testing.assert_array_equal(whole, over & ((time > positions) | (positions == length)))
    assert len(set(positions.tolist())) > length // 2


def test_positions_are_uniform_and_follow_from_seed_and_stream_alone() -> None:
    many = stagger_positions(3, 0, [10] * 20_000)
    counts = np.bincount(many, minlength=11)
    assert counts[0] == 0
    assert (abs(counts[1:] - 2000) < 5 * np.sqrt(2000)).all()
    np.testing.assert_array_equal(stagger_positions(3, 700, [10] * 50), many[700:750])
    assert (stagger_positions(4, 0, [10] * 50) != many[:50]).any()
    assert stagger_positions(2**70, 0, [0, 5]).tolist()[0] == 0


@pytest.mark.parametrize("task", MEMORY)
def test_a_stream_plays_the_episodes_that_it_would_play_in_phase(task: str) -> None:
    """The k-th episode of each stream is the same one; only when it begins differs."""
    length, streams = steps_of(task, SMALL), 12

    def firsts(stagger: int | None) -> list[list[bytes]]:
        env = make_vector(task, streams, 1, options=SMALL, stagger=stagger)
        observation, _ = env.reset()
        begun = [[row.tobytes()] for row in observation]
        for _ in range(5 * length):
            observation, _, terminated, truncated, _ = env.step(np.zeros(streams, dtype=np.int64))
            for stream in np.flatnonzero(terminated | truncated):
                begun[stream].append(observation[stream].tobytes())
        return [row[:5] for row in begun]

    assert firsts(5) == firsts(None)


@pytest.mark.parametrize("task", ["memory/tmaze", "memory/key_to_door", "popgym/RepeatFirstEasy"])
def test_what_is_cut_off_is_shown(task: str) -> None:
    if SUITES[task.partition("/")[0]].missing() is not None:
        pytest.skip("the engine is not installed")
    env, free = make_vector(task, 6, 0, stagger=1), make_vector(task, 6, 0)
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation, free.reset()[0])
    first = np.ones(6, dtype=bool)
    for _ in range(steps_of(task) - 1):
        actions = np.zeros(6, dtype=np.int64)
        _, reward, terminated, truncated, info = env.step(actions)
        shown, free_reward, *_ = free.step(actions)
        np.testing.assert_array_equal(reward[first], free_reward[first])
        signals = Signals.of(info)
        for stream in np.flatnonzero(truncated):
            assert first[stream]
            assert signals.has_final is not None
            assert signals.final_observation is not None
            assert signals.has_final[stream]
            assert not terminated[stream]
            np.testing.assert_array_equal(signals.final_observation[stream], shown[stream])
        first &= ~truncated
    assert not first.all()


def test_a_shorter_limit_is_the_length() -> None:
    options = replace(SMALL, max_episode_steps=4)
    assert steps_of("memory/tmaze", options) == 4
    over, whole = ends(make_vector("memory/tmaze", 30, 0, options=options, stagger=2), 12)
    positions = stagger_positions(2, 0, [4] * 30)
    time = np.arange(1, 13)[:, None]
    np.testing.assert_array_equal(over, (time >= positions) & ((time - positions) % 4 == 0))
    np.testing.assert_array_equal(whole, over & ((time > positions) | (positions == 4)))


def test_several_tasks_have_positions_of_their_own_lengths() -> None:
    options = replace(SMALL, pixels=True)
    tasks = "memory/tmaze,memory/match_to_sample,memory/parity"
    lengths = [steps_of(name, options) for name in tasks.split(",")]
    over, whole = ends(make_vector(tasks, 9, 0, options=options, first_stream=3, stagger=7), 30)
    positions = stagger_positions(7, 3, lengths * 3)
    assert over.argmax(axis=0).tolist() == (positions - 1).tolist()
    assert (over & ~whole).sum() == (positions < lengths * 3).sum()


def test_tasks_whose_episodes_differ_in_length_are_left_alone() -> None:
    task = "gym/tests.stuck_envs:Uneven-v0"
    assert find_task(task).episode_steps() is None
    staggered, plain = ends(make_vector(task, 4, 0, stagger=1), 40), ends(make_vector(task, 4, 0), 40)
    np.testing.assert_array_equal(staggered, plain)


@pytest.mark.parametrize("task", OF_ONE_LENGTH)
def test_popgym_s_lengths(task: str) -> None:
    if SUITES["popgym"].missing() is not None:
        pytest.skip("the engine is not installed")
    length = steps_of(task)
    over, whole = ends(make_vector(task, 1, 0), 2 * length)
    assert (np.flatnonzero(over[:, 0]) + 1).tolist() == [length, 2 * length]
    assert (over == whole).all()


def test_popgym_has_no_other_task_of_one_length() -> None:
    assert {task.name for task in SUITES["popgym"].tasks if task.episode_steps()} == set(OF_ONE_LENGTH)
