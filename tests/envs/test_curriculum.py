"""Tasks that grow: when an episode gets longer, in which stream, and that nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from r2ac.envs import InvalidOption, find_task, make_vector
from r2ac.envs.memory import MemoryOptions

FULL = MemoryOptions(corridor_length=4, symbols=3, sequence_length=4, delay=4)
GROWS = replace(FULL, curriculum=True)
TASKS = ["tmaze", "copy", "repeat_first", "parity", "match_to_sample"]


def right_answer(task: str, seen: list[np.ndarray], symbols: int = FULL.symbols) -> int:
    """From all that was seen in an episode."""
    first, now = seen[0], seen[-1]
    if task == "parity":
        return int(sum(each[1] for each in seen)) % 2
    if task == "match_to_sample":
        return int(now[symbols : 2 * symbols].argmax() != first[:symbols].argmax())
    if task == "copy":
        return int(seen[max(int(sum(each[symbols] for each in seen)) - 1, 0)][:symbols].argmax())
    return int(first[:symbols].argmax())


def lengths_of(env: VectorEnv, task: str, right: list[bool], steps: int, seed: int = 0) -> list[list[int]]:
    """The lengths of the episodes of each stream, where those of ``right`` answer right and the others do not."""
    shown = env.reset(seed=seed)[0]
    seen: list[list[np.ndarray]] = [[row] for row in shown]
    lengths: list[list[int]] = [[] for _ in right]
    for _ in range(steps):
        answers = [right_answer(task, each) for each in seen]
        actions = np.where(right, answers, (np.array(answers) + 1) % 2)
        shown, reward, terminated, truncated, _ = env.step(actions)
        assert not truncated.any()
        for stream in range(len(right)):
            if terminated[stream]:
                assert reward[stream] == right[stream]
                lengths[stream].append(len(seen[stream]))
                seen[stream].clear()
            seen[stream].append(shown[stream])
    return lengths


def grown(task: str, streams: int, options: MemoryOptions = GROWS) -> VectorEnv:
    return make_vector(f"memory/{task}", streams, 0, options=options)


@pytest.mark.parametrize("task", TASKS)
def test_ten_solved_episodes_in_a_row_make_a_stream_s_episodes_longer(task: str) -> None:
    solved, failed, again = lengths_of(grown(task, 3), task, [True, False, True], 400)
    sizes = [1] * 10 + [2] * 10 + [3] * 10 + [4] * 10
    expected = [2 * size if task == "copy" else size + 1 for size in sizes]
    assert solved[:40] == again[:40] == expected
    assert set(solved[40:]) == {expected[-1]}
    assert set(failed) == {2}


def test_one_wrong_answer_begins_the_count_again() -> None:
    env = grown("parity", 1)
    seen, sizes = env.reset()[0], []
    for episode in range(40):
        bits = 0
        for step in range(10):
            bits += int(seen[0, 1])
            asked = seen[0, 2] > 0
            seen, _, terminated, _, _ = env.step(np.array([(bits + (episode == 8)) % 2 if asked else 0]))
            if terminated[0]:
                sizes.append(step)
                break
    assert sizes[:30] == [1] * 19 + [2] * 10 + [3]


def test_long_episodes_grow_by_a_tenth() -> None:
    (lengths,) = lengths_of(grown("tmaze", 1, replace(GROWS, corridor_length=30)), "tmaze", [True], 4000)
    assert sorted({length - 1 for length in lengths}) == [*range(1, 20), 20, 22, 24, 26, 28, 30]


@pytest.mark.parametrize("task", TASKS)
def test_episodes_of_the_full_size_and_of_the_split_test_are_those_of_the_task(task: str) -> None:
    plain, test = (
        make_vector(f"memory/{task}", 3, 7, split="test", options=options).reset()[0] for options in (FULL, GROWS)
    )
    np.testing.assert_array_equal(plain, test)
    find = find_task(f"memory/{task}")
    assert find.reference_scores(GROWS) == find.reference_scores(FULL)
    assert find.training_scores(FULL) == find.reference_scores(FULL)
    assert find.training_scores(GROWS) == (None if task == "copy" else find.reference_scores(GROWS))
    assert find.spaces(GROWS) == find.spaces(FULL)
    assert find.episode_steps(GROWS) is None
    assert make_vector(f"memory/{task}", 2, 0, options=replace(GROWS, pixels=True)).reset()[0].shape == (2, 3, 24, 24)


def test_streams_are_as_each_alone_and_seeds_begin_again() -> None:
    env, right = grown("match_to_sample", 3), [True, False, True]
    together = lengths_of(env, "match_to_sample", right, 200, seed=5)
    assert together[0][-1] == 5
    for stream in range(3):
        (alone,) = lengths_of(
            grown("match_to_sample", 1), "match_to_sample", right[stream : stream + 1], 200, 5 + stream
        )
        assert alone == together[stream]
    assert lengths_of(env, "match_to_sample", right, 200, seed=5) == together


def test_other_tasks_refuse_it() -> None:
    with pytest.raises(InvalidOption, match=r"curriculum is True, but it must be False with chain; it is for tmaze, "):
        make_vector("memory/chain", 1, 0, options=GROWS)
