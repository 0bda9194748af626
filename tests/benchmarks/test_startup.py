"""The benchmark of start-up: complete figures from a small run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_the_parts_of_a_start_are_all_of_it(
    run_benchmark: Callable[..., str], module: Callable[[str], Any], tmp_path: Path
) -> None:
    printed = run_benchmark("startup", "--before-python", sys.executable, "--", "--seed", "3")
    (path,) = tmp_path.glob("startup-*-quick.json")
    figures = json.loads(path.read_text())
    rows = {row.pop("part"): row for row in figures["startup"]}
    *parts, whole, torch, version = rows
    assert (whole, torch, version) == ("until the first update", "import torch", "r2ac --version")
    ends = [part for part, *_ in module("startup_child").ENDS if part != "start of Ray"]
    assert parts == ["imports of the command line", "imports of the training, with torch", *ends]
    for seconds in rows[whole]:
        assert 0 < rows[whole][seconds] == pytest.approx(sum(rows[part][seconds] for part in parts))
    assert rows[version]["processors"] < rows[torch]["processors"]
    assert [goal["goal"] for goal in figures["goals"]][1:] == ["r2ac --version"]
    assert "| until the first update |" in printed


def test_a_training_that_fails_is_no_figure(module: Callable[[str], Any]) -> None:
    with pytest.raises(SystemExit, match=r"ended with exit code 2: .*--algorithm"):
        module("startup").measure(sys.executable, [], ["--algorithm", "nosuch"])


def test_the_least_of_the_rounds_counts(module: Callable[[str], Any]) -> None:
    rounds = [{"a": (2.0, 0.5)}, {"a": (1.0, 0.7)}]
    assert module("startup").least(rounds) == {"a": (1.0, 0.5)}
