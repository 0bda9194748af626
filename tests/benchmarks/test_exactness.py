"""What docs/rtrl.md claims of exactness: its example runs, and the benchmark shows where exactness ends."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZES = {"steps": 40, "batch": 4, "features": 4, "hidden": 6, "delay": 6, "updates": 40}


def run(*command: str) -> str:
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def rows() -> list[list[float]]:
    """The rows of the benchmark's two tables; those of the first have five columns, those of the second six."""
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    rates, lengths = ["--learning-rates", "0", "1e-4", "1e-3"], ["--rollout-lengths", "1", "10", "40"]
    output = run(str(ROOT / "benchmarks" / "exactness.py"), *sizes, *rates, *lengths)
    return [
        [float(cell) for cell in line.strip("| ").split("|")]
        for line in output.splitlines()
        if line[:2] == "| " and line[2].isdigit()
    ]


def test_moving_parameters_leave_the_derivative_of_the_history_as_it_was(rows: list[list[float]]) -> None:
    still, slow, fast = moving = [row for row in rows if len(row) == 5]
    assert still[1] == 0 < slow[1] < fast[1]
    assert all(row[2] < 1e-12 for row in moving)
    assert still[3] < 1e-12 < 1e-6 < slow[3] < fast[3] < fast[4]


def test_core_is_exact_for_every_rollout_and_the_encoder_for_the_whole_stream_only(rows: list[list[float]]) -> None:
    whole = SIZES["steps"]
    still = [row for row in rows if len(row) == 6]
    assert len(still) == 3
    for length, rtrl, tbptt, encoder, single, half in still:
        assert rtrl < 1e-12
        assert (tbptt < 1e-12) == (encoder < 1e-12) == (length == whole)
        assert single < 1e-5
        # In the one rollout of the whole stream nothing that was stored is read.
        assert half == single if length == whole else single < half < 0.1


def test_the_example_of_the_document_runs() -> None:
    text = (ROOT / "docs" / "rtrl.md").read_text()
    (example,) = (part.split("```")[0] for part in text.split("```python\n")[1:])
    assert run("-c", example).startswith("relative difference: ")
