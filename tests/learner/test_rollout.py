"""Rollouts: cutting, joining, and becoming tensors."""

import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2ac.learner import DeviceFeed, Rollout, concatenate

STREAM_FIRST = ("first_state", "stream", "sequence", "weights_version")
NAMES = [field.name for field in fields(Rollout)]


def make_rollout(steps: int = 3, batch: int = 4, first_stream: int = 0, seed: int = 0) -> Rollout[np.ndarray]:
    rng = np.random.default_rng(seed + first_stream)
    return Rollout(
        observation=rng.integers(0, 256, (steps + 1, batch, 2, 5, 6), dtype=np.uint8),
        reward=rng.normal(size=(steps + 1, batch)).astype(np.float32),
        is_first=rng.random((steps + 1, batch)) < 0.3,
        action=rng.integers(0, 7, (steps, batch)),
        behaviour_logits=rng.normal(size=(steps, batch, 7)).astype(np.float32),
        first_state=rng.normal(size=(batch, 9)).astype(np.float32),
        stream=np.arange(first_stream, first_stream + batch),
        sequence=rng.integers(0, 50, batch),
        weights_version=rng.integers(0, 50, batch),
        instruction=rng.integers(0, 40, (steps + 1, batch, 3), dtype=np.int32),
        truncated=rng.random((steps, batch)) < 0.3,
        final_observation=rng.integers(0, 256, (steps, batch, 2, 5, 6), dtype=np.uint8),
        action_mask=rng.random((steps + 1, batch, 7)) < 0.7,
    )


def to_torch(rollout: Rollout[np.ndarray]) -> Rollout[torch.Tensor]:
    return Rollout(**DeviceFeed(torch.device("cpu"))(rollout.arrays()))


def assert_equal(one: Rollout[np.ndarray], other: Rollout[np.ndarray]) -> None:
    for name in NAMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype


@given(steps=st.integers(1, 4), batch=st.integers(1, 6), ends=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_columns_are_the_streams_and_views(steps: int, batch: int, ends: tuple[int, int]) -> None:
    start, stop = (min(end, batch) for end in sorted(ends))
    rollout = make_rollout(steps, batch)
    part = rollout.columns(start, stop)
    assert (rollout.length, rollout.batch_size) == (steps, batch)
    assert (part.length, part.batch_size) == (steps, stop - start)
    for name in NAMES:
        array, whole = getattr(part, name), getattr(rollout, name)
        for i, b in enumerate(range(start, stop)):
            mine, other = (array[i], whole[b]) if name in STREAM_FIRST else (array[:, i], whole[:, b])
            np.testing.assert_array_equal(mine, other)
        if stop > start:
            assert np.shares_memory(array, whole)


@given(steps=st.integers(1, 4), widths=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_what_is_joined_comes_apart_again(steps: int, widths: list[int]) -> None:
    starts = np.cumsum([0, *widths])
    parts = [make_rollout(steps, width, int(start)) for start, width in zip(starts, widths, strict=False)]
    whole = concatenate(parts)
    assert whole.stream.tolist() == list(range(sum(widths)))
    assert whole.batch_size == sum(widths)
    for part, start, stop in zip(parts, starts, starts[1:], strict=False):
        assert_equal(whole.columns(int(start), int(stop)), part)


def test_columns_are_joined_in_the_order_given() -> None:
    rollout = make_rollout()
    turned = concatenate([rollout.columns(2, 4), rollout.columns(0, 2)])
    assert turned.stream.tolist() == [2, 3, 0, 1]
    np.testing.assert_array_equal(turned.reward, rollout.reward[:, [2, 3, 0, 1]])
    np.testing.assert_array_equal(turned.first_state, rollout.first_state[[2, 3, 0, 1]])


def test_rollouts_of_different_length_are_not_joined() -> None:
    with pytest.raises(ValueError, match="dimension"):
        concatenate([make_rollout(3), make_rollout(4, first_stream=4)])


def test_tensors_have_the_same_values_and_types() -> None:
    rollout = make_rollout()
    tensors = to_torch(rollout)
    for name in NAMES:
        tensor = getattr(tensors, name)
        assert isinstance(tensor, torch.Tensor)
        assert tensor.numpy().dtype == getattr(rollout, name).dtype
        np.testing.assert_array_equal(tensor.numpy(), getattr(rollout, name), err_msg=name)
    assert tensors.length == 3
    assert tensors.columns(1, 3).stream.tolist() == [1, 2]


def test_arrays_that_may_not_be_written_to_are_copied_without_a_warning() -> None:
    """What comes out of Ray's object store is read-only, and so are its columns."""
    rollout = make_rollout()
    kept = make_rollout()
    for name in NAMES:
        getattr(rollout, name).setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = to_torch(rollout)
        part = to_torch(rollout.columns(1, 3))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(whole, name).numpy(), getattr(kept, name))
        np.testing.assert_array_equal(getattr(part, name).numpy(), getattr(kept.columns(1, 3), name))
        getattr(whole, name).zero_()
        getattr(part, name).zero_()
    assert_equal(rollout, kept)
