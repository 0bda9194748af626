"""Folders at URLs, and who may write there."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from r2ac.envs import MissingPackage
from r2ac.launch.runs.mirror import Lease
from r2ac.launch.runs.storage import StorageError, StorageUnavailable, Store
from r2ac.launch.settings.places import is_url


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield f"file://{tmp_path}/a run/x" if request.param == "file" else "memory://bucket/runs/x"
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def test_files_go_there_and_come_back(url: str, tmp_path: Path) -> None:
    store, local = Store(url), tmp_path / "local"
    assert (store.name, store.files(), store.read("config.json")) == ("x", {}, None)
    local.write_bytes(b"\x00weights" * 1000)
    store.write("checkpoints/step_000000000001.safetensors", local)
    store.write("config.json", b'{"seed": 1}\n')
    assert store.read_json("config.json") == {"seed": 1}
    before = store.files()
    assert set(before) == {"config.json", "checkpoints/step_000000000001.safetensors"}
    store.get("checkpoints/step_000000000001.safetensors", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == local.read_bytes()
    store.write("config.json", b'{"seed": 23}\n')
    after = Store(url).files()
    assert {name for name in before if after[name] != before[name]} == {"config.json"}
    store.remove("config.json")
    store.remove("config.json")
    assert set(store.files()) == {"checkpoints/step_000000000001.safetensors"}


def test_a_file_that_is_replaced_is_never_there_in_part(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/run")
    store.write("config.json", b"old")
    with pytest.raises(StorageUnavailable, match=r"there is no .*nowhere"):
        store.write("config.json", tmp_path / "nowhere")
    assert store.read("config.json") == b"old"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_names_that_lead_out_of_the_folder_are_not_seen() -> None:
    files = fsspec.filesystem("memory")
    for path in ("/bucket/run/config.json", "/bucket/run/../../etc/passwd", "/bucket/run//absolute"):
        files.store[path] = files.open("/bucket/seed", "wb")
        files.store[path].close()
    try:
        assert set(Store("memory://bucket/run").files()) == {"config.json"}
    finally:
        files.store.clear()


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("s3://bucket/runs/a", MissingPackage, "s3fs"),
        ("gs://bucket/runs/a", MissingPackage, "gcsfs"),
        ("nope://bucket/a", StorageError, "Protocol not known: nope"),
        ("file:///", StorageError, "a folder of its own"),
    ],
)
def test_urls_that_cannot_be_used(
    url: str, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(error, match=words) as caught:
        Store(url)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def test_urls_are_told_from_paths() -> None:
    assert all(map(is_url, ("s3://b/x", "file:///x", "memory://x", "abfs+x://y")))
    assert not any(map(is_url, ("runs/a", "/mnt/s3/x", "C:/x", "a b://c", "./x://y")))


@pytest.fixture
def lease(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], Lease]:
    """lease(token, now) of a copy at a time."""
    monkeypatch.setattr(Lease, "settle_seconds", 0)
    return lambda token, now: Lease(Store(url), token, lambda: now)


def test_one_process_at_a_time_holds_the_lease(lease: Callable[[str, float], Lease]) -> None:
    first = lease("a", 1000)
    first.acquire()
    assert first.was_last()
    with pytest.raises(StorageError, match=r"in use by process \d+ on .*, heard of 179 s ago; .* 3 minutes"):
        lease("b", 1179).acquire()
    first.renew()
    lease("a", 1599).acquire()  # the same copy, whose lock was free: its holder died
    with pytest.raises(StorageError, match="in use"):
        lease("b", 1700).acquire()
    lease("b", 1599 + 180).acquire()
    assert not first.was_last()
    for action in (first.check, first.renew, first.release):
        with pytest.raises(StorageError, match="written by another process now"):
            action()


@pytest.mark.parametrize("lives", [False, True])
def test_who_is_patient_waits_until_it_is_clear_whether_the_holder_lives(
    lives: bool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "settle_seconds", 0)
    now = [1000.0]
    holder, patient = (Lease(Store(url), token, lambda: now[0]) for token in "ab")
    holder.acquire()

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if lives and now[0] > 1060:
            holder.renew()

    monkeypatch.setattr("r2ac.launch.runs.mirror.time.sleep", sleep)
    if lives:
        with pytest.raises(StorageError, match="in use by"):
            patient.acquire(patient=True)
        assert 1060 < now[0] < 1070
    else:
        patient.acquire(patient=True)
        assert 1180 <= now[0] < 1190
        assert patient.was_last()


def test_a_lease_that_is_given_back_can_be_taken_at_once(lease: Callable[[str, float], Lease]) -> None:
    first, second = lease("a", 1000), lease("b", 1001)
    first.acquire()
    first.release()
    assert first.was_last()
    second.acquire()
    second.forget()
    assert not first.was_last()
    with pytest.raises(StorageUnavailable, match="is gone"):
        second.renew()


def test_of_two_that_come_at_a_time_one_gets_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(url)
    monkeypatch.setattr(Lease, "settle_seconds", 0)
    second = Lease(store, "b")
    # The second writes between the first's look and its second look.
    monkeypatch.setattr("r2ac.launch.runs.mirror.time.sleep", lambda seconds: second._write())
    with pytest.raises(StorageError, match="another process"):
        Lease(store, "a").acquire()
    assert second.was_last()
