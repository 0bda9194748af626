"""The lines that curves are read against: a task's reference scores, and the paper's results."""

from pathlib import Path
from typing import Any

import pytest

from r2ac.envs import InvalidOption, find_task
from r2ac.launch.plots.reference_lines import PAPER_RESULTS, Line, paper_lines, paper_results, reference_lines
from r2ac.launch.runs.run_groups import RunGroup


def group(task: str, **settings: Any) -> RunGroup:
    return RunGroup(task, settings, (Path("run"),), (1,))


def test_reference_scores_are_those_of_the_options() -> None:
    for mode in ("easy", "hard"):
        task = find_task("procgen/chaser")
        scores = task.reference_scores(task.suite.options(distribution_mode=mode))
        lines = reference_lines("procgen/chaser", [group("procgen/chaser", **{"env.distribution_mode": mode})])
        assert scores is not None
        assert lines == [Line("lowest", scores.low), Line("highest", scores.high)]


def test_each_reference_score_is_drawn_once() -> None:
    groups = [group("atari/Qbert", rollout_length=length) for length in (10, 50)]
    assert [line.name for line in reference_lines("atari/Qbert", groups)] == ["random", "human"]
    # Of a list, each task has its own.
    assert reference_lines("atari/Qbert", [group("atari-57")]) == reference_lines("atari/Qbert", groups)


@pytest.mark.parametrize("task", ["gym/CartPole-v1", "LunarLander-v3", "lost/task", ""])
def test_a_task_without_reference_scores_has_no_lines(task: str) -> None:
    assert reference_lines(task, [group(task)]) == []


def test_options_that_are_not_allowed_are_one_sentence() -> None:
    with pytest.raises(InvalidOption, match="nightmare"):
        reference_lines("procgen/chaser", [group("procgen/chaser", **{"env.distribution_mode": "nightmare"})])


def test_the_papers_lines_are_those_of_the_rollout_lengths() -> None:
    groups = [group("dmlab/rooms_watermaze", rollout_length=length) for length in (10, 20)]
    assert paper_lines("dmlab/rooms_watermaze", groups) == [
        Line("TBPTT, T=10: 15.8 ± 0.9", 15.8, "paper"),
        Line("RTRL, T=10: 40.2 ± 5.6", 40.2, "paper"),
    ]
    assert paper_lines("memory/tmaze", groups) == []


def test_every_task_of_the_paper_is_one_of_ours() -> None:
    assert len(PAPER_RESULTS) == 8
    for task in PAPER_RESULTS:
        assert find_task(task).name == task


def test_the_papers_results_are_found_by_method_and_rollout_length() -> None:
    breakout = paper_results("atari/Breakout", {50})
    assert [result.label for result in breakout] == ["feed-forward: 234 ± 12", "TBPTT: 305 ± 29", "RTRL: 275 ± 53"]
    assert len(paper_results("dmlab/rooms_watermaze")) == 6
    assert [result.mean for result in paper_results("dmlab/rooms_watermaze", {50, 100})] == [44.5, 45.6, 52.3, 54.8]
    # Lengths that the paper has not tried leave none out.
    assert len(paper_results("dmlab/rooms_watermaze", {5})) == 6
    assert [result.label for result in paper_results("dmlab/rooms_keys_doors_puzzle", {10})][-1] == "RTRL: 26.1"
    assert paper_results("memory/tmaze") == []


@pytest.mark.parametrize("length", [10, 50, 100])
def test_rtrl_does_better_on_dmlabs_memory_levels(length: int) -> None:
    for level in ("rooms_select_nonmatching_object", "rooms_watermaze"):
        tbptt, rtrl = paper_results(f"dmlab/{level}", {length})
        assert (tbptt.method, rtrl.method) == ("TBPTT", "RTRL")
        assert rtrl.mean > tbptt.mean
