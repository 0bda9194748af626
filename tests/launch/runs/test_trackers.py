"""Weights & Biases and MLflow: what a training logs is read back from the files that their own packages write."""

import json
import struct
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from r2ac.launch.cli import main
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.tensorboard import TAGS, flat
from r2ac.launch.settings.flags import training_config
from r2ac.launch.train.run_context import TrainCallback
from r2ac.launch.train.train import train
from tests.launch.conftest import tiny_arguments

TrainTiny = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def logged(run: Path) -> dict[int, dict[str, Any]]:
    """The lines of metrics.jsonl by their steps, as a tracker has them."""
    rows = [{TAGS.get(key, key): value for key, value in row.items()} for row in read_metrics(run)]
    return {row.pop("env_steps"): row for row in rows}


def settings(run: Path) -> dict[str, Any]:
    return {**flat(json.loads((run / "config.json").read_text())), "run_dir": str(run)}


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: seven bytes, then LevelDB's format of a log."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield messages.Record.FromString(record)
            record = b""


@pytest.mark.slow
def test_wandb_has_settings_and_curves_and_goes_on_in_the_same_run(
    train_tiny: TrainTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb: pip install 'r2ac[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train_tiny(tmp_path / "run", {"--log": "wandb"})
    before = settings(run)
    assert main(["train", "--resume", str(run), "--total-steps=2400"]) == 0
    files = [list(records(path)) for path in sorted(run.glob("wandb/offline-run-*/*.wandb"))]
    heads = [next(record.run for record in file if record.HasField("run")) for file in files]
    assert {head.run_id for head in heads} == {(run / "wandb.id").read_text()}
    assert {head.display_name for head in heads} == {f"{tmp_path.name}/run"}
    configs = [{item.key: json.loads(item.value_json) for item in head.config.update} for head in heads]
    assert [{key: config[key] for key in before} for config in configs] == [before, settings(run)]
    history = [record.history for file in files for record in file if record.HasField("history")]
    rows = {line.step.num: {item.nested_key[0]: json.loads(item.value_json) for item in line.item} for line in history}
    own = {step: {key: value for key, value in row.items() if key[0] != "_"} for step, row in rows.items()}
    assert own == {step: pytest.approx(row, abs=1e-3) for step, row in logged(run).items()}


@pytest.mark.slow
def test_mlflow_has_settings_and_curves_and_goes_on_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install 'r2ac[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client, run = mlflow.MlflowClient(), tmp_path / "run"
    _, task, *words = tiny_arguments(run, {"--log": "mlflow"})
    lines: list[Any] = []
    stopped = TrainCallback(take_line=lines.append, stop_requested=lambda: len(lines) >= 3)
    assert train(training_config(task, words), run, True, Console(quiet=True), stopped) == 0
    before = {key: str(value) for key, value in settings(run).items()}

    def found() -> Any:
        experiment = client.get_experiment_by_name("r2ac").experiment_id
        [found] = client.search_runs([experiment])
        assert found.info.run_id == (run / "mlflow.id").read_text()
        return found

    assert (found().info.status, found().info.run_name) == ("KILLED", f"{tmp_path.name}/run")
    assert main(["train", "--resume", str(run), "--total-steps=2400"]) == 0
    there = found()
    assert there.info.status == "FINISHED"
    assert there.data.params == before
    assert there.data.tags["total_steps"] == "2400"
    curves = {key: client.get_metric_history(there.info.run_id, key) for key in there.data.metrics}
    for key in {key for row in logged(run).values() for key in row}:
        expected = [(step, pytest.approx(row[key], abs=1e-3)) for step, row in logged(run).items() if key in row]
        assert [(point.step, point.value) for point in curves[key]] == expected


def test_a_server_that_is_gone_is_reported_and_the_training_goes_on(
    train_tiny: TrainTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'r2ac[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert len(logged(train_tiny(tmp_path / "run", {"--log": "mlflow"}))) == 10
    assert capsys.readouterr().out.count("r2ac: mlflow takes no more of this training") == 1


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Takes the place of the package wandb; ``calls`` are those of its functions, and its server goes at step 600."""
    calls: list[tuple[str, Any]] = []
    module: Any = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None, origin="double")

    def log(row: dict[str, float], step: int, commit: bool) -> None:
        calls.append(("log", step))
        if step == 600:
            raise ConnectionError("the server\nis gone")

    def init(**settings: Any) -> Any:
        calls.append(("init", settings["id"]))
        return SimpleNamespace(id="one", step=0, log=log, finish=lambda exit_code: calls.append(("finish", exit_code)))

    module.calls, module.init, module.Settings, module.Error = calls, init, dict, RuntimeError
    module.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode="online"))
    module.login = lambda prompt: module.has_key
    module.has_key = True
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_tracker_that_fails_is_reported_once_and_gets_no_more(
    double: Any, train_tiny: TrainTiny, tmp_path: Path, capsys: Capture
) -> None:
    run = train_tiny(tmp_path / "run", {"--log": "wandb"})
    assert double.calls == [("init", None), ("log", 200), ("log", 400), ("log", 600)]
    said = capsys.readouterr().out
    assert said.count("r2ac: wandb takes no more of this training, which goes on without it: is gone\n") == 1
    assert len(logged(run)) == 10
    double.calls.clear()
    assert main(["train", "--resume", str(run), "--total-steps=2400"]) == 0
    assert double.calls == [("init", "one"), ("log", 2200), ("log", 2400), ("finish", 0)]


def test_what_cannot_be_logged_to_is_refused_before_anything_is_written(
    double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refused(tracker: str) -> str:
        assert main(tiny_arguments(tmp_path / "run", {"--log": tracker})) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "invalid choice 'tensorflow'" in refused("tensorflow")
    double.has_key = False
    assert "--log wandb needs a key: `wandb login` stores one" in refused("wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("r2ac.launch.runs.trackers.find_spec", lambda name: None)
    assert "--log wandb needs the package wandb: pip install 'r2ac[wandb]'" in refused("wandb")


def test_trials_of_a_sweep_are_refused_at_once_too(double: Any, tmp_path: Path, capsys: Capture) -> None:
    double.has_key = False
    words = ["sweep", "memory/tmaze", "--vary", "seed=1,2", "--log", "wandb", "--sweep-dir", str(tmp_path / "sweep")]
    assert main(words) == 2
    assert "--log wandb needs a key" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
