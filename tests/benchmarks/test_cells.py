"""The benchmark of the cells: complete figures from a small run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from r2ac.kernels import CELLS


def test_a_small_run_measures_every_cell(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    printed = run_benchmark("cells", "--rounds", "1")
    (path,) = tmp_path.glob("cells-*-quick.json")
    rows = json.loads(path.read_text())["cells"]
    assert [(row["T"], row["cell"]) for row in rows] == [(steps, cell) for steps in (1, 3) for cell in CELLS]
    for row in rows:
        assert row["per_state"] > 0
        assert row["per_sensitivity"] == pytest.approx(row["per_state"] * 2 / row["gates"])
    assert "per number of state" in printed
