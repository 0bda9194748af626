"""The command line: every bad input is told in one sentence with exit code 2, and leaves nothing behind."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from r2ac.envs.procgen_engine import PACKAGE
from r2ac.launch.cli import COMMANDS, main
from r2ac.launch.evaluation.results_file import read_evaluation
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runs.run_directory import RunDirectory
from tests.processes import wait_until

Capture = pytest.CaptureFixture[str]
TrainTiny = Callable[..., Path]
HERE = ["--algorithm", "vtrace", "--num-actors", "0", "--total-steps", "100"]


def refused(capsys: Capture, arguments: list[str]) -> str:
    """What the command says on standard error when it refuses: one sentence in one line."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("r2ac: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_kernels_that_there_are_not(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("R2AC_KERNELS", "typo")
    arguments = ["train", "memory/tmaze", *HERE, "--run-dir", str(tmp_path / "run")]
    assert "R2AC_KERNELS is 'typo': it must be 'reference', or unset" in refused(capsys, arguments)
    assert list(tmp_path.iterdir()) == []


def unreadable(capsys: Capture, arguments: list[str]) -> str:
    """What the parser of the flags says on standard error; it ends the program itself."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_an_unknown_command_names_the_commands(capsys: Capture) -> None:
    message = refused(capsys, ["trian", "memory/tmaze"])
    assert "'trian'" in message
    assert ", ".join(COMMANDS) in message


@pytest.mark.parametrize(
    ("task", "nearest"),
    [
        ("memory/tmaz", "memory/tmaze"),
        ("atari/breakout", "atari/Breakout"),
        ("tmaze", "memory/tmaze"),
        ("x/y", "memory"),
    ],
)
def test_an_unknown_task_names_the_nearest(capsys: Capture, task: str, nearest: str) -> None:
    message = refused(capsys, ["train", task])
    assert repr(task) in message
    assert nearest in message


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["train", "memory/tmaze", "--nonsense", "3"], "--nonsense"),
        (["train", "memory/tmaze", "--distribution-mode", "easy"], "--distribution-mode"),
        (["train", "memory/tmaze", "--seed", "one"], "--seed"),
        (["train", "memory/tmaze", "--gradient", "bptt"], "bptt"),
        (["train", "memory/tmaze", "--learning-rate"], "--learning-rate"),
        (["evaluate", "run", "--split", "valid"], "valid"),
        (["evaluate", "run", "--episodes", "many"], "many"),
        (["plot", "run", "--x", "days"], "days"),
        (["envs", "--watch", "memory/tmaze", "--full-action-space"], "--full-action-space"),
    ],
)
def test_flags_that_cannot_be_read_are_named(capsys: Capture, command: list[str], word: str) -> None:
    assert word in unreadable(capsys, command)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_misspelt_flag_is_proposed_whatever_the_terminal_can_show(terminal: bool, encoding: str) -> None:
    controller, shown = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "r2ac.launch", "evaluate", "run", "--episods", "3"],
        stdout=shown if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": encoding, "TERM": "xterm"},
    )
    os.close(controller)
    os.close(shown)
    said = b"r2ac: Unrecognized options: --episods, 3; perhaps you meant --episodes INT"
    assert (done.returncode, done.stderr.strip()) == (2, said)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--rollout-length", "0"),
        ("--batch-size", "0"),
        ("--total-steps", "0"),
        ("--num-actors", "-1"),
        ("--streams-per-actor", "0"),
        ("--rollouts-in-flight", "1"),
        ("--publish-every", "0"),
        ("--seed", "-1"),
        ("--keep-checkpoints", "0"),
        ("--checkpoint-minutes", "-1.0"),
        ("--checkpoint-minutes", "inf"),
        ("--core", "nosuch"),
        ("--hidden-size", "0"),
        ("--encoder-features", "0"),
        ("--chrono-steps", "-5"),
        ("--input-scale", "0.0"),
        ("--recurrent-scale", "inf"),
        ("--readout-size", "0"),
        ("--discount", "2.0"),
        ("--discount", "nan"),
        ("--learning-rate", "0.0"),
        ("--learning-rate", "inf"),
        ("--max-gradient-norm", "0.0"),
        ("--baseline-cost", "-1.0"),
        ("--max-skipped-updates", "0"),
        ("--device", "cuda:99"),
        ("--device", "abacus"),
    ],
)
def test_settings_that_cannot_be_are_named_with_their_value(
    capsys: Capture, tmp_path: Path, flag: str, value: str
) -> None:
    here = [*(HERE if flag not in HERE else []), "--run-dir", str(tmp_path / "run")]
    message = refused(capsys, ["train", "memory/tmaze", *here, flag, value])
    assert flag in message
    assert value in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "9", "--streams-per-actor", "8"], ["--batch-size is 9", "8"]),
        (["--corridor-length", "0"], ["r2ac: --corridor-length is 0", "at least 1"]),
        (["--freeze-encoder"], ["--freeze-encoder is set, but it must be --no-freeze-encoder with --encoder"]),
        (["--freeze-encoder", "--encoder-from", "nope"], ["r2ac: --encoder-from is nope, which does not exist"]),
        (["--encoder", "impala"], ["r2ac: --encoder is 'impala', but", "mlp or none"]),
        (["--core", "mingru", "--recurrent-scale", "2"], ["r2ac: --recurrent-scale is 2.0, but mingru has no"]),
        (["--layer-gradient", "full"], ["r2ac: --layer-gradient is full, but layers is 1"]),
        (
            ["--layer-gradient", "full", "--layers", "2", "--hidden-size", "256"],
            ["r2ac: --layer-gradient is full, but the sensitivities of 2 layers"],
        ),
        (["--core", "mixed:elstm+lru", "--hidden-size", "1"], ["r2ac: --hidden-size must be at least 2"]),
        (["--encoder", "mlp", "--encoder-from", "nowhere"], ["nowhere does not exist"]),
    ],
)
def test_settings_that_do_not_go_together(capsys: Capture, tmp_path: Path, flags: list[str], words: list[str]) -> None:
    message = refused(capsys, ["train", "memory/tmaze", *HERE, "--run-dir", str(tmp_path / "run"), *flags])
    assert all(word in message for word in words)
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_does_not_fit_is_one_sentence_with_ray_too(capsys: Capture, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "impala" in refused(capsys, ["train", "memory/tmaze", "--encoder", "impala", "--run-dir", str(run)])
    assert not run.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_gpu_that_is_not_there(capsys: Capture, finished_run: Path, tmp_path: Path, command: str) -> None:
    run = tmp_path / "run"
    words = {"train": ["memory/tmaze", *HERE, "--run-dir", str(run)], "evaluate": [str(finished_run)]}[command]
    message = refused(capsys, [command, *words, "--device", "cuda"])
    assert "'cuda'" in message
    assert not run.exists()


@pytest.mark.parametrize(("task", "module"), [("atari/Breakout", "ale_py"), ("procgen/chaser", PACKAGE.modules[0])])
def test_a_missing_engine_says_what_to_install(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str, module: str
) -> None:
    run = tmp_path / "run"
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install" in refused(capsys, ["train", task, "--run-dir", str(run)])
    assert not run.exists()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "foreign", "text"])
@pytest.mark.parametrize("command", ["evaluate", "resume", "encoder-from"])
def test_a_checkpoint_that_cannot_be_used(
    capsys: Capture, finished_run: Path, tmp_path: Path, damage: str, command: str
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    path = find_checkpoint(run)
    data = path.read_bytes()
    if damage == "foreign":
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"flipped": flipped, "truncated": data[:middle], "empty": b"", "text": b"weights"}[damage])
    new = tmp_path / "new"
    arguments = {
        "evaluate": ["evaluate", str(run)],
        "resume": ["train", "--resume", str(run)],
        "encoder-from": ["train", "memory/tmaze", *HERE, "--run-dir", str(new), "--encoder-from", str(run)],
    }[command]
    assert str(path) in refused(capsys, arguments)
    assert not new.exists()
    assert not (run / "evaluation.json").exists()


def test_a_task_without_an_end_is_evaluated_with_a_limit_alone(capsys: Capture, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["memory/trace_conditioning", *HERE, "--run-dir", str(run), "--hidden-size", "4", "--batch-size", "64"]
    assert main(["train", *arguments]) == 0
    command = ["evaluate", str(run), "--workers", "0", "--episodes", "2"]
    assert "--max-episode-steps is 0, but it must be at least 1 with memory/trace_cond" in refused(capsys, command)
    assert "r2ac: --max-episode-steps is -1, but" in refused(capsys, [*command, "--max-episode-steps", "-1"])
    assert main([*command, "--max-episode-steps", "7"]) == 0
    assert {episode.length for result in read_evaluation(run) for episode in result.episodes} == {7}


@pytest.mark.parametrize("flags", [["--encoder", "mlp", "--encoder-features", "7"], ["--encoder", "none"]])
def test_an_encoder_of_another_architecture(
    capsys: Capture, train_tiny: TrainTiny, tmp_path: Path, flags: list[str]
) -> None:
    stem = train_tiny(tmp_path / "stem", {"--encoder": "mlp", "--encoder-features": 6})
    run = tmp_path / "run"
    flags = ["--run-dir", str(run), *flags, "--encoder-from", str(stem)]
    message = refused(capsys, ["train", "memory/tmaze", *HERE, *flags])
    assert f"the encoder of {stem} does not fit this agent" in message
    assert not run.exists()


@pytest.mark.parametrize("command", [["evaluate"], ["plot"], ["report"], ["inspect"], ["train", "--resume"]])
def test_a_run_that_is_not_there(capsys: Capture, tmp_path: Path, command: list[str]) -> None:
    # The file system refuses this name, to root too, as it refuses a folder that may not be read.
    assert "xxx" in refused(capsys, [*command, str(tmp_path / ("x" * 300))])
    assert "does not exist" in refused(capsys, [*command, str(tmp_path / "nowhere")])
    assert "config.json" in refused(capsys, [*command, str(tmp_path)])


@pytest.mark.parametrize("command", [["evaluate"], ["plot"], ["train", "--resume"], ["train", "--seed", "3"]])
def test_a_run_or_task_must_be_named(capsys: Capture, command: list[str]) -> None:
    refused(capsys, command)


def test_a_run_without_checkpoint_or_metrics(capsys: Capture, finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    RunDirectory.create(run, json.loads((finished_run / "config.json").read_text())).close()
    assert "no checkpoint" in refused(capsys, ["train", "--resume", str(run)])
    assert "no checkpoint" in refused(capsys, ["evaluate", str(run)])
    assert "metrics.jsonl" in refused(capsys, ["plot", str(run)])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "one"},
        {"total_steps": None},
        {"env": 3},
        {"env": {"corridor": 3}},
        {"task": "memory/maze"},
        {"extra": 1},
    ],
)
def test_a_config_that_was_edited_wrongly(
    capsys: Capture, finished_run: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "config.json").write_text(json.dumps({**json.loads((run / "config.json").read_text()), **change}))
    refused(capsys, ["train", "--resume", str(run)])


@pytest.mark.parametrize(
    "flags",
    [
        ["--hidden-size", "9"],
        ["--core", "feedforward"],
        ["--optimiser", "rmsprop"],
        ["--rollout-length", "0"],
        ["--run-dir", "elsewhere"],
    ],
)
def test_a_run_goes_on_only_with_what_its_checkpoint_fits(
    capsys: Capture, finished_run: Path, tmp_path: Path, flags: list[str]
) -> None:
    """A refused resume changes nothing, and leaves the run as good as it was."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    before = (run / "config.json").read_text()
    refused(capsys, ["train", "--resume", str(run), "--total-steps", "3000", *flags])
    assert (run / "config.json").read_text() == before
    assert main(["train", "--resume", str(run), "--total-steps", "3000"]) == 0
    assert read_metrics(run)[-1]["env_steps"] == 3000


def test_freezing_the_encoder_when_a_run_goes_on(capsys: Capture, train_tiny: TrainTiny, tmp_path: Path) -> None:
    """The optimiser of the checkpoint knows the encoder, that of the resumed run would not."""
    encoder = {"--encoder": "mlp", "--encoder-features": 6}
    stem, run = train_tiny(tmp_path / "stem", encoder), train_tiny(tmp_path / "run", encoder)
    flags = ["--encoder-from", str(stem), "--freeze-encoder", "--total-steps", "3000"]
    refused(capsys, ["train", "--resume", str(run), *flags])


def test_a_run_directory_in_use(
    capsys: Capture, start_tiny: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start_tiny(run, {"--total-steps": 100_000_000})
    metrics = run / "metrics.jsonl"
    try:
        wait_until(lambda: metrics.exists() and metrics.read_text() != "", process)
        message = refused(capsys, ["train", "--resume", str(run)])
        assert f"in use by process {process.pid}" in message
        assert "already holds a run" in refused(capsys, ["train", "memory/tmaze", *HERE, "--run-dir", str(run)])
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_never_written_over(capsys: Capture, finished_run: Path) -> None:
    before = {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}
    message = refused(capsys, ["train", "memory/tmaze", *HERE, "--run-dir", str(finished_run)])
    assert f"--resume {finished_run}" in message
    assert {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()} == before


def test_a_run_directory_below_a_file(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        message = refused(capsys, ["train", "memory/tmaze", *HERE, "--run-dir", str(path)])
        assert f"{path} cannot hold a run" in message


def test_pictures_that_cannot_be_drawn(capsys: Capture, finished_run: Path, tmp_path: Path) -> None:
    message = refused(capsys, ["plot", str(finished_run), "--output", str(tmp_path / "curves.gif")])
    assert ".png, .svg, .pdf" in message
    message = refused(capsys, ["plot", str(finished_run), "--metric", "happiness"])
    assert "happiness" in message
    assert "episode_return" in message
    (tmp_path / "file").write_text("here")
    refused(capsys, ["plot", str(finished_run), "--output", str(tmp_path / "file" / "curves.png")])


@pytest.mark.parametrize("flag", ["--episodes", "--seeds", "--num-envs"])
def test_an_evaluation_of_nothing(capsys: Capture, finished_run: Path, flag: str) -> None:
    assert f"{flag} is 0" in refused(capsys, ["evaluate", str(finished_run), flag, "0"])


def test_a_cluster_that_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", "memory/tmaze", "--ray-address", "127.0.0.1:1", "--run-dir", str(run)]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "127.0.0.1:1" in errors
    assert "Traceback" not in errors
    assert not run.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "machado"], ["'machado'", "paper, machado2018"]),
        (["--preset"], ["--preset"]),
        (["--preset", "machado2018", "--batch-size", "8", "--sticky-actions", "1.5"], ["--sticky-actions is 1.5"]),
    ],
)
def test_presets_of_the_environment(capsys: Capture, flags: list[str], words: list[str]) -> None:
    message = refused(capsys, ["train", "atari/Breakout", *HERE, *flags])
    assert all(word in message for word in words)
    assert "defaults only" in refused(capsys, ["train", "memory/tmaze", *HERE, "--preset", "paper"])


def test_the_installed_command_ends_in_order(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("r2ac")
    result = subprocess.run([command, "train", "memory/tmaz"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    piped = subprocess.run(f"{command} envs | head -n 1", shell=True, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    assert piped.stdout.count("\n") == 1
