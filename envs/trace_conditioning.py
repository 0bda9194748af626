"""Trace conditioning: predict a reward from a stimulus that is gone when the reward comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from r2ac.envs.recall import MemoryVector
from r2ac.envs.suite import check_at_least

STIMULUS_STEPS, REWARDED_STEPS = 4, 2
"""Steps that the conditioned stimulus and a distractor last, and the unconditioned stimulus."""
PAUSES = 80, 120
"""The fewest and the most steps from the unconditioned stimulus to the conditioned one of the next trial."""
PERIODS = 10, 100
"""Mean steps from one beginning to the next of the most and the least frequent distractor."""
_AHEAD = 128
"""Steps for which distractors are drawn at once."""


class TraceConditioning(MemoryVector):
    """`num_envs` streams of trials without end, for predictions: actions change nothing, so there is only one.

    A trial with the mean inter-stimulus interval I:

        steps 0..3          the conditioned stimulus
        steps 4..i-1        the trace: neither of the two; i is drawn uniformly from I - 3 I // 10 … I + 3 I // 10
        steps i, i+1        the unconditioned stimulus, and reward 1 in each, paid by the step that leads there
        step i+p            the next trial begins; p is drawn uniformly from 80 … 120

    The first trial of a stream begins p steps after its reset. Beside them, D distractors predict nothing: number k
    begins in each step with probability 1 / P_k, whether it is there or not, and lasts 4 steps; the P_k lie evenly from
    10 to 100. No episode ends (`max_episode_steps` can truncate it).

    Observation: float32 [2 + D], each 0 or 1: conditioned stimulus, unconditioned stimulus, distractors. One action.

    After Rafiee et al. 2023, "From eye-blinks to state construction: diagnostic benchmarks for online representation
    learning". Predictions are scored by `mean_squared_return_error`, with a discount such as 1 - 1 / I.
    """

    def __init__(self, num_envs: int, isi: int = 20, distractors: int = 10) -> None:
        check_at_least("isi", isi, 6, "steps")
        check_at_least("distractors", distractors, 0, "stimuli")
        super().__init__(num_envs, Box(0.0, 1.0, (2 + distractors,), np.float32), 1)
        self._intervals = isi - 3 * isi // 10, isi + 3 * isi // 10
        self._probabilities = 1 / np.linspace(*PERIODS, distractors)
        self._time = 0
        self._begins = np.zeros((num_envs, 2), dtype=np.int64)
        """When both stimuli of the trial begin."""
        self._onsets = np.zeros((STIMULUS_STEPS - 1 + _AHEAD, num_envs, distractors), dtype=bool)
        """Where distractors begin: in the last steps before those for which they are drawn, and in these."""

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins every stream anew, or the trials of those of `options["reset_mask"]`; a `seed` goes to `seed_streams`,
        None keeps the generators as they are."""
        if seed is not None or not self._generators:
            self.seed_streams(seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self._time = 0
            self._onsets[:] = False
            self._draw_distractors()
        self._begin_trials(np.arange(self.num_envs) if mask is None else np.flatnonzero(mask), self._time)
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._time += 1
        if self._time % _AHEAD == 0:
            self._draw_distractors()
        over = np.flatnonzero(self._time - self._begins[:, 1] == REWARDED_STEPS)
        self._begin_trials(over, self._time - REWARDED_STEPS)
        observation = self._observe()
        reward = observation[:, 1].astype(np.float64)
        never = np.zeros(self.num_envs, dtype=bool)
        return observation, reward, never, never.copy(), {}

    def _begin_trials(self, streams: np.ndarray, after: int) -> None:
        """Draws the next trials of the streams, whose pause begins at the time ``after``."""
        fewest, most = PAUSES
        shortest, longest = self._intervals
        for stream in streams.tolist():
            generator = self._generators[stream]
            first = after + generator.integers(fewest, most + 1)
            self._begins[stream] = first, first + generator.integers(shortest, longest + 1)

    def _draw_distractors(self) -> None:
        kept = STIMULUS_STEPS - 1
        self._onsets[:kept] = self._onsets[_AHEAD:]
        for stream, generator in enumerate(self._generators):
            drawn = generator.random((_AHEAD, len(self._probabilities)))
            self._onsets[kept:, stream] = drawn < self._probabilities

    def _observe(self) -> np.ndarray:
        """float32 [N,features]."""
        since = self._time - self._begins
        shown = (since >= 0) & (since < (STIMULUS_STEPS, REWARDED_STEPS))
        row = self._time % _AHEAD
        distractors = self._onsets[row : row + STIMULUS_STEPS].any(axis=0)
        return np.concatenate([shown, distractors], axis=1).astype(np.float32)


def mean_squared_return_error(
    values: np.ndarray, rewards: np.ndarray, discount: float, neglected: float = 1e-3
) -> float:
    """The mean of (V_t - G_t)^2 over steps and streams, with G_t = r_t + discount * G_(t+1) summed after the fact.

    values, rewards: float [T,N]; rewards[t] is what step t paid, for which values[t] was predicted before it.
    neglected: the last steps, where the end of the rewards cuts off more than this share of the discounted future, are
        not scored.

    Raises ValueError where no step is left.
    """
    scored = discount ** np.arange(len(rewards), 0, -1) <= neglected
    if not scored.any():
        raise ValueError(f"{len(rewards)} steps are too few to score predictions with a discount of {discount}")
    returns = np.zeros_like(rewards, dtype=np.float64)
    following = np.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        returns[t] = following = rewards[t] + discount * following
    return float(np.mean((values - returns)[scored] ** 2))
