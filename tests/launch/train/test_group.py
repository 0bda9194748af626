"""Several learners as a user starts them: through Ray, stopped, killed and gone on with in other numbers."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from rich.console import Console
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent
from r2ac.launch.cli import main
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.settings.presets import preset
from r2ac.launch.train.learn import share_of
from r2ac.launch.train.train import train
from r2ac.learner.checkpoint import Checkpoint, load_checkpoint
from tests.processes import is_loopback, listening_addresses, processes_below, ray_processes, wait_until

StartTiny = Callable[..., "subprocess.Popen[str]"]
TWO: dict[str, object] = {"--num-learners": 2, "--num-actors": 2, "--streams-per-actor": 4}
ENDLESS: dict[str, object] = {"--total-steps": 10**12, "--log-steps": 200}
# Of the fixture: 5 steps of 8 streams, 4 at each of two learners.
STEPS_OF_UPDATE = 40
PATIENCE = 200


def newest(run: Path) -> Checkpoint:
    return load_checkpoint(find_checkpoint(run))


def lines(run: Path) -> list[str]:
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(run: Path, count: int, process: "subprocess.Popen[str]") -> None:
    wait_until(lambda: len(lines(run)) >= count, process, PATIENCE)


def check_counts(run: Path) -> None:
    """Every step is counted once, over all resumes and numbers of learners."""
    rows = read_metrics(run)
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(set(steps))
    assert all(row["updates"] == row["env_steps"] / STEPS_OF_UPDATE for row in rows)
    assert all(row["learner/stream_resets"] == row["throughput/actor_restarts"] == 0 for row in rows)
    counters = newest(run).counters
    assert counters["updates"] == counters["env_steps"] / STEPS_OF_UPDATE


@pytest.mark.slow
def test_two_learners_stopped_and_gone_on_with_by_one(start_tiny: StartTiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # In phase: every episode is a whole one, so that episodes count the steps.
    process = start_tiny(run, {**TWO, **ENDLESS, "--no-stagger-streams": None})
    wait_for_lines(run, 4, process)
    processes = processes_below(process.pid)
    assert len(ray_processes("LearnerProcess", process.pid)) == 2
    addresses = listening_addresses([process.pid, *processes])
    assert addresses
    assert [address for address in addresses if not is_loopback(address)] == []
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert "Traceback" not in errors
    assert f"r2ac train --resume {run}" in output
    check_counts(run)
    stopped, rows = newest(run), read_metrics(run)
    steps = int(stopped.counters["env_steps"])
    assert rows[-1]["env_steps"] == steps
    # Corridor 4: episodes of 5 steps, so that all learners' are there if all their steps are. Those of rollouts that
    # wait for their turn, two of each actor at most, are told already.
    waiting = 2 * 2 * 4
    for row, episodes in zip(rows, accumulate(row["episodes"] for row in rows), strict=True):
        assert row["episode_length"] == 5.0
        assert 0 <= episodes - row["env_steps"] / 5 <= waiting
    assert {"policy_lag/p95", "loss/total", "throughput/learner_wait", "normalised_return"} <= rows[-1].keys()
    # The weights are those of any run: one learner in one process goes on.
    alone = ["--num-learners", "0", "--num-actors", "0", "--streams-per-actor", "8"]
    assert main(["train", "--resume", str(run), "--total-steps", str(steps + 2000), *alone]) == 0
    check_counts(run)
    ended = newest(run)
    assert ended.counters["env_steps"] == steps + 2000
    assert ended.counters["wall_time"] > stopped.counters["wall_time"]


@pytest.mark.slow
def test_a_learner_is_killed_and_another_number_goes_on(start_tiny: StartTiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_tiny(run, {**TWO, **ENDLESS})
    wait_for_lines(run, 3, process)
    learners = ray_processes("LearnerProcess", process.pid)
    assert len(learners) == 2
    os.kill(learners[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    (told,) = [line for line in errors.splitlines() if line.startswith("r2ac: ")]
    assert "of 2 died" in told
    assert f"r2ac train --resume {run}" in told
    assert "Traceback" not in errors
    steps, kept = int(newest(run).counters["env_steps"]), lines(run)
    flags = ["--total-steps", str(steps + 2000), "--num-learners", "1"]
    assert main(["train", "--resume", str(run), *flags]) == 0
    check_counts(run)
    assert newest(run).counters["env_steps"] == steps + 2000
    assert json.loads((run / "config.json").read_text())["num_learners"] == 1
    assert len(lines(run)) > len([line for line in kept if json.loads(line)["env_steps"] <= steps])


@pytest.mark.slow
def test_a_supervised_training_outlives_its_learners(start_tiny: StartTiny, tmp_path: Path) -> None:
    """One is killed; one gets SIGTERM, as when its node is taken away, and lets all save. They learn on-policy."""
    run = tmp_path / "run"
    often: dict[str, object] = {"--max-failures": 2, "--checkpoint-minutes": 0.01}
    process = start_tiny(run, {**TWO, **ENDLESS, **often, "--algorithm": "ppo", "--n-epochs": 2})
    for restarts, number in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
        wait_for_lines(run, 3, process)
        os.kill(ray_processes("LearnerProcess", process.pid)[1], number)
        has_restarted = f'"throughput/restarts": {restarts}'
        wait_until(lambda words=has_restarted: any(words in line for line in lines(run)[-1:]), process, PATIENCE)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, errors
    told = [line for line in errors.splitlines() if line.startswith("r2ac: ")]
    assert len(told) == 4, errors
    assert "restart 1 of 2" in told[1]
    assert "SIGTERM" in told[2]
    assert "--resume" not in told[2]
    (saved,) = re.findall(r"by step ([\d,]+)", told[2])
    assert f"goes on from step {saved} " in told[3], "nothing that was learned is lost"
    assert newest(run).counters["restarts"] == 2
    check_counts(run)
    total = int(newest(run).counters["env_steps"]) + 2000
    assert main(["train", "--resume", str(run), "--total-steps", str(total), "--max-failures", "0"]) == 0
    assert newest(run).counters["env_steps"] == total
    check_counts(run)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray cluster of two nodes on loopback, each with room for one learner and its actor."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=2, include_dashboard=False)
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes.address
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.slow
def test_in_a_cluster_that_was_joined(cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rollouts through Ray, learners that meet on a port."""
    tiny = preset("memory/tmaze", algorithm="vtrace")
    config = replace(
        tiny,
        agent=replace(tiny.agent, hidden_size=8),
        **{"num_learners": 2, "num_actors": 2, "streams_per_actor": 4, "batch_size": 8, "rollout_length": 5},
        **{"total_steps": 800, "log_steps": 400, "ray_address": cluster},
    )
    assert train(config, tmp_path / "run", True, Console(quiet=True)) == 0
    assert [line["env_steps"] for line in read_metrics(tmp_path / "run")] == [400, 800]
    check_counts(tmp_path / "run")
    # The cluster stays, but has no room for GPUs that it lacks.
    flags = ["--num-learners", "2", "--num-actors", "2", "--device", "cuda", "--run-dir", str(tmp_path / "other")]
    assert main(["train", "memory/tmaze", *flags]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "--num-learners is 2" in told
    assert "1 GPU" in told
    assert "0 GPUs" in told
    assert "--device cpu" in told
    assert not (tmp_path / "other").exists()


def test_a_share_is_an_equal_part() -> None:
    config = replace(
        preset("memory/tmaze", algorithm="vtrace"), num_learners=2, num_actors=6, batch_size=64, learner_threads=3
    )
    share = share_of(config)
    assert (share.num_actors, share.batch_size, share.learner_threads, share.num_streams) == (3, 32, 3, 192)
    assert share_of(replace(config, learner_threads=0)).learner_threads >= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-learners", "-1"], ["--num-learners is -1", "at least 0"]),
        (["--num-learners", "2", "--num-actors", "3"], ["--num-actors is 3", "multiple of --num-learners (2)"]),
        (["--num-learners", "2", "--num-actors", "0"], ["--num-actors is 0", "multiple"]),
        (
            ["--num-learners", "2", "--num-actors", "2", "--algorithm", "vtrace", "--batch-size", "33"],
            ["--batch-size is 33", "multiple"],
        ),
        (["--num-learners", "1", "--num-actors", "1", "--device", "cuda:1"], ["--device is cuda:1", "auto, cpu or"]),
    ],
)
def test_shares_that_are_not_equal_are_refused(
    flags: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "memory/tmaze", *flags, "--run-dir", str(tmp_path / "run")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert all(word in told for word in words)
    assert not (tmp_path / "run").exists()


def test_the_shares_of_actors_differ_in_their_episodes_and_not_in_the_numbers_of_their_streams() -> None:
    config = preset("memory/tmaze", algorithm="vtrace")
    one = ActorConfig("memory/tmaze", config.env, config.agent, 1, 5, 16, index=0)
    actors = [RolloutActor(each) for each in (one, replace(one, index=3, first_index=3))]
    weights = Weights(0, parameters_to_vector(Agent(actors[0].spec, config.agent).parameters()).detach().numpy())
    mine, other = (actor.collect(weights, 0).rollout for actor in actors)
    assert mine is not None
    assert other is not None
    assert mine.stream.tolist() == other.stream.tolist() == list(range(16))
    assert (mine.observation[0] != other.observation[0]).any()
    for actor in actors:
        actor.close()
