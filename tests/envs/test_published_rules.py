"""The memory chain and the copy task beside the published rules, written out again."""

import numpy as np
import pytest

from r2ac.envs import make_vector
from r2ac.envs.memory import MemoryOptions


class OneChain:
    """bsuite's memory chain of one bit: the observation after step k is that of time k - 1."""

    def __init__(self, length: int, bit: int) -> None:
        self.length, self.bit, self.time = length, bit, 0

    def observation(self) -> list[float]:
        """Time left, the number of the bit asked for (of one bit always 0), the bit as -1 or 1."""
        return [1 - self.time / self.length, 0, 2 * self.bit - 1 if self.time == 0 else 0]

    def step(self, action: int) -> tuple[list[float], float, bool]:
        seen, last = self.observation(), self.time == self.length
        self.time += 1
        return seen, (1.0 if action == self.bit else -1.0) if last else 0.0, last


@pytest.mark.parametrize("length", [2, 5, 60])
def test_a_chain_is_bsuite_s_without_its_first_step(length: int) -> None:
    env = make_vector("memory/chain", 4, 0, options=MemoryOptions(chain_length=length))
    seen = env.reset()[0]
    theirs = [OneChain(length, int(bit > 0)) for bit in seen[:, 2]]
    expected = [chain.step(0) for chain in theirs]
    for step in range(1, length + 1):
        np.testing.assert_array_equal(seen[:, [0, 2]], np.float32([each[0] for each in expected])[:, [0, 2]])
        np.testing.assert_array_equal(seen[:, 1], np.full(4, step == length))
        actions = np.array([0, 1, 0, 1])
        seen, reward, terminated, _, _ = env.step(actions)
        expected = [chain.step(int(action)) for chain, action in zip(theirs, actions, strict=True)]
        np.testing.assert_array_equal(reward, [each[1] for each in expected])
        np.testing.assert_array_equal(terminated, [each[2] for each in expected])
    assert terminated.all()


def test_a_chain_of_8192_steps() -> None:
    env = make_vector("memory/chain", 4, 0, options=MemoryOptions(chain_length=8192))
    bits = env.reset()[0][:, 2]
    for _ in range(8191):
        seen, reward, terminated, _, _ = env.step(np.zeros(4, dtype=int))
        assert not reward.any()
        assert not terminated.any()
    np.testing.assert_array_equal(seen, np.tile(np.float32([1 / 8192, 1, 0]), (4, 1)))
    _, reward, terminated, _, _ = env.step((bits > 0).astype(int) ^ [0, 0, 1, 1])
    assert reward.tolist() == [1, 1, -1, -1]
    assert terminated.all()


def test_the_copy_task_of_bits_labels_what_was_shown_and_a_counter_scores_chance() -> None:
    """The input is a pattern of bits, then as many markers; the labels of the markers are the pattern."""
    length, streams = 50, 400
    env = make_vector("memory/copy", streams, 0, options=MemoryOptions(symbols=2, sequence_length=length))
    seen, inputs, paid = env.reset()[0], [], []
    counter = np.random.default_rng(0).integers(2, size=2 * length)
    for step in range(2 * length):
        inputs.append(seen)
        actions = np.full(streams, counter[step])
        actions[::2] = inputs[max(step - length, 0)][::2, 1].astype(int)
        seen, reward, terminated, _, _ = env.step(actions)
        paid.append(reward)
    assert terminated.all()
    pattern, markers = np.array(inputs[:length]), np.array(inputs[length:])
    assert (pattern[:, :, :2].sum(axis=2) == 1).all()
    np.testing.assert_array_equal(markers, np.broadcast_to([0, 0, 1], markers.shape))
    returns = np.array(paid).sum(axis=0)
    assert (returns[::2] == length).all()
    labels = pattern[:, :, 1]
    np.testing.assert_array_equal(returns[1::2], (labels == counter[length:, None]).sum(axis=0)[1::2])
    assert abs(returns[1::2].mean() - length / 2) < 1
