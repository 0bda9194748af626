"""The benchmark of several learners: complete figures from a small run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_small_run_compares_numbers_of_learners(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    printed = run_benchmark("learners", "--learners", "2", "0")
    (path,) = tmp_path.glob("learners-*-quick.json")
    two, none = json.loads(path.read_text())["rows"]
    assert (two["learners"], none["learners"]) == (2, 0)
    assert (two["ratio"], none["ratio"]) == (1.0, pytest.approx(none["steps_per_second"] / two["steps_per_second"]))
    assert "over 2 learners" in printed
