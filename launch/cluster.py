"""Ray, started on this machine or joined."""

from __future__ import annotations

import logging
import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

from r2ac.launch.process import available_cores


class ConnectionFailed(RuntimeError):
    """There is no cluster at the address given."""


@dataclass(frozen=True)
class Connection:
    """A process's connection to Ray."""

    ray: Any
    """The module, connected."""
    owned: bool
    """Whether it was made here: what runs inside Ray already leaves Ray as it is."""

    def close(self) -> None:
        """Leave Ray, and end it where it was started here."""
        if self.owned:
            self.ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise ConnectionFailed at once where nobody listens at host:port; Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        reason = error.strerror or error
        raise ConnectionFailed(f"there is no Ray cluster at --ray-address {address}: {reason}") from error


def connect(address: str, num_actors: int) -> Connection:
    """Start Ray on this machine ("local": it listens on loopback only) or join the cluster at ``address``. A process
    that is connected already, such as a learner among several, stays where it is.

    Args:
        address: "local", "auto" or the address of a cluster's head, such as 127.0.0.1:6379.
        num_actors: how many actors Ray must be able to hold; a local Ray holds more than there are cores if need be.

    Raises:
        ConnectionFailed: if there is no cluster at ``address``, it has too few CPUs, or Ray cannot be started here.
    """
    running = sys.modules.get("ray")
    if running is not None and running.is_initialized():
        return Connection(running, owned=False)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would else announce on every start that accelerators stay visible to tasks that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address != "local":
        _require_listener(address)
        import ray

        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except (ConnectionError, ValueError) as error:
            raise ConnectionFailed(f"there is no Ray cluster at --ray-address {address}: {error}") from error
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < num_actors:
            ray.shutdown()
            raise ConnectionFailed(
                f"the Ray cluster at {address} has {cpus} CPUs, but each of the {num_actors} processes needs one"
            )
        return Connection(ray, owned=True)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # On a machine that is busy a process may take long to start; one that is late is waited for in vain.
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
    # Despite its name this holds on Linux too: without clusters Ray takes 127.0.0.1 as the node's address and listens
    # there alone. An address given to ray.init would be resolved to one that other machines reach.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=max(available_cores(), num_actors),
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # Ray raises nothing narrower where its services do not come up in time.
        raise ConnectionFailed(f"Ray could not be started on this machine: {' '.join(str(error).split())}") from error
    return Connection(ray, owned=True)
