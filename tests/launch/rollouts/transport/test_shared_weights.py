"""Shared weights: the newest is read whole, by any process of the machine."""

import subprocess
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights, Weights


def weights(version: int, size: int) -> Weights:
    return Weights(version, np.full(size, version, dtype=np.float32))


def test_the_newest_is_read_and_older_copies_stay_as_they_are() -> None:
    shared = SharedWeights.create(5)
    reader = SharedWeights(shared.handle().open())
    assert reader.newest() is None
    first = None
    for version in range(8):
        shared.publish(weights(version, 5))
        newest = reader.newest()
        assert newest is not None
        first = first or newest
        assert newest.version == version
        np.testing.assert_array_equal(newest.values, np.full(5, version))
        assert reader.newest() is newest, "what has not changed is not copied again"
    assert first is not None
    np.testing.assert_array_equal(first.values, np.zeros(5))
    reader.close()
    shared.close()


def test_another_process_reads_it() -> None:
    shared = SharedWeights.create(3)
    shared.publish(weights(4, 3))
    program = f"""
from r2ac.launch.rollouts.transport.shared_memory import MemoryHandle
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights
newest = SharedWeights(MemoryHandle(**{asdict(shared.handle())}).open()).newest()
print(newest.version, newest.values.tolist())
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "4 [4.0, 4.0, 4.0]"
    shared.close()


@pytest.mark.parametrize("size", [1000, 300_000])
def test_a_copy_is_never_of_two_versions(size: int) -> None:
    shared = SharedWeights.create(size)
    shared.publish(weights(0, size))
    ended = threading.Event()

    def write() -> None:
        version = 1
        while not ended.is_set():
            shared.publish(weights(version, size))
            version += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reader, last = SharedWeights(shared.handle().open()), -1
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
    shared.close()


def test_weights_of_a_process_that_is_gone_cannot_be_attached() -> None:
    shared = SharedWeights.create(3)
    handle = shared.handle()
    shared.close()
    with pytest.raises(OSError, match="No such file"):
        SharedWeights(handle.open())


def test_weights_are_loaded_without_a_parameter_being_moved() -> None:
    """cuDNN reads the weights of an LSTM from one piece of memory, of which they are parts."""
    spec = ObservationSpec((3,), DiscreteActions(4), instruction_length=2, instruction_ids=9)
    agents = [Agent(spec, AgentConfig(hidden_size=5, encoder_features=6)) for _ in range(2)]
    learned, acting = (list(agent.parameters()) for agent in agents)
    places = [parameter.data_ptr() for parameter in acting]
    values = parameters_to_vector(learned).detach().numpy()
    values.flags.writeable = False  # as what came through Ray
    Weights(1, values).load_into(agents[1])
    assert [parameter.data_ptr() for parameter in acting] == places
    for mine, other in zip(acting, learned, strict=True):
        assert torch.equal(mine, other)
    assert all(parameter.requires_grad for parameter in acting)
