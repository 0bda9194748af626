"""Engine seeds: training and test never share one, whatever the two base seeds are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from r2ac.envs.suite import Split

HALF = 2**30
"""Training seeds lie in [0, HALF), test seeds in [HALF, 2 * HALF): every engine takes a non-negative int32."""


def engine_seeds(seed: int, split: Split, count: int) -> list[int]:
    """`count` distinct engine seeds for a base seed (an int >= 0 of any size).

    They are drawn by numpy's SeedSequence(seed) in the split's half of the range, in an order that does not depend on
    `count`: stream i has the same seed however many streams stand beside it.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(int(split == "test"),))
    offset = HALF if split == "test" else 0
    drawn = count
    while True:
        words = sequence.generate_state(drawn, np.uint64) % HALF
        distinct = list(dict.fromkeys(words.tolist()))
        if len(distinct) >= count:
            return [offset + word for word in distinct[:count]]
        drawn *= 2


class SeedFirstReset(VectorWrapper):
    """Seeds the first `reset()` with one seed a stream; a reset with a seed of its own is passed on as it is."""

    def __init__(self, env: VectorEnv, seeds: Sequence[int]) -> None:
        super().__init__(env)
        self._seeds: Any = np.asarray(seeds, dtype=np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        first, self._seeds = self._seeds, None
        return self.env.reset(seed=first if seed is None else seed, options=options)
