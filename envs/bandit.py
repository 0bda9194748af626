"""Bandits: find out which arm pays most while pulling."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from gymnasium.spaces import Box

from r2ac.envs.recall import EpisodicVector
from r2ac.envs.suite import ReferenceScores, check_at_least

MOST_STATES = 20_000
"""The best return is computed, in a second, where an agent can be in no more states than these during an episode."""
_Arms = tuple[tuple[int, int], ...]
"""Rewards and failures of each arm that was pulled, sorted: arms differ by these alone."""


class Bandit(EpisodicVector):
    """K arms, pulled H times: each pays 1 with a probability of its own, else 0.

    The probabilities are drawn uniformly from [0, 1) for each episode of H steps. An action pulls an arm.

    Observation: float32 [K + 1]: the arm pulled last, one-hot, and what it paid; all 0 in the first step. Actions: the
    K arms.
    Chance: H / 2. Best: the mean return of the best agent there can be, by dynamic programming over what it has seen
    (see `best_return`); no scores where that takes too long.

    The bandits of Duan et al. 2016, "RL^2: fast reinforcement learning via slow reinforcement learning".
    """

    def __init__(self, num_envs: int, arms: int = 5, pulls: int = 10) -> None:
        check_at_least("arms", arms, 2, "arms")
        check_at_least("pulls", pulls, 1, "steps")
        super().__init__(num_envs, Box(0.0, 1.0, (arms + 1,), np.float32), arms)
        best = best_return(arms, pulls)
        self.scores = None if best is None else ReferenceScores(pulls / 2, best, "chance", "best")
        self.episode_steps = pulls
        self._drawn = np.zeros((num_envs, arms + pulls))
        """The arms' probabilities; then one number a pull, below which an arm's must not lie for it to pay."""
        self._shown = np.zeros((num_envs, arms + 1), dtype=np.float32)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._streams = np.arange(num_envs)

    def begin(self, streams: np.ndarray) -> None:
        for stream in streams.tolist():
            self._generators[stream].random(out=self._drawn[stream])
        self._shown[streams], self._time[streams] = 0, 0

    def observe(self) -> np.ndarray:
        return self._shown.copy()

    def act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arms = self._shown.shape[1] - 1
        paid = self._drawn[self._streams, arms + self._time] < self._drawn[self._streams, actions]
        self._shown[:] = 0
        self._shown[self._streams, actions] = 1
        self._shown[:, arms] = paid
        self._time += 1
        over = self._time == self.episode_steps
        return paid.astype(np.float64), over, np.zeros_like(over)


@lru_cache
def best_return(arms: int, pulls: int) -> float | None:
    """The highest mean return of ``pulls`` pulls of ``arms`` arms with uniform priors, exactly: by backward induction
    over the rewards and failures of the arms. An arm with s rewards and f failures pays with probability
    (s + 1) / (s + f + 2). None where there are more than MOST_STATES states."""
    layers: list[set[_Arms]] = [{()}]
    for _ in range(pulls - 1):
        layers.append({after for state in layers[-1] for _, *both in _pulls(state, arms) for after in both})
        if sum(len(layer) for layer in layers) > MOST_STATES:
            return None
    value: dict[_Arms, float] = {}
    for layer in reversed(layers):
        value = {
            state: max(
                chance * (1 + value.get(paid, 0.0)) + (1 - chance) * value.get(failed, 0.0)
                for chance, paid, failed in _pulls(state, arms)
            )
            for state in layer
        }
    return value[()]


def _pulls(state: _Arms, arms: int) -> Iterator[tuple[float, _Arms, _Arms]]:
    """Each pull that differs from the others: how probably it pays, and the states after a reward and a failure."""
    if len(state) < arms:
        yield 0.5, tuple(sorted((*state, (1, 0)))), tuple(sorted((*state, (0, 1))))
    for i, (s, f) in enumerate(state):
        if i == 0 or state[i - 1] != (s, f):
            rest = state[:i] + state[i + 1 :]
            yield (s + 1) / (s + f + 2), tuple(sorted((*rest, (s + 1, f)))), tuple(sorted((*rest, (s, f + 1))))
