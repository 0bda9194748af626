"""Rollout actors on the nodes of a Ray cluster that come and go: who is ordered, what is lost, what is counted."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.cli import main
from r2ac.launch.cluster import connect as cluster
from r2ac.launch.rollouts.failures import ActorsLost
from r2ac.launch.rollouts.transport import links
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.settings.config import TrainConfig
from r2ac.learner import DeviceFeed, Rollout
from tests.launch.rollouts.opened import Opened, opened
from tests.processes import ray_processes, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# A batch needs the rollouts of two actors.
ACTORS, STREAMS, STEPS, BATCH, IN_FLIGHT = 6, 4, 6, 8, 2
AGENT = AgentConfig(hidden_size=5, encoder="none")
SPEC = ObservationSpec((4,), DiscreteActions(2))
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    # Loopback alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A machine that is busy is no node that is lost; a raylet that is gone is told by its connection.
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "60000",
    # Ray's own errors of a cluster that loses nodes are no news here.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


class Nodes:
    """A cluster of Ray nodes on this machine, reachable on loopback alone; its head has no CPU for actors."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self.add(num_cpus=0)
        self.address: str = self._cluster.address

    def add(self, **resources: float) -> Any:
        """A node; returns what `remove` wants."""
        return self._cluster.add_node(
            wait=False,
            node_ip_address="127.0.0.1",
            include_dashboard=False,
            object_store_memory=80_000_000,
            **resources,
        )

    def remove(self, node: Any) -> None:
        """Kill all its processes."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        nodes = Nodes()
        try:
            yield nodes
        finally:
            nodes.close()


def config_at(address: str, **changes: Any) -> TrainConfig[Any]:
    """The settings of actors on the cluster there."""
    config = TrainConfig(
        "memory/tmaze",
        MemoryOptions(corridor_length=3),
        AGENT,
        seed=5,
        rollout_length=STEPS,
        batch_size=BATCH,
        num_actors=ACTORS,
        streams_per_actor=STREAMS,
        rollouts_in_flight=IN_FLIGHT,
        stream_groups=2,
        ray_address=address,
    )
    return replace(config, **changes)


def make_weights(version: int) -> Weights:
    torch.manual_seed(version)
    return Weights(version, parameters_to_vector(Agent(SPEC, AGENT).parameters()).detach().numpy())


class Consumer:
    """Takes batches as the learner does, publishing new weights after each, and checks what comes.

    Args:
        source: of the batches.
        constant: whether the weights are always the same, which inference workers change within a rollout.
    """

    def __init__(self, source: Opened, constant: bool = False) -> None:
        self.source, self.constant = source, constant
        self.version = 0
        self.following = np.zeros(ACTORS * STREAMS, dtype=int)
        self.lost = np.zeros(ACTORS * STREAMS, dtype=int)
        source.publish(self._weights(0))

    def _weights(self, version: int) -> Weights:
        return Weights(version, make_weights(0 if self.constant else version).values)

    def take(self) -> None:
        rollout = self.source.take().rollout
        assert len(set(rollout.stream.tolist())) == rollout.batch_size == BATCH
        gap = rollout.sequence - self.following[rollout.stream]
        assert gap.min() >= 0
        self.lost[rollout.stream] += gap
        self.following[rollout.stream] = rollout.sequence + 1
        for version in set(rollout.weights_version.tolist()):
            check_logits(rollout, rollout.weights_version == version, self._weights(version))
        self.version += 1
        self.source.publish(self._weights(self.version))

    def take_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 400
        while not holds():
            assert time.monotonic() < deadline, f"{what}: {self.source.counts}, {self.lost}"
            self.take()

    def delivered(self) -> list[int]:
        """The actors of which something has come."""
        return [actor for actor, each in enumerate(self.of_actors(self.following)) if max(each) > 0]

    def losers(self) -> dict[int, set[int]]:
        """What the streams of each actor have lost, of those that lost any."""
        return {actor: each for actor, each in enumerate(self.of_actors(self.lost)) if each != {0}}

    def of_actors(self, counts: np.ndarray) -> list[set[int]]:
        """The counts of the streams of each actor."""
        return [set(row) for row in counts.reshape(ACTORS, STREAMS).tolist()]


def check_logits(rollout: Rollout[np.ndarray], columns: np.ndarray, weights: Weights) -> None:
    """These columns are what an agent with ``weights`` says, step after step from the first cell."""
    agent, batch = Agent(SPEC, AGENT), Rollout(**DeviceFeed(torch.device("cpu"))(rollout.arrays()))
    vector_to_parameters(torch.from_numpy(weights.values), agent.parameters())
    chosen = torch.from_numpy(columns)
    cell = batch.first_state[chosen]
    for t in range(rollout.length):
        output = agent.step(batch.observation[t, chosen], batch.reward[t, chosen], batch.is_first[t, chosen], cell)
        cell = output.state
        torch.testing.assert_close(output.logits, batch.behaviour_logits[t, chosen])


def _actors_that_have_a_place_begin_and_the_others_wait(consumer: Consumer) -> None:
    counts = consumer.source.counts
    consumer.take_until(lambda: counts.actors == 4, "four CPUs")
    for _ in range(20):
        consumer.take()
    assert (counts.actors, counts.pending, counts.actor_restarts) == (4, 2, 0)
    assert len(consumer.delivered()) == 4
    assert not consumer.lost.any()


def _the_place_of_a_killed_actor_is_filled(consumer: Consumer) -> None:
    """By one that has waited, or by the killed one's successor: Ray chooses, not always the first in line."""
    counts = consumer.source.counts
    os.kill(ray_processes("RolloutActor")[0], signal.SIGKILL)
    consumer.take_until(lambda: len(consumer.delivered()) == 5 or bool(consumer.lost.any()), "another one begins")
    assert (counts.actors, counts.pending, counts.actor_restarts) == (4, 2, 1)
    assert (len(consumer.delivered()), len(consumer.losers())) in ((5, 0), (4, 1))


def _training_goes_on_without_a_node(consumer: Consumer, nodes: Nodes, workers: dict[str, Any]) -> None:
    counts = consumer.source.counts
    losers = consumer.losers()
    nodes.remove(workers.pop("second"))
    consumer.take_until(lambda: counts.actor_restarts == 3 and counts.actors == 2, "both its actors replaced")
    for _ in range(20):
        consumer.take()
    # Those that take the place of the lost ones wait, and that is no failure.
    assert (counts.actors, counts.pending, counts.actor_restarts) == (2, 4, 3)
    assert consumer.losers() == losers


def _a_node_that_joins_is_used(consumer: Consumer, nodes: Nodes, workers: dict[str, Any]) -> None:
    counts = consumer.source.counts
    workers["third"] = nodes.add(num_cpus=4)
    consumer.take_until(lambda: counts.pending == 0, "all have a place")
    before = consumer.following.copy()
    consumer.take_until(lambda: bool((consumer.following > before).all()), "all deliver")
    assert (counts.actors, counts.actor_restarts) == (ACTORS, 3)
    # What was ordered of an actor when it was lost, and nothing of those that had waited. One may be lost twice.
    lost = consumer.losers()
    assert len(lost) in (2, 3)
    at_most = IN_FLIGHT if len(lost) == 3 else 2 * IN_FLIGHT
    assert all(len(each) == 1 and 1 <= max(each) <= at_most for each in lost.values())


def _what_runs_inside_ray_stays_there(consumer: Consumer) -> None:
    import ray

    connection = cluster.connect("local", num_actors=1)
    connection.close()
    assert not connection.owned
    assert ray.is_initialized()


def _nothing_is_left_of_a_source_that_is_closed(consumer: Consumer) -> None:
    consumer.source.close()
    wait_until(lambda: not ray_processes("RolloutActor"), seconds=60)


def _inference_workers_anywhere_and_a_killed_one(nodes: Nodes) -> None:
    config = config_at(nodes.address, num_actors=4, inference="worker", inference_workers=2)
    with opened(config, SPEC) as source:
        consumer, counts = Consumer(source, constant=True), source.counts
        consumer.take_until(lambda: bool((consumer.following[: 4 * STREAMS] > 1).all()), "all deliver")
        assert not consumer.lost.any()
        os.kill(ray_processes("RayInferenceWorker")[0], signal.SIGKILL)
        consumer.take_until(lambda: counts.inference_restarts == 1 and counts.actor_restarts >= 1, "replaced")
        before = consumer.following.copy()
        consumer.take_until(lambda: bool((consumer.following > before)[: 4 * STREAMS].all()), "all deliver again")
        # The actors of one worker, and only they, lost what they were at.
        assert 1 <= len(consumer.losers()) <= 2
        assert counts.inference_restarts == 1


def _nodes_of_another_version_are_told(nodes: Nodes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "installed_version", lambda: "9.9.9")
        with opened(config_at(nodes.address, num_actors=2), SPEC) as source:
            source.publish(make_weights(0))
            with pytest.raises(ActorsLost, match=r"has r2ac \S+, the learner 9\.9\.9: both must be the same"):
                source.take()


OLD_RAY = "import ray; ray.__version__ = '2.0.0'; "
REFUSED = {
    "version": (OLD_RAY, {}, [], r"runs Ray \S+ on Python \S+, this process Ray 2\.0\.0 on Python \S+: both must be"),
    "token": ("", {"RAY_AUTH_TOKEN": "0" * 64}, [], r"refuses the token of this process.*RAY_AUTH_TOKEN"),
    "CPUs": ("", {}, ["--num-actors", "64", "--batch-size", "512"], r"has \d CPUs and no autoscaler .* must be 8,"),
    "GPUs": (
        "",
        {},
        ["--inference", "worker", "--inference-device", "cuda"],
        r"--inference-device cuda needs 1 GPU, but the Ray cluster has none on its \d nodes",
    ),
}


def _what_a_cluster_cannot_give_is_one_sentence(nodes: Nodes, tmp_path: Path) -> None:
    program = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
    started = {}
    for name, (before, environment, flags, _) in REFUSED.items():
        task = ["train", "memory/tmaze", "--algorithm", "vtrace", "--ray-address", nodes.address]
        task += ["--run-dir", str(tmp_path / name), *flags]
        command = [sys.executable, "-c", before + program, *task]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started[name] = subprocess.Popen(command, env={**os.environ, **environment}, **streams)
    for name, (_, _, _, words) in REFUSED.items():
        _, errors = started[name].communicate(timeout=300)
        told = [line for line in errors.splitlines() if line.startswith("r2ac: ")]
        assert started[name].returncode == 2, errors
        assert len(told) == 1
        assert re.search(words, told[0]), told
        assert "Traceback" not in errors
        assert not (tmp_path / name).exists()


def _a_training_counts_its_steps_whatever_happens(
    nodes: Nodes, workers: dict[str, Any], start_tiny: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    nodes.add(num_cpus=4)
    # More steps than it can take: how fast it is decides nothing.
    flags = {"--num-actors": 6, "--streams-per-actor": 4, "--ray-address": nodes.address, "--total-steps": 10**9}
    run = tmp_path / "run"
    training = start_tiny(run, flags)

    def wait_for_line(holds: Callable[[dict[str, Any]], bool]) -> None:
        wait_until(lambda: any(map(holds, lines_of(run)[-1:])), training, 240)

    wait_for_line(lambda row: row["throughput/actors"] == 6)
    os.kill(ray_processes("RolloutActor")[0], signal.SIGKILL)
    nodes.remove(workers.pop("first"))
    # The killed one and the two of the node, of which it may have been one.
    wait_for_line(lambda row: row["throughput/actor_restarts"] >= 2 and row["learner/stream_resets"] >= 2 * 4)
    training.send_signal(signal.SIGTERM)
    output, errors = training.communicate(timeout=300)
    assert training.returncode == 128 + signal.SIGTERM, errors
    rows = read_metrics(run)
    assert rows[-1]["env_steps"] == rows[-1]["updates"] * 8 * 5
    assert [row["env_steps"] for row in rows] == sorted({row["env_steps"] for row in rows})
    assert "actor restarts" in output
    total = rows[-1]["env_steps"] + 2000
    assert main(["train", "--resume", str(run), "--total-steps", str(total)]) == 0
    last = read_metrics(run)[-1]
    assert last["env_steps"] == last["updates"] * 8 * 5 == total


class LargeThenSmall:
    """Answers as a rollout actor: rollout 0 takes long to be brought to another node, the others do not."""

    def check(self, version: str) -> None:
        pass

    def collect(self, weights: Weights, sequence: int) -> tuple[int, np.ndarray]:
        return sequence, np.zeros(0 if sequence else 50_000_000, dtype=np.uint8)


def test_an_actors_rollouts_come_in_the_order_of_its_orders(nodes: Nodes) -> None:
    node = nodes.add(num_cpus=2)
    connection = cluster.connect(nodes.address, num_actors=2)
    ray = connection.ray

    class Starter(links.ActorStarter):
        def start(self, actor: int, memory: Any) -> Any:
            return ray.remote(LargeThenSmall).options(num_cpus=1).remote()

    try:
        link = links.RayLink(Starter(ray, [None, None], 0, None, None))
        link.publish(make_weights(0))
        while not (link.ready(0) and link.ready(1)):
            assert not link.receive(1)
        for actor, sequence in ((1, 5), (0, 0), (0, 1)):
            link.order(actor, sequence)
        time.sleep(1)  # all answer, and Ray brings what is large only when it is waited for
        arrived: list[tuple[int, int]] = []
        while len(arrived) < 3:
            arrived += [(actor, rollout[0]) for actor, rollout in link.receive(1)]
        assert [sequence for actor, sequence in arrived if actor == 0] == [0, 1]
        link.close()
    finally:
        connection.close()
        nodes.remove(node)


def test_nodes_that_come_and_go(
    nodes: Nodes, start_tiny: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """The life of one cluster, in its order: each part begins with the nodes that the one before has left."""
    workers = {name: nodes.add(num_cpus=2) for name in ("first", "second")}
    with opened(config_at(nodes.address), SPEC) as source:
        consumer = Consumer(source)
        _actors_that_have_a_place_begin_and_the_others_wait(consumer)
        _the_place_of_a_killed_actor_is_filled(consumer)
        _training_goes_on_without_a_node(consumer, nodes, workers)
        _a_node_that_joins_is_used(consumer, nodes, workers)
        _what_runs_inside_ray_stays_there(consumer)
        _nothing_is_left_of_a_source_that_is_closed(consumer)
    _inference_workers_anywhere_and_a_killed_one(nodes)
    _nodes_of_another_version_are_told(nodes)
    _what_a_cluster_cannot_give_is_one_sentence(nodes, tmp_path)
    _a_training_counts_its_steps_whatever_happens(nodes, workers, start_tiny, tmp_path)


def lines_of(run: Path) -> list[dict[str, Any]]:
    """What there is so far."""
    try:
        return read_metrics(run)
    except RunDirectoryError:
        return []
