"""The board of weights: the newest is read whole, by any process of the machine."""

import subprocess
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import pytest

from r2ac.launch.rollouts.inference.policies import Weights
from r2ac.launch.rollouts.transport.shared_weights import WeightsBoard


def weights(version: int, size: int) -> Weights:
    return Weights(version, np.full(size, version, dtype=np.float32))


def test_the_newest_is_read_and_older_copies_stay_as_they_are() -> None:
    board = WeightsBoard.create(5)
    reader = WeightsBoard.attach(board.handle())
    assert reader.newest() is None
    first = None
    for version in range(8):
        board.write(weights(version, 5))
        newest = reader.newest()
        assert newest is not None
        first = first or newest
        assert newest.version == version
        np.testing.assert_array_equal(newest.values, np.full(5, version))
        assert reader.newest() is newest, "what has not changed is not copied again"
    assert first is not None
    np.testing.assert_array_equal(first.values, np.zeros(5))
    reader.close()
    board.close()


def test_another_process_reads_it() -> None:
    board = WeightsBoard.create(3)
    board.write(weights(4, 3))
    program = f"""
from r2ac.launch.rollouts.transport.shared_weights import BoardHandle, WeightsBoard
newest = WeightsBoard.attach(BoardHandle(**{asdict(board.handle())})).newest()
print(newest.version, newest.values.tolist())
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "4 [4.0, 4.0, 4.0]"
    board.close()


@pytest.mark.parametrize("size", [1000, 300_000])
def test_a_copy_is_never_of_two_versions(size: int) -> None:
    board = WeightsBoard.create(size)
    board.write(weights(0, size))
    ended = threading.Event()

    def write() -> None:
        version = 1
        while not ended.is_set():
            board.write(weights(version, size))
            version += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reader, last = WeightsBoard.attach(board.handle()), -1
        deadline = time.monotonic() + 30
        while last < 100 and time.monotonic() < deadline:
            newest = reader.newest()
            assert newest is not None
            assert newest.version >= last
            assert (newest.values == newest.version).all()
            last = newest.version
    finally:
        ended.set()
        writer.join()
    assert last >= 100
    board.close()


def test_a_process_that_is_gone_has_no_board() -> None:
    board = WeightsBoard.create(3)
    handle = board.handle()
    board.close()
    with pytest.raises(OSError, match="No such file"):
        WeightsBoard.attach(handle)
