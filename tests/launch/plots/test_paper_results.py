"""The paper's results: that they are whole and can be found."""

import pytest

from r2ac.envs import find_task
from r2ac.launch.plots.paper_results import paper_results, paper_tasks


def test_every_task_is_one_of_ours() -> None:
    assert len(paper_tasks()) == 8
    for task in paper_tasks():
        assert find_task(task).name == task


def test_results_are_told_by_method_and_rollout_length() -> None:
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
