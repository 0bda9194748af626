"""Trainings with actions of every kind, from the first step to the report."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import ActionSpec, BoxActions, DiscreteActions, MultiDiscreteActions
from r2ac.launch.cli import main
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.watching.episodes import Scene
from r2ac.launch.watching.watch import record

Capture = pytest.CaptureFixture[str]
ACTING = "gym/tests.acting_envs:acting/"
INFINITE = float("inf")
SMALL = {"num-actors": 0, "streams-per-actor": 4, "batch-size": 4, "rollout-length": 5, "hidden-size": 4}


def train(task: str, run: Path, *flags: str, **settings: Any) -> int:
    named = SMALL | {"total-steps": 200, "log-steps": 100, "run-dir": run} | settings
    return main(["train", task, *(f"--{name}={value}" for name, value in named.items()), *flags])


@pytest.mark.parametrize(
    ("name", "flags", "actions"),
    [
        ("Wheel", ("--squash-actions",), BoxActions((-2.0,), (4.0,), squash=True)),
        pytest.param(
            "Steering",
            ("--action-deviation", "state-dependent", "--algorithm", "ppo"),
            BoxActions((-1.0, 0.0, -INFINITE), (1.0, float(np.float32(0.1)), INFINITE)),
            marks=pytest.mark.slow,
        ),
        pytest.param("Masked", (), DiscreteActions(4), marks=pytest.mark.slow),
        ("TellingInfo", ("--mask-from-info", "--algorithm", "ppo"), MultiDiscreteActions((3, 2))),
    ],
)
def test_a_run_is_trained_goes_on_is_evaluated_watched_and_reported(
    name: str, flags: tuple[str, ...], actions: ActionSpec, tmp_path: Path
) -> None:
    """The environments raise where an action is none, or is masked."""
    run, task = tmp_path / "run", f"{ACTING}{name}-v0"
    assert train(task, run, *flags) == 0
    assert main(["train", "--resume", str(run), "--total-steps", "300"]) == 0
    rows = read_metrics(run)
    assert rows[-1]["env_steps"] == 300
    assert all(np.isfinite(row["loss/total"]) for row in rows)
    assert main(["evaluate", str(run), "--episodes=3", "--seeds=1", "--device=cpu", "--workers=0"]) == 0
    output = tmp_path / "episodes.png"
    assert main(["watch", str(run), "--episodes=1", "--output", str(output), "--device=cpu"]) == 0
    assert output.stat().st_size > 1000
    assert main(["report", str(run), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert ("probabilities of the actions" in page) == bool(actions.sizes)
    assert "Observations, actions and value estimates of an episode" in page
    trained = TrainedAgent.load(run)
    recording = record(Scene(task, trained.training.env, 0, max_steps=8), trained)
    assert recording.actions.sizes == actions.sizes
    actor = RolloutActor(actor_config(trained))
    assert trained.agent(actor.spec, torch.device("cpu"), task).actions == actions
    actor.close()


def actor_config(trained: TrainedAgent) -> ActorConfig:
    config = trained.training
    return ActorConfig(config.task, config.env, config.agent, 1, 5, 4, index=0)


def test_random_actions_are_drawn_in_every_kind(tmp_path: Path) -> None:
    for name in ("Steering", "Gamepad", "Masked"):
        picture = tmp_path / f"{name}.png"
        assert main(["envs", "--watch", f"{ACTING}{name}-v0", "--steps=9", "--output", str(picture)]) == 0
        assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("Steering", "", "Box([[ -1. 0. -inf]], [[1. 0.1 inf]], (1, 3), float64): 3 continuous actions"),
        ("MaskedGamepad", "", "MultiDiscrete([3 2]): 3 x 2 actions, masked"),
        ("TellingInfo", "--mask-from-info", "MultiDiscrete([3 2]): 3 x 2 actions, masked"),
    ],
)
def test_an_environment_is_checked_with_actions_that_it_allows(
    name: str, flags: str, said: str, capsys: Capture
) -> None:
    main(["envs", "--check", f"{ACTING}{name}-v0", *flags.split()])
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed
    assert "is masked" not in printed
    assert "one seed shows the same again" in printed


def test_the_rollout_keeps_what_was_drawn_and_the_environment_gets_what_it_can_do(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(f"{ACTING}Wheel-v0", run, "--squash-actions") == 0
    trained = TrainedAgent.load(run)
    actor = RolloutActor(actor_config(trained))
    agent = trained.agent(actor.spec, torch.device("cpu"), "Wheel")
    weights = Weights(1, parameters_to_vector(agent.parameters()).detach().numpy())
    rollout = actor.collect(weights, 0).rollout
    actor.close()
    assert rollout is not None
    assert (rollout.action.shape, rollout.action.dtype) == ((5, 4, 1), np.float32)
    assert rollout.behaviour_logits.shape == (5, 4, 2)
    np.testing.assert_allclose(rollout.reward[1:], (1 + 3 * np.tanh(rollout.action)).sum(axis=2), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("Steering", ["--squash-actions"], r"--squash-actions scales actions to their bounds, but these are .*inf"),
        ("Barred", [], r"Barred-v0 allows no action after step \d+ of stream \d: its action_mask must allow at least"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    name: str, flags: list[str], said: str, tmp_path: Path, capsys: Capture
) -> None:
    assert train(f"{ACTING}{name}-v0", tmp_path / "run", *flags) != 0
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(said, error)
    assert "Traceback" not in error


def test_an_agent_of_other_actions_cannot_play(tmp_path: Path, capsys: Capture) -> None:
    assert train(f"{ACTING}Wheel-v0", tmp_path / "run") == 0
    suite = f"{ACTING}Gamepad-v0"
    command = ["evaluate", str(tmp_path / "run"), "--suite", suite, "--episodes=1", "--seeds=1", "--workers=0"]
    assert main([*command, "--device=cpu"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"cannot play {suite}, which has observations [2] and 3 x 2 actions" in error


@pytest.mark.slow
def test_actors_and_inference_workers_hand_masks_on(tmp_path: Path) -> None:
    task = f"{ACTING}TellingInfo-v0"
    for transport in ("auto", "ray"):
        flags = {"num-actors": 1, "inference": "worker", "transport": transport, "device": "cpu"}
        assert train(task, tmp_path / transport, "--mask-from-info", **flags) == 0
