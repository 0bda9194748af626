"""``r2ac cluster``: flags of the manifest beside those of the training, both checked; the file that is written."""

from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from r2ac.agents import AgentConfig
from r2ac.envs import SUITES
from r2ac.launch.cli import main
from r2ac.launch.cluster.manifests.autoscaler import AutoscalerOptions
from r2ac.launch.cluster.manifests.kuberay import KubeRayOptions
from r2ac.launch.cluster.manifests.slurm import SlurmOptions
from r2ac.launch.commands.cluster import read_training
from r2ac.launch.settings.config import TrainConfig
from r2ac.learner import LearnerConfig

Capture = pytest.CaptureFixture[str]
KINDS = {"kuberay": KubeRayOptions, "slurm": SlurmOptions, "autoscaler": AutoscalerOptions}
NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_flag_means_two_things(kind: str) -> None:
    trained: set[str] = {"preset", "suite", "resume"}
    suites: list[Any] = [suite.options for suite in SUITES.values()] if isinstance(SUITES, dict) else []
    for part in (TrainConfig, AgentConfig, LearnerConfig, *suites):
        assert is_dataclass(part)
        trained |= {field.name for field in fields(part)}
    assert suites
    assert {field.name for field in fields(KINDS[kind])} & trained == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_is_printed_or_written(capsys: Capture, tmp_path: Path, kind: str) -> None:
    command = ["cluster", kind, "memory/tmaze", "--image", "i", "--seed", "3", "--name", "x"]
    command = [word for word in command if kind != "slurm" or word not in ("--image", "i")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "--seed 3" in printed
    file = tmp_path / "file"
    assert main([*command, "--output", str(file)]) == 0
    assert file.read_text() == printed
    file.write_text("edited by hand")
    assert main([*command, "--output", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert file.read_text() == "edited by hand"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nomad", "memory/tmaze"], ["'nomad'", "kuberay, slurm, autoscaler"]),
        (["slurm"], ["the task comes first"]),
        (["slurm", "--seed", "1"], ["the task comes first"]),
        (["slurm", "memory/tmaz"], ["memory/tmaze"]),
        (["slurm", "memory/tmaze", "--batch-size", "0"], ["--batch-size is 0"]),
        (["slurm", "memory/tmaze", "--num-actors", "0"], ["--num-actors is 0", "at least 1"]),
        (["slurm", "memory/tmaze", "--ray-address", "local"], ["--ray-address cannot be given"]),
        (["slurm", "memory/tmaze", "--ray_address=local"], ["--ray-address cannot be given"]),
        (["slurm", "memory/tmaze", "--resume", "runs/a"], ["--resume cannot be given"]),
        (["slurm", "memory/tmaze", "--name", "A B"], ["--name is 'A B'"]),
        (["slurm", "memory/tmaze", "--run-dir=-x"], ["--run-dir is '-x'"]),
        (["slurm", "memory/tmaze", "--transport", "shared"], ["--transport is shared"]),
        (["kuberay", "memory/tmaze", "--image", "i", "--run-dir", "/tmp/x"], ["--run-dir is /tmp/x", "/mnt/r2ac"]),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(capsys: Capture, arguments: list[str], words: list[str]) -> None:
    assert main(["cluster", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("r2ac: ")
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["kuberay", "memory/tmaze"], "--image"),
        (["slurm", "memory/tmaze", "--nonsense", "3"], "--nonsense"),
        (["slurm", "memory/tmaze", "--nodes", "many"], "--nodes"),
    ],
)
def test_flags_that_cannot_be_read_are_named(capsys: Capture, arguments: list[str], word: str) -> None:
    assert main(["cluster", *arguments]) == 2
    assert word in capsys.readouterr().err


def test_help(capsys: Capture) -> None:
    assert main(["cluster"]) == 2
    assert main(["cluster", "--help"]) == 0
    assert "kuberay" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["cluster", "slurm", "--help"])
    assert ended.value.code == 0
    assert "--warning-seconds" in capsys.readouterr().out


def test_the_training_is_written_down_as_it_was_asked_for() -> None:
    given = ["--num_actors=4", "--run-dir", "runs/x", "--preset", "paper", "--device", "cuda", "--batch-size", "8"]
    training = read_training("atari/Breakout", given, str, now=NOW)
    assert training.task == "atari/Breakout"
    # Where nothing is said of threads, they are as many as the CPUs that are asked for.
    flags = ("--num-actors=4", "--device", "cuda", "--batch-size", "8", "--learner-threads", "1")
    assert (training.flags, training.preset, training.run_dir) == (flags, "paper", "runs/x")
    assert (training.needs.actors, training.needs.gpus) == (4, 1)
    assert training.name == "atari-breakout-rtrl-seed1-20260102-030405"
    # The job refuses a flag that is given twice.
    assert " ".join(read_training("memory/tmaze", ["--learner-threads=0"], str).flags).count("--learner-threads") == 1


def test_every_manifest_has_a_run_of_its_own() -> None:
    first = read_training("memory/tmaze", [], str, now=NOW)
    second = read_training("memory/tmaze", [], str, now=NOW.replace(second=6))
    assert first.run_dir == "runs/memory-tmaze-ppo-rtrl-seed1-20260102-030405"
    assert second.run_dir != first.run_dir
    # Kubernetes takes no space in a name.
    lru = read_training("memory/tmaze", ["--core", "lru"], str, now=NOW)
    assert lru.name == "memory-tmaze-ppo-lru-rtrl-seed1-20260102-030405"
    long = read_training("memory/tmaze", ["--seed", str(2**64 - 1), "--core", "feedforward"], str, now=NOW)
    assert len(long.name) == 47


def test_the_manifest_is_yaml_whatever_the_terminal_is(capsys: Capture) -> None:
    """Nothing wraps or colours what goes to a file."""
    assert main(["cluster", "kuberay", "memory/tmaze", "--image", f"example.org/{'x' * 300}", "--name", "a"]) == 0
    config, job = yaml.safe_load_all(capsys.readouterr().out)
    assert (config["kind"], job["metadata"]["name"]) == ("ConfigMap", "a")
