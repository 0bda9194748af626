"""The benchmark of a training's processes: complete figures from a small run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_the_parts_of_an_update_are_most_of_it(run_benchmark: Callable[..., str]) -> None:
    parts = json.loads(run_benchmark("processes", "--bare", "rtrl", "elstm"))["parts"]
    whole = parts.pop("all")
    assert parts["losses"] > 0
    assert parts["backward"] > 0
    assert 0.5 * whole < sum(parts.values()) <= 1.1 * whole


@pytest.mark.slow
def test_a_small_run_counts_each_process(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    printed = run_benchmark("processes", "--cores", "mingru")
    (path,) = tmp_path.glob("processes-*-quick.json")
    (row,) = json.loads(path.read_text())["processes"]
    assert row["core"] == "mingru"
    assert min(row["steps_per_second"], row["learners"], row["actors"], row["bare"]) > 0
    assert "A bare update" in printed
