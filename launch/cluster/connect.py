"""Ray, started on this machine or joined, and what a cluster has."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from r2ac.launch.runtime.process import available_cores

# Despite its name this holds on Linux too: with 0 Ray takes 127.0.0.1 as the node's address and listens there alone. It
# is read when Ray is imported first.
_LOOPBACK_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_LOOPBACK = ("127.0.0.1", "localhost")
_STATUS_KEY = "__autoscaling_status"
_TOKEN_REMEDY = "RAY_AUTH_TOKEN, or a file named by RAY_AUTH_TOKEN_PATH or at ~/.ray/auth_token, must hold its token"


class ConnectionFailed(RuntimeError):
    """There is no cluster at the address given, or it has not what was asked for."""


@dataclass(frozen=True)
class Connection:
    """A process's connection to Ray."""

    ray: Any
    """The module, connected."""
    owned: bool
    """Whether it was made here and not by the Ray task that this process is."""

    def close(self) -> None:
        """Leave Ray, and end it where it was started here."""
        if self.owned:
            self.ray.shutdown()


def connect(address: str, num_actors: int) -> Connection:
    """Start Ray on this machine ("local", on loopback only), or join the cluster at ``address``: "auto", or its head's,
    such as 127.0.0.1:6379. A process that is connected already, such as a task of a sweep, keeps its connection.

    Raises ConnectionFailed where Ray cannot be started or joined, or the cluster has fewer CPUs than ``num_actors`` and
    no autoscaler; a local Ray holds so many actors whatever the number of cores.
    """
    running = sys.modules.get("ray")
    if running is not None and running.is_initialized():
        return Connection(running, owned=False)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would else announce on every start that accelerators stay visible to tasks that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return Connection(_start(num_actors) if address == "local" else _join(address, num_actors), owned=True)


def require_gpus(ray: Any, what: str, number: int = 1) -> None:
    """Raise ConnectionFailed for a cluster without the GPUs that ``what``, a flag, asks for, and no autoscaler."""
    have = int(ray.cluster_resources().get("GPU", 0))
    if have < number and not grows(ray):
        nodes = sum(node["Alive"] for node in ray.nodes())
        raise ConnectionFailed(
            f"{what} needs {number} GPU{'s' if number > 1 else ''}, but the Ray cluster has {have or 'none'} on its "
            f"{nodes} node{'s' if nodes > 1 else ''}"
        )


def gpu_share(gpus: float, processes: int) -> float:
    """The part of a GPU that each process gets so that all of them run, in Ray's units of 1e-4."""
    return math.floor(1e4 / math.ceil(processes / max(1, int(gpus)))) / 1e4


def grows(ray: Any) -> bool:
    """Whether the cluster has an autoscaler; True where Ray's status does not show it."""
    from ray.experimental.internal_kv import _internal_kv_get

    status: dict[str, Any] = {}
    # Ray keeps what `ray status` shows there; its form is no promise, and a cluster that has just begun has none.
    with suppress(Exception):
        status = json.loads(_internal_kv_get(_STATUS_KEY))["autoscaler_report"]
    kinds = status.get("node_type_mapping")
    # Without an autoscaler Ray makes each node a kind of its own.
    return not kinds or any(kind != f"node_{node}" for node, kind in kinds.items())


def installed_version() -> str:
    """Of this package, here."""
    try:
        return version("r2ac")
    except PackageNotFoundError:
        return "unknown"


def _start(num_actors: int) -> Any:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # On a busy machine a process may take long to start, and Ray never uses one that comes too late.
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "240")
    # An address given to ray.init would be resolved to one that other machines reach.
    os.environ[_LOOPBACK_ALONE] = "0"
    import ray

    try:
        with _sighup_blocked():
            cpus = max(available_cores(), num_actors)
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    except Exception as error:  # Ray raises nothing narrower where its services do not come up in time.
        said = " ".join(str(error).split())
        remedy = "try again when the machine is less busy, or without Ray: --num-actors 0"
        raise ConnectionFailed(f"Ray could not be started on this machine ({remedy}): {said}") from error
    return ray


@contextmanager
def _sighup_blocked() -> Iterator[None]:
    """Processes started inside inherit the mask. A closing terminal sends SIGHUP to all processes below it: this one,
    which gets it at the end, needs Ray's to save the run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _join(address: str, num_actors: int) -> Any:
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal():
        # Ray itself would try for minutes.
        reason = _refusal_at(host, int(port))
        if reason is not None:
            raise ConnectionFailed(f"there is no Ray cluster at --ray-address {address}: {reason}")
        if host in _LOOPBACK and _refusal_at(_outer_address(), int(port)) is not None:
            # Else Ray would look for it on the address that other machines reach.
            os.environ[_LOOPBACK_ALONE] = "0"
    import ray

    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        raise ConnectionFailed(_why_refused(address, error)) from error
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < num_actors and not grows(ray):
        ray.shutdown()
        raise ConnectionFailed(
            f"the Ray cluster at {address} has {cpus} CPUs and no autoscaler that adds nodes, but there must be "
            f"{num_actors}, one for each process"
        )
    return ray


def _refusal_at(host: str, port: int) -> str | None:
    """Why a connection to the port fails; None where it succeeds."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _outer_address() -> str:
    """Of this machine in its network, as Ray finds it: nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _why_refused(address: str, error: Exception) -> str:
    """Why the cluster was not joined, in one sentence."""
    where = f"the Ray cluster at --ray-address {address}"
    said = f"{error} {error.__cause__ or ''}"
    if "Version mismatch" in said:
        (ray, own_ray), (python, own_python) = (re.findall(rf"{name}: (\S+)", said) for name in ("Ray", "Python"))
        own = f"Ray {own_ray} on Python {own_python}"
        return f"{where} runs Ray {ray} on Python {python}, this process {own}: both must be the same"
    if "no authentication token" in said:
        return f"there is no token for {where}, which RAY_AUTH_MODE asks for: {_TOKEN_REMEDY}"
    if "AuthToken" in said or "authentication token" in said:
        return f"{where} refuses the token of this process, or that there is none: {_TOKEN_REMEDY}"
    return f"there is no Ray cluster at --ray-address {address}: {' '.join(str(error).split())}"
