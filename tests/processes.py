"""What tests see of the processes that they start."""

import ipaddress
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_LISTENING = "0A"


def processes_below(pid: int | None = None) -> dict[int, str]:
    """The living processes below this one (None: the test's own), with their command lines."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if state != "Z":
            parents[int(folder.name)], commands[int(folder.name)] = int(parent), command
    top = os.getpid() if pid is None else pid
    found = {top}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: commands[pid] for pid in found - {top}}


def ray_processes(name: str, below: int | None = None) -> list[int]:
    """Those that Ray calls by this name, such as RolloutActor."""
    return sorted(pid for pid, command in processes_below(below).items() if command.startswith(f"ray::{name}"))


def wait_until(holds: Callable[[], bool], process: "subprocess.Popen[Any] | None" = None, seconds: float = 120) -> None:
    """Wait for what the process does; it must still be running when it has done it."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listening_addresses(pids: Iterable[int]) -> list[str]:
    """The addresses on which the processes listen, from /proc/net/tcp and tcp6."""
    sockets = set()
    for pid in pids:
        with suppress(OSError):
            for descriptor in list(Path(f"/proc/{pid}/fd").iterdir()):
                with suppress(OSError):
                    sockets.add(os.readlink(descriptor))
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTENING and f"socket:[{columns[9]}]" in sockets:
                words = bytes.fromhex(columns[1].partition(":")[0])
                # The kernel prints each 32-bit word in the machine's byte order, here little-endian.
                packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                addresses.append(str(ipaddress.ip_address(packed)))
    return addresses


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
