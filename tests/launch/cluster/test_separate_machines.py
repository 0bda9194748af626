"""A training on machines that Ray cannot tell from separate ones: each node, started by `ray start`, has a network
namespace of its own and an address there, and is reached through a virtual cable that can be pulled."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from r2ac.launch.cli import main
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the command ip"),
]
R2AC = (sys.executable, "-c", "import sys; from r2ac.launch.cli import main; sys.exit(main())")
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", "--object-store-memory=80000000")
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # A machine out of reach is noticed within seconds; one that is only busy is not.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    # A node that has lost the head ends by itself, which would else take it minutes.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_grpc_client_keepalive_time_ms": "3000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


class Machine:
    """A network namespace with a cable to the others."""

    def __init__(self, namespace: str, address: str) -> None:
        self.namespace, self.address = namespace, address

    def run(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            self._there(command), capture_output=True, text=True, env=self._environment(), timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, command: Sequence[str]) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self._there(command), env=self._environment(), **pipes)

    def pull_cable(self) -> None:
        ip("-n", self.namespace, "link", "set", "cable", "down")

    def runs(self, name: str = "") -> list[int]:
        """The processes whose command line begins so."""
        found = []
        for pid in map(int, ip("netns", "pids", self.namespace).split()):
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_text().startswith(name):
                    found.append(pid)
        return found

    def kill(self, name: str = "") -> int:
        """Kill -9 these; returns how many."""
        for pid in (found := self.runs(name)):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def _there(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *command]

    def _environment(self) -> dict[str, str]:
        # What this process has told its own Ray, such as to stay on loopback, does not hold there.
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {**own, **ENVIRONMENT}


class Network:
    """Machines that reach one another, and that nothing else reaches."""

    def __init__(self) -> None:
        self._prefix = f"r2ac-{os.getpid()}-"
        self._switch = f"{self._prefix}switch"
        self._machines: list[Machine] = []
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")

    def add(self) -> Machine:
        number = len(self._machines) + 1
        machine = Machine(f"{self._prefix}{number}", f"10.77.0.{number}")
        ip("netns", "add", machine.namespace)
        self._machines.append(machine)
        here, port = ("-n", machine.namespace), f"port{number}"
        ip(*here, "link", "add", "cable", "type", "veth", "peer", "name", port, "netns", self._switch)
        ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        ip(*here, "address", "add", f"{machine.address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip(*here, "link", "set", device, "up")
        return machine

    def close(self) -> None:
        for machine in self._machines:
            machine.kill()
        for name in (*(machine.namespace for machine in self._machines), self._switch):
            ip("netns", "delete", name)


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        network = Network()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        yield network
    finally:
        network.close()


@pytest.fixture
def head(network: Network) -> Iterator[Machine]:
    """Of a cluster, with no CPU for actors."""
    machine = network.add()
    address = f"--node-ip-address={machine.address}"
    # Of its own: the last cluster that was started is noted there.
    with tempfile.TemporaryDirectory(prefix="r2ac-", ignore_cleanup_errors=True) as folder:
        machine.run([*RAY, "--head", address, "--port=6379", "--num-cpus=0", f"--temp-dir={folder}"])
        yield machine


def add_node(network: Network, head: Machine) -> Machine:
    machine = network.add()
    machine.run([*RAY, f"--address={head.address}:6379", f"--node-ip-address={machine.address}", "--num-cpus=2"])
    return machine


def wait_for_line(run: Path, training: "subprocess.Popen[str]", holds: Callable[[dict[str, Any]], bool]) -> None:
    """Until the newest line says so."""
    deadline = time.monotonic() + 200
    while True:
        with suppress(RunDirectoryError):
            rows = read_metrics(run)
            if rows and holds(rows[-1]):
                return
        assert training.poll() is None, training.communicate()[0]
        if time.monotonic() > deadline:
            training.terminate()
            pytest.fail(f"{rows[-1]} {training.communicate(timeout=200)[0]}")
        time.sleep(0.2)


def start_training(head: Machine, run: Path, flags: dict[str, object]) -> "subprocess.Popen[str]":
    address, corridor = f"{head.address}:6379", {"corridor-length": 5, "chrono-steps": 15}
    given = {"ray-address": address, "streams-per-actor": 16, "batch-size": 32, **corridor, "run-dir": run, **flags}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return head.start([*R2AC, "train", "memory/tmaze", "--algorithm", "vtrace", *words])


def check_end(run: Path, training: "subprocess.Popen[str]") -> None:
    """Stop it: every step is counted once, and the task is solved."""
    training.send_signal(signal.SIGTERM)
    output, _ = training.communicate(timeout=300)
    assert training.returncode == 128 + signal.SIGTERM, output
    rows = read_metrics(run)
    assert all(row["env_steps"] == row["updates"] * 32 * 10 for row in rows)
    assert [row["env_steps"] for row in rows] == sorted({row["env_steps"] for row in rows})
    assert main(["evaluate", str(run), "--episodes", "100"]) == 0
    (result,) = json.loads((run / "evaluation.json").read_text())["results"]
    assert result["mean_return"] >= 0.95


def test_a_training_outlives_its_machines_and_solves_its_task(head: Machine, network: Network, tmp_path: Path) -> None:
    run, first, second = tmp_path / "run", add_node(network, head), add_node(network, head)
    training = start_training(head, run, {"num-actors": 4, "total-steps": 10**9, "log-steps": 2_000})
    wait_for_line(run, training, lambda row: row["throughput/actors"] == 4)
    assert first.kill("ray::RolloutActor") == 2
    wait_for_line(run, training, lambda row: row["throughput/actor_restarts"] == 2 and row["throughput/actors"] == 4)
    second.pull_cable()
    wait_for_line(run, training, lambda row: row["throughput/actor_restarts"] >= 4 and row["throughput/actors"] == 2)
    first.kill()
    add_node(network, head)
    wait_for_line(run, training, lambda row: row["throughput/actor_restarts"] >= 6 and row["throughput/actors"] == 2)
    wait_for_line(run, training, lambda row: row["env_steps"] >= 400_000)
    check_end(run, training)


@pytest.mark.skipif("R2AC_MACHINE_TESTS" not in os.environ, reason="takes four minutes: make test-machines")
def test_learners_inference_workers_and_driver_die_and_the_task_is_solved(
    head: Machine, network: Network, tmp_path: Path
) -> None:
    run, nodes = tmp_path / "run", [add_node(network, head) for _ in range(4)]
    # A learner fills a node; the others hold two actors and the inference workers of both learners.
    flags = {"num-learners": 2, "learner-threads": 2, "num-actors": 2, "inference": "worker", "inference-workers": 2}
    often = {"max-failures": 9, "checkpoint-minutes": 0.05, "log-steps": 960, "total-steps": 10**9}
    training = start_training(head, run, {**flags, **often})

    def restarted(times: int) -> None:
        wait_for_line(run, training, lambda row: row["throughput/restarts"] == times)

    wait_for_line(run, training, lambda row: row["env_steps"] >= 2_000)
    assert sum(node.kill("ray::RayInferenceWorker") for node in nodes) == 2
    wait_for_line(run, training, lambda row: row["throughput/inference_restarts"] == 2)
    learning = [node for node in nodes if node.runs("ray::LearnerProcess")]
    assert len(learning) == 2
    assert learning[1].kill("ray::LearnerProcess") == 1
    restarted(1)
    (driver,) = children(training.pid)
    os.kill(driver, signal.SIGKILL)
    restarted(2)
    # The others learn from Ray that the first is gone; from the network they would never.
    first = int((run / "run.lock").read_text().split()[1])
    add_node(network, head)
    next(node for node in nodes if first in node.runs("ray::LearnerProcess")).pull_cable()
    restarted(3)
    wait_for_line(run, training, lambda row: row["env_steps"] >= 120_000)
    check_end(run, training)


def children(pid: int) -> list[int]:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(word) for word in " ".join(texts).split()]
