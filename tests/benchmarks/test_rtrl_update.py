"""The benchmark runs, compares the gradients of its methods, and reports every size."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rtrl_update.py"


def test_a_small_run_reports_every_size(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    sizes = ["--steps", "2", "5", "--hidden", "8", "--batch", "3", "--inputs", "6", "--image", "3", "8", "8"]
    command = [sys.executable, str(SCRIPT), *sizes, "--rounds", "2", "--update-rounds", "1", "--output", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(output.read_text())
    for part in ("recurrence", "core", "update"):
        assert [(row["T"], row["N"]) for row in figures[part]] == [(2, 8), (5, 8)]
        assert all(seconds > 0 for row in figures[part] for seconds in row["seconds"].values())
    assert "| 5 | 8 |" in result.stdout
