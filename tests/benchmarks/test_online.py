"""The benchmark of agents that learn after each step: complete figures from a small run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path


def test_a_small_run_compares_two_versions(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    printed = run_benchmark("online", "--before-python", sys.executable)
    (path,) = tmp_path.glob("online-*-quick.json")
    (row,) = json.loads(path.read_text())["online"]
    assert (row["algorithm"], row["streams"], len(row["rounds"])) == ("stream", 2, 1)
    assert row["ratio"] == row["now"] / row["before"] > 0
    assert "not measured" in printed
