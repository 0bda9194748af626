"""Learning curves as a table that other programs read."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from r2ac.launch.plots.curves import CSV_COLUMNS
from r2ac.launch.plots.plot import plot_runs


def make_run(path: Path, seed: int, returns: list[float], task: str = "memory/tmaze", gradient: str = "rtrl") -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"task": task, "seed": seed, "agent": {"gradient": gradient}}))
    rows = [{"env_steps": 10 * i, "episode_return": value} for i, value in enumerate(returns)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_points_means_and_bands_are_written(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", 1, [0.0, 4.0, 8.0]), make_run(tmp_path / "b", 2, [2.0, 6.0, 10.0])]
    rows = read(plot_runs(runs, tmp_path / "tables" / "curves.csv", smoothing=0, band="stderr"))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert {(row["task"], row["label"], row["x_unit"], row["metric"], row["band"]) for row in rows} == {
        ("memory/tmaze", "", "steps", "episode_return", "stderr")
    }
    second = [row for row in rows if row["seed"] == "2"]
    assert [(float(row["x"]), float(row["y"])) for row in second] == [(0, 2), (10, 6), (20, 10)]
    assert {(row["run"], row["low"], row["high"]) for row in second} == {(str(runs[1]), "", "")}
    mean = [row for row in rows if row["seed"] == "mean"]
    x, y, low, high = np.array([[float(row[name]) for name in ("x", "y", "low", "high")] for row in mean]).T
    np.testing.assert_allclose(y, 1 + 0.4 * x)
    np.testing.assert_allclose((high - y, y - low), 1.0)


def test_smoothing_and_labels_are_told(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / g, 1, [0.0, 4.0, 8.0], gradient=g) for g in ("rtrl", "tbptt")]
    runs.append(make_run(tmp_path / "other", 1, [1.0], task="memory/copy"))
    rows = read(plot_runs(runs, tmp_path / "curves.csv", smoothing=20))
    assert {(row["task"], row["label"]) for row in rows} == {
        ("memory/tmaze", "gradient=rtrl"),
        ("memory/tmaze", "gradient=tbptt"),
        ("memory/copy", "gradient=rtrl"),
    }
    assert {float(row["window"]) for row in rows} == {20.0}
    tbptt = [float(row["y"]) for row in rows if row["label"] == "gradient=tbptt" and row["seed"] == "1"]
    assert tbptt == pytest.approx([0.0, 2.0, 6.0])
    # A single run has no band.
    assert {(row["low"], row["high"]) for row in rows} == {("", "")}
