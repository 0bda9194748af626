"""Seeds of engines, which training and test never share, whatever the two base seeds are; generators and phases of
streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.utils.seeding import np_random

from r2ac.envs.suite import Split

HALF = 2**30
"""Training seeds lie in [0, HALF), test seeds in [HALF, 2 * HALF): every engine takes a non-negative int32."""


def engine_seeds(seed: int, split: Split, count: int) -> list[int]:
    """`count` distinct engine seeds for a base seed (an int >= 0 of any size), drawn by numpy's SeedSequence(seed) in
    the split's half of the range: stream i has the same seed whatever the `count`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(split == "test"),))
    offset = HALF if split == "test" else 0
    drawn = count
    while True:
        words = sequence.generate_state(drawn, np.uint64) % HALF
        distinct = list(dict.fromkeys(words.tolist()))
        if len(distinct) >= count:
            return [offset + word for word in distinct[:count]]
        drawn *= 2


def stagger_positions(seed: int, first_stream: int, lengths: Sequence[int]) -> np.ndarray:
    """The step at which to cut the first episode of each stream short, int64 [N], drawn uniformly from 1 … its entry of
    `lengths` (0 where that is 0). It follows from the seed and the stream's number, counted from `first_stream`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(2,))
    words = sequence.generate_state(first_stream + len(lengths), np.uint64)[first_stream:]
    return np.array([int(word) % length + 1 if length else 0 for word, length in zip(words, lengths, strict=True)])


def stream_seeds(seed: int | Sequence[int] | np.ndarray, num_envs: int) -> list[int]:
    """One seed a stream, given as such or as an int s for s, s + 1, ...; raises ValueError where the seeds are not as
    many as the streams."""
    if isinstance(seed, int | np.integer):
        seed = range(int(seed), int(seed) + num_envs)
    if len(seed) != num_envs:
        raise ValueError(f"got {len(seed)} seeds for {num_envs} streams: give one int or one a stream")
    return [int(each) for each in seed]


def stream_generators(seed: int | Sequence[int] | np.ndarray | None, num_envs: int) -> list[np.random.Generator]:
    """A random generator for each stream, of seeds as `stream_seeds` takes them; None draws seeds from the system."""
    seeds = [None] * num_envs if seed is None else stream_seeds(seed, num_envs)
    return [np_random(each)[0] for each in seeds]
