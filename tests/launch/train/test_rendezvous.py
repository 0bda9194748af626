"""Where learners meet: a file on one machine, else a port on the address of one machine alone."""

import os
import threading
from pathlib import Path

import pytest

from r2ac.launch.train.rendezvous import LOOPBACK, FileRendezvous, TcpRendezvous, interface_of, serve, use_network_of


def test_an_interface_is_found_by_its_address() -> None:
    assert interface_of(LOOPBACK) == "lo"
    assert interface_of("203.0.113.77") is None


def test_the_network_of_an_address_is_used_but_for_another_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that it is as it was when the test has ended.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "chosen")
    use_network_of(LOOPBACK)
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("lo", "chosen")


def test_a_store_listens_on_the_address_that_it_was_given_alone() -> None:
    store = serve(LOOPBACK, 2)
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert f"0100007F:{store.port:04X}" in listening
    assert f"00000000:{store.port:04X}" not in listening
    joined = TcpRendezvous(LOOPBACK, store.port, LOOPBACK).join(2)
    joined.set("said", "by the second")
    assert store.get("said") == b"by the second"


def test_learners_of_one_machine_meet_in_a_file(tmp_path: Path) -> None:
    meeting, heard = FileRendezvous(tmp_path / "learners"), list[bytes]()
    first, second = meeting.join(2), meeting.join(2)
    waiting = threading.Thread(target=lambda: heard.append(first.get("said")))
    waiting.start()
    second.set("said", "by the second")
    waiting.join(30)
    assert heard == [b"by the second"]
    assert meeting.address == LOOPBACK
