"""What a sweep prints while it runs."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from r2ac.launch.sweeps import progress_callback
from r2ac.launch.sweeps.progress_callback import ProgressCallback
from r2ac.launch.sweeps.sweep_plan import make_plan
from r2ac.launch.sweeps.sweep_settings import SweepSettings


def test_the_steps_of_trials_that_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_callback, "INTERVAL_SECONDS", 0.0)
    settings = SweepSettings(vary=("seed=1,2",), sweep_dir=tmp_path)
    plan = make_plan("memory/tmaze", ["--total-steps", "2000"], settings)
    first, second = (trial.name for trial in plan.trials)
    out = io.StringIO()
    progress = ProgressCallback(plan, {first: 500, second: 1000}, Console(file=out, width=200))
    result: dict[str, Any] = {"env_steps": 600, "copies": 0, "failure": None, "score": 0.0001}
    progress.on_trial_result(1, [], first, result)
    assert out.getvalue() == f"1.6k of 4k steps, best {first} with 0.0001\n"
