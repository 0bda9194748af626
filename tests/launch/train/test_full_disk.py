"""A run directory that takes no more: told in one sentence, and what was written before is whole."""

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.runs.metrics import read_metrics
from r2ac.learner.checkpoint import load_checkpoint
from tests.processes import wait_until

StartTiny = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize("size", [9_000, 20_000], ids=["no checkpoint fits", "no events fit"])
def test_a_disk_that_fills_up(start_tiny: StartTiny, tmp_path: Path, size: int) -> None:
    """The limit of a process for the size of a file fails a write as a full disk does."""
    run = tmp_path / "run"
    process = start_tiny(run, {"--total-steps": 10**12, "--checkpoint-minutes": 0.002})
    wait_until(lambda: len(list(run.glob("checkpoints/step_*"))) >= 2, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert errors.startswith("r2ac: ")
    assert errors.count("\n") == 1
    assert "File too large" in errors
    assert f"r2ac train --resume {run} goes on" in errors
    checkpoints = sorted((run / "checkpoints").iterdir())
    steps = [load_checkpoint(path).counters["env_steps"] for path in checkpoints]
    assert [int(path.stem[5:]) for path in checkpoints] == steps
    total = int(steps[-1]) + 2000
    assert main(["train", "--resume", str(run), "--total-steps", str(total), "--checkpoint-minutes", "10"]) == 0
    rows = [row["env_steps"] for row in read_metrics(run)]
    assert rows == sorted(set(rows))
    assert rows[-1] == total


def test_a_disk_that_is_full_from_the_start_leaves_no_run(start_tiny: StartTiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_tiny(run, {"--total-steps": 10**12})
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (9_000, 9_000))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert errors.count("\n") == 1
    assert "File too large; nothing was learned" in errors
    assert not (run / "config.json").exists()
