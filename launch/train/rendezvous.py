"""Where the processes of several learners find one another, and on which network they talk."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import FileStore, Store, TCPStore

LOOPBACK = "127.0.0.1"
_START = timedelta(minutes=5)
"""How long a learner tries to reach the first one."""
_SIOCGIFADDR = 0x8915  # of linux/sockios.h: the address of an interface


@dataclass(frozen=True)
class FileRendezvous:
    """In a file, which nobody but this user can read: for learners on one machine, which then talk on loopback."""

    path: Path
    address = LOOPBACK

    def join(self, size: int) -> Store:
        return FileStore(str(self.path), size)


@dataclass(frozen=True)
class TcpRendezvous:
    """At the first learner, on a cluster's network, where the machine of the learner that joins has ``address``."""

    host: str
    port: int
    address: str

    def join(self, size: int) -> Store:
        return TCPStore(self.host, self.port, size, is_master=False, timeout=_START)


def serve(host: str, size: int) -> TCPStore:
    """A store for ``size`` learners on a free port of this address alone, not of all addresses of the machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen(max(size, 16))
    port = listener.getsockname()[1]
    own = listener.detach()  # the store's from here on
    return TCPStore(host, port, size, is_master=True, timeout=_START, wait_for_workers=False, master_listen_fd=own)


def use_network_of(address: str) -> None:
    """Let torch.distributed talk on the interface with this address alone, if the environment names none."""
    name = interface_of(address)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """The name of the network interface with this IPv4 address; None where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
