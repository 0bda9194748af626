"""The benchmark of the rtrl metrics: complete figures from a small run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_small_run_compares_updates_with_and_without(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    printed = run_benchmark("rtrl_metrics", "--rounds", "1")
    (path,) = tmp_path.glob("rtrl_metrics-*-quick.json")
    figures = json.loads(path.read_text())
    assert [row["task"] for row in figures["update"]] == ["tmaze", "procgen"]
    for row in figures["update"]:
        with_metrics, without = row["seconds"]["measured"], row["seconds"]["not measured"]
        assert row["ratio"] == pytest.approx(with_metrics / without)
    assert "with metrics over without" in printed
