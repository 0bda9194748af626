"""Memory for rollouts that several processes see."""

import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from r2ac.agents import DiscreteActions, ObservationSpec
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout, RolloutsHandle, SharedRollouts

VECTORS = RolloutLayout(length=6, num_streams=5, spec=ObservationSpec((4,), DiscreteActions(2)), state_size=3)
IMAGES = RolloutLayout(
    length=2, num_streams=3, spec=ObservationSpec((3, 8, 8), DiscreteActions(7), 5, 11), state_size=0
)
LIMITED = replace(IMAGES, final_observations=True)


@pytest.mark.parametrize("layout", [VECTORS, IMAGES, LIMITED])
def test_shapes_dtypes_and_bytes(layout: RolloutLayout) -> None:
    rollout, steps, streams = layout.empty(), layout.length, layout.num_streams
    expected = {
        "observation": ((steps + 1, streams, *layout.spec.shape), "f4" if layout is VECTORS else "u1"),
        "reward": ((steps + 1, streams), "f4"),
        "is_first": ((steps + 1, streams), "?"),
        "action": ((steps, streams), "i8"),
        "behaviour_logits": ((steps, streams, layout.spec.actions.parameters), "f4"),
        "first_state": ((streams, layout.state_size), "f4"),
        "stream": ((streams,), "i8"),
        "sequence": ((streams,), "i8"),
        "weights_version": ((streams,), "i8"),
    }
    if layout is not VECTORS:
        expected["instruction"] = ((steps + 1, streams, 5), "i4")
    if layout is LIMITED:
        expected["truncated"] = ((steps, streams), "?")
        expected["final_observation"] = ((steps, streams, *layout.spec.shape), "u1")
    arrays = rollout.arrays()
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        name: (shape, np.dtype(dtype)) for name, (shape, dtype) in expected.items()
    }
    rounded = [-(-array.nbytes // 64) * 64 for array in arrays.values()]
    assert layout.nbytes() == sum(rounded)


def test_arrays_do_not_overlap() -> None:
    rollout = replace(VECTORS, final_observations=True).empty()
    for number, array in enumerate(rollout.arrays().values()):
        array[...] = number
    for number, array in enumerate(rollout.arrays().values()):
        assert (array == array.dtype.type(number)).all()


def test_another_process_writes_and_this_one_reads() -> None:
    memory = SharedRollouts.create(VECTORS, slots=2)
    handle = asdict(memory.handle())
    program = f"""
from r2ac.agents import DiscreteActions, ObservationSpec
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutsHandle, RolloutLayout, SharedRollouts
layout = RolloutLayout(6, 5, ObservationSpec((4,), DiscreteActions(2)), 3)
handle = RolloutsHandle({handle["process"]}, {handle["descriptor"]}, layout)
memory = SharedRollouts(handle.layout, handle.open())
memory.slots[0].action[...] = 7
memory.slots[1].reward[2, 3] = 0.5
memory.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert (memory.slots[0].action == 7).all()
    assert memory.slots[1].reward[2, 3] == 0.5
    assert not memory.slots[1].action.any()
    memory.close()
    assert memory.slots[1].reward[2, 3] == 0.5, "rollouts outlive the descriptor"


def test_memory_of_a_process_that_is_gone_cannot_be_attached() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(OSError, match="No such file"):
        RolloutsHandle(ended.pid, 3, VECTORS).open()
