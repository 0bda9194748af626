"""Training from the command line: reproducible, stopped, killed and resumed; with and without Ray."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from r2ac.envs import find_task
from r2ac.envs.seeding import stagger_positions
from r2ac.launch.cli import main
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.runs.loading import TrainedAgent, find_checkpoint, make_agent
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.settings.config import config_from_json
from r2ac.launch.train.learn import observation_spec
from r2ac.learner.checkpoint import Checkpoint, load_checkpoint
from tests.launch.conftest import tiny_arguments
from tests.playing import evaluated
from tests.processes import wait_until

TrainTiny = Callable[..., Path]
StartTiny = Callable[..., "subprocess.Popen[str]"]
# What depends on the machine.
TIMED = {
    *("wall_time", "throughput/steps_per_second", "throughput/learner_wait", "system/resident_mb"),
    *("throughput/actor_environment", "throughput/actor_inference", "throughput/actor_wait"),
}
# Years of training: only a signal ends it.
ENDLESS = 10**12
LONG: dict[str, object] = {"--total-steps": ENDLESS, "--log-steps": 200}
# Every --hidden-size and so on is that of the fixture: 5 steps of 8 streams are an update.
STEPS_OF_UPDATE = 40


def newest(run: Path) -> Checkpoint:
    return load_checkpoint(find_checkpoint(run))


def same_tensors(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMED} for row in read_metrics(run)]


def lines(run: Path) -> list[str]:
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def check_metrics(run: Path, total_steps: int, endless_until: float = 0) -> None:
    """No jump backward, no duplicate, over all resumes of the run, and the learning rate falls over its total steps:
    ENDLESS up to the step ``endless_until``, then ``total_steps``."""
    rows = read_metrics(run)
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["wall_time"] for row in rows] == sorted(row["wall_time"] for row in rows)
    for row in rows:
        assert row["updates"] == row["env_steps"] / STEPS_OF_UPDATE
        assert row["env_frames"] == row["env_steps"]
        total = ENDLESS if row["env_steps"] <= endless_until else total_steps
        expected = 4e-3 * max(0.0, 1 - row["env_steps"] / total)
        assert row["learner/learning_rate"] == pytest.approx(expected, abs=1e-12)
        assert row["learner/stream_resets"] == row["learner/skipped_updates"] == 0


def test_one_seed_gives_one_run_bit_for_bit(finished_run: Path, train_tiny: TrainTiny, tmp_path: Path) -> None:
    again, other = train_tiny(tmp_path / "again"), train_tiny(tmp_path / "other", {"--seed": 2})
    first, second = newest(finished_run), newest(again)
    assert same_tensors(first.model, second.model)
    assert torch.equal(first.random_state, second.random_state)
    for state, again_state in zip(first.optimiser["state"].values(), second.optimiser["state"].values(), strict=True):
        assert same_tensors(state, again_state)
    assert untimed(finished_run) == untimed(again)
    assert not any(torch.equal(first.model[name], newest(other).model[name]) for name in first.model)
    assert untimed(finished_run) != untimed(other)


def test_what_a_run_leaves(finished_run: Path) -> None:
    rows = read_metrics(finished_run)
    assert [row["env_steps"] for row in rows] == list(range(200, 2001, 200))
    assert {
        *("env_steps", "env_frames", "wall_time", "updates", "episodes", "episode_return", "episode_length"),
        *("loss/total", "loss/policy", "loss/baseline", "loss/entropy", "loss/gradient_norm"),
        *("policy_lag/mean", "policy_lag/max", "learner/learning_rate", "learner/skipped_updates"),
        *("learner/stream_resets", "throughput/steps_per_second", "throughput/learner_wait"),
        *("throughput/actor_restarts", "throughput/engine_restarts", "normalised_return", "capped_normalised_return"),
        *("policy_lag/p5", "policy_lag/p50", "policy_lag/p95", "throughput/held_back", "throughput/inference_restarts"),
        *("throughput/queue", "throughput/actors", "throughput/restarts"),
        *("throughput/actor_environment", "throughput/actor_inference", "throughput/actor_wait"),
        *("system/resident_mb", "learner/parameters"),
    } == {name for name in rows[-1] if not name.startswith("rtrl/")}
    # Corridor 4: episodes of 5 steps, 8 streams, 200 steps a line; first episodes that are cut short are not counted.
    whole = int((stagger_positions(1, 0, [5] * 8) == 5).sum())
    assert [(row["episodes"], row["episode_length"]) for row in rows] == [(32 + whole, 5.0)] + [(40, 5.0)] * 9
    assert {row["policy_lag/max"] for row in rows} == {0.0}
    check_metrics(finished_run, 2000)
    assert [path for path in finished_run.glob("events.out.tfevents.*") if path.stat().st_size > 1000]
    written = json.loads((finished_run / "config.json").read_text())
    config = config_from_json(written, finished_run / "config.json")
    config.check()
    assert config.to_json() == written == newest(finished_run).config
    assert (config.total_steps, config.agent.hidden_size, config.env.corridor_length) == (2000, 8, 4)
    counters = newest(finished_run).counters
    assert (counters["env_steps"], counters["updates"], counters["next_sequence"]) == (2000, 50, 50)


def test_the_newest_checkpoints_are_kept(train_tiny: TrainTiny, tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", {"--checkpoint-minutes": 0, "--keep-checkpoints": 2})
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step_000000001960.safetensors",
        "step_000000002000.safetensors",
    ]


def test_a_run_of_no_whole_update_still_learns_once(train_tiny: TrainTiny, tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", {"--total-steps": 1})
    assert newest(run).counters["env_steps"] == STEPS_OF_UPDATE
    assert [row["updates"] for row in read_metrics(run)] == [1]


def test_batches_smaller_than_an_actor_lose_nothing(train_tiny: TrainTiny, tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", {"--batch-size": 3, "--total-steps": 3000})
    assert read_metrics(run)[-1]["learner/stream_resets"] == 0
    assert read_metrics(run)[-1]["updates"] == 200


def test_resuming_a_finished_run_ends_at_once(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["train", "--resume", str(run)]) == 0
    assert capsys.readouterr().err == ""
    assert main(["train", "--resume", str(run), "--total-steps", "100"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith(" its 2,000 steps; --total-steps is 100, and one above 2,000 goes on\n")
    assert captured.err == ""
    assert lines(run) == lines(finished_run)
    assert same_tensors(newest(run).model, newest(finished_run).model)
    assert newest(run).counters["updates"] == newest(finished_run).counters["updates"]


@pytest.mark.parametrize("edited", [False, True])
def test_a_run_goes_on_with_the_settings_of_its_checkpoint(
    edited: bool, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag cannot change what the checkpoint depends on, nor can a config.json that was edited."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    flags = ["--total-steps", "4000"]
    if edited:
        config = json.loads((run / "config.json").read_text())
        config["learner"]["optimiser"] = "rmsprop"
        (run / "config.json").write_text(json.dumps(config))
    else:
        flags += ["--optimiser", "rmsprop"]
    assert main(["train", "--resume", str(run), *flags]) == 2
    sentence = "r2ac: --optimiser is rmsprop, but a run goes on as it began, with adam\n"
    assert capsys.readouterr().err == sentence
    assert newest(run).counters["env_steps"] == 2000


def test_a_checkpoint_of_other_observations_does_not_go_on(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["task"] = "memory/copy"
    (run / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", str(run), "--total-steps", "4000"]) == 2
    assert "the checkpoint of step 2,000 does not fit this agent" in capsys.readouterr().err


def test_a_resumed_run_plays_other_episodes(finished_run: Path, train_tiny: TrainTiny, tmp_path: Path) -> None:
    """Were they the same, the episodes between the checkpoint and the end would be learned from twice."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["train", "--resume", str(run), "--total-steps", "4000"]) == 0
    rows = read_metrics(run)
    assert [row["env_steps"] for row in rows] == list(range(200, 4001, 200))
    returns = [row["episode_return"] for row in rows]
    assert returns[:10] != returns[10:]
    assert newest(run).counters["incarnation"] == newest(finished_run).counters["incarnation"] + 1
    assert json.loads((run / "config.json").read_text())["total_steps"] == 4000


def test_sigterm_before_the_first_step_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(config: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return observation_spec(config)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        monkeypatch.setattr("r2ac.launch.train.learn.observation_spec", look)
        assert main(tiny_arguments(tmp_path / "run", {})) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.undo()
    assert newest(tmp_path / "run").counters["env_steps"] == 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


def test_sigterm_saves_and_resume_goes_on(start_tiny: StartTiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_tiny(run, LONG)
    wait_until(lambda: len(lines(run)) >= 3, process)
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == ""
    assert "stopped by SIGTERM" in output
    assert f"r2ac train --resume {run}" in output
    stopped, kept = newest(run), lines(run)
    steps = int(stopped.counters["env_steps"])
    assert steps >= 600
    assert read_metrics(run)[-1]["env_steps"] == steps
    total = steps + 2000
    assert main(["train", "--resume", str(run), "--total-steps", str(total)]) == 0
    assert lines(run)[: len(kept)] == kept
    check_metrics(run, total, endless_until=steps)
    ended = newest(run)
    assert ended.counters["env_steps"] == total
    assert ended.counters["updates"] == total // STEPS_OF_UPDATE
    assert ended.counters["wall_time"] > stopped.counters["wall_time"]
    assert ended.counters["stream_resets"] == 0


@pytest.mark.parametrize(
    "flags",
    [{}, {"--algorithm": "ppo", "--learning-rate": 4e-3, "--learning-rate-schedule": "linear", "--n-epochs": 2}],
    ids=["vtrace", "ppo"],
)
def test_a_killed_run_goes_on_from_its_newest_checkpoint(
    start_tiny: StartTiny, tmp_path: Path, flags: dict[str, object]
) -> None:
    run = tmp_path / "run"
    # Seconds between two checkpoints: time for some lines on a busy machine, too.
    process = start_tiny(run, {**LONG, **flags, "--checkpoint-minutes": 0.04})

    def stands_still_beyond_a_checkpoint() -> bool:
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        names = sorted(path.name for path in (run / "checkpoints").glob("step_*"))
        if names and len(lines(run)) > 3 + int(names[-1][5:17]) // 200:
            return True
        process.send_signal(signal.SIGCONT)
        return False

    wait_until(stands_still_beyond_a_checkpoint, process)
    process.kill()
    process.communicate()
    saved, before = int(newest(run).counters["env_steps"]), lines(run)
    kept = [line for line in before if line.endswith("}") and json.loads(line)["env_steps"] <= saved]
    assert len(kept) < len(before)
    total = saved + 2000
    assert main(["train", "--resume", str(run), "--total-steps", str(total), "--checkpoint-minutes", "10"]) == 0
    assert lines(run)[: len(kept)] == kept
    check_metrics(run, total, endless_until=saved)
    assert newest(run).counters["updates"] == total // STEPS_OF_UPDATE


def test_a_frozen_encoder_stays_bit_for_bit(train_tiny: TrainTiny, tmp_path: Path) -> None:
    encoder: dict[str, object] = {"--encoder": "mlp", "--encoder-features": 6}
    stem = train_tiny(tmp_path / "stem", encoder)
    begun = {**encoder, "--seed": 2, "--encoder-from": stem}
    frozen = train_tiny(tmp_path / "frozen", begun, "--freeze-encoder")
    adapted = train_tiny(tmp_path / "adapted", {**begun, "--encoder-from": find_checkpoint(stem)})
    fresh = newest(train_tiny(tmp_path / "fresh", {**encoder, "--seed": 2})).model
    source, kept, moved = newest(stem).model, newest(frozen).model, newest(adapted).model
    names = [name for name in source if name.startswith("encoder.")]
    assert len(names) == 4
    for name in source:
        assert torch.equal(source[name], kept[name]) == (name in names)
        assert not torch.equal(source[name], moved[name])
        assert not torch.equal(fresh[name], moved[name])
    # A frozen encoder stays so over a resume, which needs the stem no more.
    shutil.rmtree(stem)
    assert main(["train", "--resume", str(frozen), "--total-steps", "3000"]) == 0
    assert all(torch.equal(source[name], newest(frozen).model[name]) for name in names)
    assert not torch.equal(kept["core.input_weight"], newest(frozen).model["core.input_weight"])


def test_a_random_encoder_that_is_frozen_stays_as_the_seed_made_it(train_tiny: TrainTiny, tmp_path: Path) -> None:
    flags = {"--seed": 2, "--encoder": "patch", "--encoder-features": 6}
    agent = TrainedAgent.load(train_tiny(tmp_path / "run", flags, "--pixels", "--freeze-encoder"))
    spec = observation_spec(agent.training)
    at_start = make_agent(spec, agent.training.agent, seed=2, device=torch.device("cpu")).state_dict()
    same = {name for name, tensor in agent.model.items() if torch.equal(tensor, at_start[name])}
    assert same == {name for name in at_start if name.startswith("encoder.")}


@pytest.mark.parametrize(("gradient", "least", "most"), [("rtrl", 0.95, 1.0), ("tbptt", 0.35, 0.65)])
def test_only_rtrl_learns_what_lies_further_back_than_a_rollout(
    tmp_path: Path, gradient: str, least: float, most: float
) -> None:
    """Eight steps between cue and choice, rollouts of two steps: credit must be exact, for it cannot be short."""
    command = ["train", "memory/tmaze", "--num-actors", "0", "--corridor-length", "8", "--rollout-length", "2"]
    command += [
        "--algorithm",
        "vtrace",
        "--chrono-steps",
        "20",
        "--hidden-size",
        "32",
        "--learning-rate",
        "0.01",
        "--total-steps",
        "40000",
    ]
    assert main([*command, "--gradient", gradient, "--run-dir", str(tmp_path / "run")]) == 0
    evaluation = evaluated(tmp_path / "run", EvaluationConfig(episodes=300, seeds=1, num_envs=100))
    assert least <= evaluation.mean_return <= most


@pytest.mark.slow
def test_ctrl_c_and_resume_with_ray(start_tiny: StartTiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ray: dict[str, object] = {"--num-actors": 2, "--streams-per-actor": 4}
    process = start_tiny(run, {**LONG, **ray})
    wait_until(lambda: len(lines(run)) >= 3, process)
    # The terminal sends Ctrl-C to the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert "Traceback" not in errors
    assert f"r2ac train --resume {run}" in output
    kept = lines(run)
    steps = int(newest(run).counters["env_steps"])
    assert main(["train", "--resume", str(run), "--total-steps", str(steps + 2000)]) == 0
    assert lines(run)[: len(kept)] == kept
    rows = read_metrics(run)
    assert [row["env_steps"] for row in rows] == sorted({row["env_steps"] for row in rows})
    assert rows[-1]["env_steps"] >= steps + 2000
    assert rows[-1]["learner/stream_resets"] == rows[-1]["throughput/actor_restarts"] == 0
    # An actor is at most two rollouts ahead, each of the two has half of the batch, and two batches are made ready.
    assert max(row["policy_lag/max"] for row in rows) <= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "frames", "flags"),
    [("atari/Breakout", 4, []), ("procgen/chaser", 1, ["--distribution-mode", "easy"])],
)
def test_an_engine_from_training_to_curves(
    task: str, frames: int, flags: list[str], tmp_path: Path, local_ray: None
) -> None:
    if missing := find_task(task).suite.missing():
        pytest.skip(missing)
    run = tmp_path / "run"
    command = ["train", task, *flags, "--total-steps", "400", "--rollout-length", "5", "--streams-per-actor", "4"]
    command += ["--batch-size", "4", "--num-actors", "1", "--hidden-size", "32", "--encoder-features", "32"]
    assert main([*command, "--log-steps", "100", "--run-dir", str(run)]) == 0
    rows = read_metrics(run)
    assert rows[-1]["env_steps"] == 400
    assert rows[-1]["env_frames"] == 400 * frames
    assert rows[-1]["updates"] == 20
    assert rows[-1]["learner/skipped_updates"] == rows[-1]["learner/stream_resets"] == 0
    assert main(["evaluate", str(run), "--episodes", "2", "--seeds", "1", "--num-envs", "2"]) == 0
    (evaluation,) = json.loads((run / "evaluation.json").read_text())["results"]
    assert len(evaluation["episodes"]) == 2
    assert evaluation["normalised_return"] is not None
    picture = tmp_path / "curves.png"
    assert main(["plot", str(run), "--metric", "loss/total", "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_preset_solves_its_task(tmp_path: Path) -> None:
    """Nothing is set but the number of steps; random actions have 0, the best 1."""
    run = tmp_path / "run"
    assert main(["train", "memory/parity", "--total-steps", "40k", "--run-dir", str(run)]) == 0
    assert sum(row["normalised_return"] for row in read_metrics(run)[-10:]) / 10 >= 0.9
