"""Who acts, where, and how rollouts travel: whole trainings with each choice, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from r2ac.agents import DiscreteActions, ObservationSpec
from r2ac.launch.cli import main
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.settings.presets import preset
from r2ac.launch.train.sources import acts_on_workers

TrainTiny = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
TWO: dict[str, object] = {"--num-actors": 2, "--streams-per-actor": 4}


@pytest.mark.slow
def test_a_profile_is_written_beside_the_run(train_tiny: TrainTiny, tmp_path: Path, capsys: Capture) -> None:
    run = train_tiny(tmp_path / "run", {"--num-actors": 1}, "--profile")
    folder = run / "profile"
    page = (folder / "summary.md").read_text()
    for words in ("The learner's loop", "Inside an update", "sensitivities", "The rollout actors", "environment"):
        assert words in page
    assert (folder / "learner-trace.json.gz").stat().st_size > 1000
    assert json.loads((folder / "ray-timeline.json").read_text()), "what Ray's processes did"
    assert "profile" in capsys.readouterr().out


@pytest.mark.parametrize(
    "choice",
    [
        {"--inference": "worker", "--stream-groups": 2, "--max-policy-lag": 6},
        {"--transport": "ray", "--max-policy-lag": 6},
        {"--algorithm": "ppo", "--n-epochs": 2, "--num-minibatches": 4},
    ],
    ids=lambda choice: next(iter(choice)),
)
def test_a_training_with_each_choice(
    train_tiny: TrainTiny, tmp_path: Path, local_ray: None, choice: dict[str, object]
) -> None:
    run = train_tiny(tmp_path / "run", {**TWO, **choice})
    rows = read_metrics(run)
    last = rows[-1]
    assert last["env_steps"] == 2000
    for name in ("learner/stream_resets", "throughput/actor_restarts", "throughput/inference_restarts"):
        assert last[name] == 0
    assert max(row["policy_lag/max"] for row in rows) <= choice.get("--max-policy-lag", 0)
    assert all(row["policy_lag/p5"] <= row["policy_lag/p50"] <= row["policy_lag/p95"] for row in rows)
    # The shares of what the actors do, where some of it was told since the line before.
    shares = [row[f"throughput/actor_{what}"] for row in rows[-1:] for what in ("environment", "inference", "wait")]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-actors", "0", "--inference", "worker"], "--inference is worker, but it must be actor"),
        (
            ["--ray-address", "127.0.0.1:6379", "--inference", "worker", "--inference-device", "cuda:1"],
            "--inference-device is cuda:1, but it must be auto, cpu or cuda",
        ),
        (["--transport", "shared", "--ray-address", "127.0.0.1:6379"], "--transport is shared, but that needs"),
        (["--stream-groups", "99"], "--stream-groups is 99, but it must be at most --streams-per-actor (64) and 255"),
        (["--max-policy-lag", "2"], "--max-policy-lag is 2, but it must be 0 or at least 6"),
        (["--max-policy-lag", "-1"], "--max-policy-lag is -1, but it must be at least 0"),
        (["--num-actors", "0", "--max-policy-lag", "9"], "--max-policy-lag is 9, but it must be 0 with --num-actors 0"),
        (["--inference-workers", "0"], "--inference-workers is 0, but it must be at least 1"),
        (["--inference", "worker", "--inference-device", "tpu"], "--inference-device is 'tpu'"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    flags: list[str], words: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["train", "memory/tmaze", "--algorithm", "vtrace", *flags, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_workers_act_where_they_were_asked_for() -> None:
    config, images = preset("memory/tmaze", algorithm="vtrace"), ObservationSpec((3, 64, 64), DiscreteActions(4))
    assert acts_on_workers(replace(config, inference="worker"), ObservationSpec((4,), DiscreteActions(2)))
    assert not acts_on_workers(replace(config, inference="actor"), images)
    assert not acts_on_workers(config, ObservationSpec((4,), DiscreteActions(2)))
    assert not acts_on_workers(replace(config, ray_address="10.0.0.1:6379"), images)
