"""Streams of several tasks: who plays what, that each task is played as it is alone, and what does not go together."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ac.envs import InvalidOption, ReferenceScores, Signals, UnknownTask, find_task, find_tasks, make_vector, spread
from r2ac.envs import mean_normalised_return as mean_normalised
from r2ac.envs.atari import AtariOptions
from r2ac.envs.dmlab import DmlabOptions
from r2ac.envs.memory import MemoryOptions

DOUBLE = Path(__file__).parent / "dmlab" / "double"


@given(items=st.integers(1, 7), counts=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_streams_are_spread_evenly_over_actors_of_any_size(items: int, counts: list[int]) -> None:
    names = [f"task{i}" for i in range(items)]
    spreads: list[str] = []
    for count in counts:
        spreads += spread(names, count, first=len(spreads))
    assert spreads == [names[i % items] for i in range(sum(counts))]
    numbers = Counter(spreads)
    assert max(numbers.values()) - min(numbers[name] for name in names) <= 1


def test_lists_of_tasks() -> None:
    assert [task.name for task in find_tasks("memory/tmaze")] == ["memory/tmaze"]
    assert [task.name for task in find_tasks("procgen/maze,procgen/chaser")] == ["procgen/maze", "procgen/chaser"]
    assert len(find_tasks("procgen-16")) == 16
    assert len(find_tasks("dmlab-30")) == 30
    assert all("/lt_" not in task.name and "/nav_maze" not in task.name for task in find_tasks("dmlab-30"))
    assert find_tasks("procgen") == find_task("procgen/maze").suite.tasks
    recall = "tmaze copy repeat_previous repeat_first parity match_to_sample key_to_door"
    assert [task.short_name for task in find_tasks("memory")] == recall.split(), "runs on it have these for ever"
    assert len(find_tasks("memory,procgen-16")) == len(find_tasks("memory")) + 16


def test_the_57_games_of_the_benchmark() -> None:
    if missing := find_task("procgen/maze").suite.missing():
        pytest.skip(missing)
    names = [task.name for task in find_tasks("atari-57")]
    assert len(names) == 57
    assert {"atari/Breakout", "atari/Surround", "atari/Zaxxon"} <= set(names)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("procgen/maze,procgen/maze", "procgen/maze is named twice"),
        ("memory,memory/tmaze", "memory/tmaze is named twice"),
        ("procgen-17", "there is no task 'procgen-17'"),
        ("memory/tmaze,", "there is no task ''"),
        ("gym", "there is no task 'gym'"),
    ],
)
def test_a_list_that_is_wrong(names: str, sentence: str) -> None:
    with pytest.raises(UnknownTask, match=sentence):
        find_tasks(names)


def play(env: Any, steps: int, actions: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    observation, _ = env.reset()
    seen = [(observation,)]
    for t in range(steps):
        observation, reward, terminated, truncated, _ = env.step(actions[t])
        seen.append((observation, reward, terminated, truncated))
    env.close()
    return seen


@pytest.mark.parametrize(
    ("tasks", "options"),
    [
        ("procgen/maze,procgen/starpilot,procgen/bigfish", None),
        ("atari/Pong,atari/Breakout", None),
        ("memory/tmaze,memory/parity", MemoryOptions(pixels=True)),
    ],
)
def test_each_task_is_played_as_it_is_alone(tasks: str, options: Any) -> None:
    if missing := find_tasks(tasks)[0].suite.missing():
        pytest.skip(missing)
    names = tasks.split(",")
    streams, steps, first = 5, 30, 1
    actions = np.random.default_rng(0).integers(2, size=(steps, streams))
    together = play(make_vector(tasks, streams, 3, options=options, first_stream=first), steps, actions)
    for number, name in enumerate(names):
        own = [i for i in range(streams) if (i + first) % len(names) == number]
        alone = play(make_vector(name, len(own), 3, options=options), steps, actions[:, own])
        for mixed, single in zip(together, alone, strict=True):
            for whole, part in zip(mixed, single, strict=True):
                assert whole.dtype == part.dtype
                np.testing.assert_array_equal(whole[own], part)


def test_what_the_parts_tell_is_put_together() -> None:
    if missing := find_task("atari/Pong").suite.missing():
        pytest.skip(missing)
    options = AtariOptions(episodic_life=True, max_episode_frames=200, max_noops=0)
    env = make_vector("atari/Breakout,atari/Pong", 3, 0, options=options)
    env.reset()
    for _ in range(50):
        *_, truncated, info = env.step(np.zeros(3, dtype=np.int64))
    env.close()
    signals = Signals.of(info)
    assert truncated.tolist() == signals.game_over.tolist() == signals.has_final.tolist() == [True] * 3
    assert signals.final_observation.any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("memory/tmaze,memory/copy", ["tmaze has float32", "copy float32", "actions"]),
        ("memory/tmaze,procgen/maze", ["one suite", "memory, procgen"]),
    ],
)
def test_tasks_that_do_not_go_together(tasks: str, words: list[str]) -> None:
    with pytest.raises(InvalidOption) as error:
        make_vector(tasks, 4, 0)
    assert all(word in str(error.value) for word in words)


def test_engines_of_deepmind_lab_play_several_levels_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOUBLE)
    options = DmlabOptions(image_height=24, image_width=32, instruction=True)
    tasks = "dmlab/rooms_watermaze,dmlab/language_select_described_object"
    env = make_vector(tasks, 3, 0, options=options, first_stream=1)
    assert env.unwrapped.single_instruction_space.shape == (16,)  # type: ignore[attr-defined]
    env.reset()
    infos = [env.step(np.zeros(3, dtype=np.int64))[4] for _ in range(4)]
    env.close()
    instructions = np.stack([Signals.of(info).instruction for info in infos])
    assert instructions.any(axis=(0, 2)).tolist() == [True, False, True]


def test_the_mean_over_tasks_is_capped_task_by_task() -> None:
    scores = [ReferenceScores(0.0, 10.0, "random", "human"), ReferenceScores(-5.0, 5.0, "random", "human")]
    assert mean_normalised(scores, [0.0, -5.0]) == 0.0
    assert mean_normalised(scores, [5.0, 15.0]) == pytest.approx((0.5 + 2.0) / 2)
    assert mean_normalised(scores, [5.0, 15.0], cap=1.0) == pytest.approx((0.5 + 1.0) / 2)
    with pytest.raises(ValueError, match="argument"):
        mean_normalised(scores, [1.0])
