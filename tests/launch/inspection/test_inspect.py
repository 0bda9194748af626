"""`r2ac inspect` on runs that the tests train; the numbers themselves are tested with the learner."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.inspection.inspect_config import InspectConfig
from r2ac.launch.inspection.inspect_run import inspect_checkpoint
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from tests.own_core import add_own_core

TrainTiny = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("gradient", ["rtrl", "tbptt"])
def test_a_run_is_taken_apart(train_tiny: TrainTiny, tmp_path: Path, capsys: Capture, gradient: str) -> None:
    run = train_tiny(tmp_path / "run", {"--gradient": gradient, "--corridor-length": 6})
    before = {file: file.read_bytes() for file in (run / "checkpoints").iterdir()}
    assert main(["inspect", str(run), "--rollouts", "8", "--streams", "4"]) == 0
    assert before == {file: file.read_bytes() for file in (run / "checkpoints").iterdir()}, "nothing is learned"
    assert (run / "inspect.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((run / "inspect.json").read_text())
    parameters = read_metrics(run)[-1]["learner/parameters"]
    assert (found["agent"], found["rollout_length"], found["measured"]) == (gradient, 5, 2)
    assert [each["checkpoint"] for each in found["checkpoints"]] == sorted(file.name for file in before)
    for each in found["checkpoints"]:
        assert each["boundary_norm"] > 0
        assert each["inside_norm"] > 0
        assert -1 <= each["cosine"] <= 1
        assert each["ratio"] == pytest.approx(each["boundary_norm"] / each["inside_norm"])
        assert [truncation["steps"] for truncation in each["truncations"]] == [0, 5, 10, 20]
        assert len(each["half_lives"]["units"]) == 8
        assert each["parameters"] == parameters
        # Episodes of 7 steps reach into one rollout before the present one, and no further.
        assert each["truncations"][0]["error"] > 1e-3
        assert [truncation["error"] for truncation in each["truncations"][1:]] == pytest.approx([0] * 3, abs=1e-5)
    assert "half-life" in capsys.readouterr().out


def test_each_rollout_is_reported(finished_run: Path) -> None:
    config = InspectConfig((finished_run,), rollouts=4, streams=2, staleness=True, updates=2, history=3)
    played: list[int] = []
    inspect_checkpoint(find_checkpoint(finished_run), config, played.append)
    assert played == list(range(1, config.played + 1)) == list(range(1, 11))


def test_a_checkpoint_that_is_named_by_itself_writes_over_nothing(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    newest = find_checkpoint(run)
    for path in (newest.with_name("step_000000001000.safetensors"), tmp_path / "best.safetensors"):
        shutil.copy(newest, path)
    flags = ["--rollouts", "4", "--streams", "2"]
    assert main(["inspect", str(run), *flags]) == 0
    before = (run / "inspect.json").read_bytes(), (run / "inspect.png").read_bytes()
    best = tmp_path / "best.safetensors"
    for path, results in ((newest, run / "inspect-2000.json"), (best, tmp_path / "inspect-best.json")):
        assert main(["inspect", str(path), *flags]) == 0
        assert [each["checkpoint"] for each in json.loads(results.read_text())["checkpoints"]] == [path.name]
        assert results.with_suffix(".png").exists()
    assert ((run / "inspect.json").read_bytes(), (run / "inspect.png").read_bytes()) == before


def test_what_is_wrong_with_one_run_does_not_keep_the_others(
    finished_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    good, torn, begun = (Path(shutil.copytree(finished_run, tmp_path / name)) for name in ("good", "torn", "begun"))
    damaged = find_checkpoint(torn)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.rmtree(begun / "checkpoints")
    flags = ["--rollouts", "4", "--streams", "2"]
    capsys.readouterr()
    assert main(["inspect", str(begun), str(torn), str(tmp_path / "nowhere"), str(good), *flags]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("r2ac: ") for line in errors)
    assert all(any(str(path) in line for line in errors) for path in (begun, tmp_path / "nowhere", damaged))
    assert (torn / "inspect.png").exists()
    (whole,) = json.loads((torn / "inspect.json").read_text())["checkpoints"]
    assert whole["env_steps"] == 0
    assert (good / "inspect.json").exists()
    assert main(["inspect", str(begun), str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_what_rtrl_adds_is_in_the_metrics_of_a_training(train_tiny: TrainTiny, tmp_path: Path) -> None:
    # Episodes of 5 steps would begin with every rollout: no credit would leave one.
    run = train_tiny(tmp_path / "run", {"--rtrl-metrics-every": 1, "--corridor-length": 6})
    rows = read_metrics(run)
    for name in ("rtrl/boundary_norm", "rtrl/inside_norm", "rtrl/cosine", "rtrl/credit_horizon"):
        assert all(math.isfinite(row[name]) for row in rows)
    other = train_tiny(tmp_path / "other", {"--rtrl-metrics-every": 0, "--corridor-length": 6})
    assert not any(name.startswith("rtrl/") for row in read_metrics(other) for name in row)
    assert [row["loss/total"] for row in rows] == [row["loss/total"] for row in read_metrics(other)]


def test_bad_input_is_one_sentence(train_tiny: TrainTiny, tmp_path: Path, capsys: Capture) -> None:
    run = train_tiny(tmp_path / "run", {"--core": "feedforward"})
    layers = train_tiny(tmp_path / "layers", {"--layers": "2", "--layer-gradient": "full"})
    capsys.readouterr()
    for arguments, words in (
        ([str(run)], "feed-forward agent: it has no memory"),
        ([str(layers)], "layers with --layer-gradient full"),
        ([str(tmp_path / "nowhere")], "nowhere does not exist"),
        ([str(run), "--rollouts", "1"], "--rollouts is 1"),
        ([str(run), "--output", "x.txt"], "x.txt"),
        ([], "at least one run"),
    ):
        assert main(["inspect", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_a_core_that_rtrl_cannot_train_is_refused(
    train_tiny: TrainTiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_own_core(monkeypatch)
    run = train_tiny(tmp_path / "run", {"--core": "own"})
    assert read_metrics(run)
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 2
    error = capsys.readouterr().err
    assert "a core that RTRL cannot train: --core own" in error
    assert error.count("\n") == 1
