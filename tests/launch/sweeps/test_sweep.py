"""Whole sweeps through Ray Tune, tiny."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r2ac.launch.cli import main
from r2ac.launch.runs.metrics import read_metrics
from r2ac.learner.checkpoint import latest_checkpoint, load_checkpoint
from tests.processes import wait_until

TINY = (
    "--num-actors 0 --streams-per-actor 8 --batch-size 8 --rollout-length 5 --hidden-size 8 --corridor-length 4 "
    "--log-steps 200"
)


def arguments(folder: Path, *flags: str) -> list[str]:
    return ["sweep", "memory/tmaze", *TINY.split(), "--sweep-dir", str(folder), *flags]


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {trial["name"]: trial for trial in json.loads((folder / "sweep.json").read_text())["trials"]}


def rising(values: list[Any]) -> bool:
    return values == sorted(set(values))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A sweep over a list and a random draw, one of whose trials diverges."""
    folder = tmp_path_factory.mktemp("grid") / "sweep"
    vary = ["--vary", "learning-rate=1e-3,1e30", "--vary", "entropy-cost=loguniform(1e-4,1e-2)", "--trials", "2"]
    assert main(arguments(folder, "--total-steps", "2000", "--max-skipped-updates", "1", *vary)) == 0
    return folder


@pytest.mark.slow
def test_every_trial_is_an_ordinary_run_and_one_that_diverges_is_told(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_of(grid)
    states = {name: result["state"] for name, result in results.items()}
    assert states == {"trial-01": "trained", "trial-02": "failed", "trial-03": "trained", "trial-04": "failed"}
    assert "training diverged" in results["trial-02"]["failure"]
    for name in ("trial-01", "trial-03"):
        assert results[name]["env_steps"] == 2000
        config = json.loads((grid / name / "config.json").read_text())
        assert config["learner"]["entropy_cost"] == results[name]["settings"]["entropy-cost"]
    everything = [str(path) for path in sorted(grid.iterdir())]
    assert main(["report", *everything, "--no-episodes"]) == 0
    assert (grid / "report.html").is_file()
    assert main(["plot", *map(str, sorted(grid.glob("trial-*"))), "--output", str(grid / "curves.csv")]) == 0
    runs = [str(grid / "trial-01"), str(grid / "trial-03")]
    assert main(["evaluate", *runs, "--episodes", "2", "--seeds", "1"]) == 0
    assert "trial-03" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three trials one has ended, one had only begun, and one not even that."""
    sweep = tmp_path / "sweep"
    shutil.copytree(grid, sweep)
    shutil.rmtree(sweep / "trial-04")
    begun = sweep / "trial-03" / "checkpoints"
    for path in sorted(begun.iterdir())[1:]:
        path.unlink()
    ended = (sweep / "trial-01" / "metrics.jsonl").read_bytes()
    before = results_of(sweep)
    assert main(["sweep", "--resume", str(sweep), "--concurrent", "1"]) == 0
    results = results_of(sweep)
    assert [result["state"] for result in results.values()] == ["trained", "failed", "trained", "failed"]
    assert {n: one["settings"] for n, one in results.items()} == {n: one["settings"] for n, one in before.items()}
    assert (sweep / "trial-01" / "metrics.jsonl").read_bytes() == ended
    assert rising([line["env_steps"] for line in read_metrics(sweep / "trial-03")])
    assert load_checkpoint(latest_checkpoint(begun)).counters["incarnation"] == 1
    capsys.readouterr()
    # What has all ended needs no Ray, and is only told.
    assert main(["sweep", "--resume", str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert printed.index("trial-01") < printed.index("trial-02")


@pytest.mark.slow
def test_members_of_a_population_copy_the_better_ones(tmp_path: Path, local_ray: None) -> None:
    """Of four, the two with the worse score copy the others, once."""
    sweep = tmp_path / "sweep"
    vary = ["--vary", "learning-rate=choice(1e-9,3e-3)", "--vary", "entropy-cost=loguniform(1e-3,1e-2)"]
    flags = ["--total-steps", "4000", "--perturb-every", "2000", "--scheduler", "pbt", "--quantile", "0.5"]
    assert main(arguments(sweep, *flags, *vary, "--trials", "2", "--vary", "seed=1,2", "--concurrent", "2")) == 0
    results = results_of(sweep)
    assert {result["state"] for result in results.values()} == {"trained"}
    records = {
        name: json.loads((sweep / name / "trial.json").read_text())["copies"]
        for name in results
        if results[name]["copies"]
    }
    assert sum(map(len, records.values())) == 2
    for name, copies in records.items():
        lines = read_metrics(sweep / name)
        assert rising([line["env_steps"] for line in lines])
        assert lines[-1]["env_steps"] == 4000
        assert lines[-1]["population/copies"] == len(copies)
        assert lines[-1]["learner/stream_resets"] == 8 * len(copies)
        previous = results[name]["settings"]["entropy-cost"]
        for copy in copies:
            assert copy["donor"] != name
            assert copy["donor_env_steps"] == copy["env_steps"]
            assert 1e-3 <= copy["settings"]["entropy-cost"] <= 1e-2
            assert copy["settings"]["entropy-cost"] != previous
        assert lines[-1]["population/entropy_cost"] == copies[-1]["settings"]["entropy-cost"]
        assert results[name]["last_settings"]["entropy-cost"] == copies[-1]["settings"]["entropy-cost"]
    assert not (sweep / ".tune").exists()


def interrupt(sweep: Path, holds: Callable[[], bool]) -> None:
    """Start a sweep without end, and press Ctrl-C once this holds."""
    program = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *arguments(sweep, "--total-steps", str(10**8), "--vary", "seed=1,2")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_until(holds, process, 240)
        # As a terminal does: to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, errors
    assert f"r2ac sweep --resume {sweep}" in out


@pytest.mark.slow
def test_ctrl_c_saves_every_trial_and_says_how_to_go_on(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    runs = [sweep / "trial-01", sweep / "trial-02"]
    metrics = [run / "metrics.jsonl" for run in runs]
    interrupt(sweep, lambda: all(path.is_file() and path.stat().st_size for path in metrics))
    for run, result in zip(runs, results_of(sweep).values(), strict=True):
        assert result["state"] == "interrupted"
        # The checkpoint is that of the last line or of the updates after it.
        assert result["env_steps"] >= read_metrics(run)[-1]["env_steps"] > 0


@pytest.mark.slow
def test_ctrl_c_before_the_first_trial_says_how_to_go_on(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    interrupt(sweep, (sweep / "sweep.json").exists)
    assert {result["state"] for result in results_of(sweep).values()} <= {"not begun", "interrupted"}


def test_bad_input_is_told_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep"
    assert main(arguments(sweep, "--vary", "learning-rate=1e-3,0")) == 2
    assert "learning-rate is 0.0" in capsys.readouterr().err
    assert main(arguments(sweep, "--vary", "speed=1,2")) == 2
    assert "no flag --speed" in capsys.readouterr().err
    assert main(["sweep", "--vary", "seed=1,2"]) == 2
    assert main(["sweep"]) == 2
    assert main(["sweep", "--resume", str(sweep)]) == 2
    assert "is not a sweep" in capsys.readouterr().err
    assert not sweep.exists()
    assert main(arguments(sweep, "--vary", "seed=1,2", "--hiden-size", "8")) == 2


@pytest.mark.slow
def test_a_sweep_is_not_written_over_and_goes_on_as_it_began(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(grid, "--vary", "seed=1,2")) == 2
    assert f"r2ac sweep --resume {grid}" in capsys.readouterr().err
    assert main(["sweep", "--resume", str(grid), "--trials", "3"]) == 2
    assert "goes on as it began" in capsys.readouterr().err
