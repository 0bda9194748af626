"""A Ray cluster of one node that listens on loopback alone and wants a token."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "node-manager-port",
    "object-manager-port",
    "metrics-export-port",
    "ray-client-server-port",
)


@dataclass(frozen=True)
class Cluster:
    address: str
    token: str
    folder: Path
    """Where Ray writes."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at, all of them held until the last is found."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes_of_session(session: int) -> list[int]:
    """The processes that a session leader has started, directly or not."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[Cluster]:
    folder, token = Path(tempfile.mkdtemp(prefix="r2ac-")), secrets.token_hex(16)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}", "--num-cpus=2"]
    command += ["--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        # A job's command finds the interpreter by its name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # Without it Ray takes an address that other machines reach.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    cluster = Cluster(f"http://127.0.0.1:{ports['dashboard-port']}", token, folder)
    with open(folder / "ray-start.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_it_answers(cluster, process)
        yield cluster
    finally:
        # Asked to end, Ray takes half a minute.
        for pid in processes_of_session(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_answers(cluster: Cluster, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            headers = {"Authorization": f"Bearer {cluster.token}"}
            if requests.get(f"{cluster.address}/api/version", headers=headers, timeout=5).ok:
                return
        time.sleep(0.2)
    pytest.fail((cluster.folder / "ray-start.log").read_text())


@pytest.fixture
def cluster(started_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, named by the variables that r2ac reads."""
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", started_cluster.token)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", started_cluster.address)
    return started_cluster
