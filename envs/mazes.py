"""T-mazes in which the agent walks: passive and active (Ni et al. 2023), and endless (Shchendrigin et al. 2026)."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from r2ac.envs.recall import EpisodicVector
from r2ac.envs.suite import ReferenceScores, check_at_least

_RIGHT, _UP, _LEFT, _DOWN = range(4)


def _next_cells(junction: int) -> np.ndarray:
    """Where each action leads from each cell, int64 [cells,4]: the corridor's 0 … junction, the goals above and below
    the junction. Walls stop the agent."""
    above, below = junction + 1, junction + 2
    cells = np.repeat(np.arange(junction + 3)[:, None], 4, axis=1)
    cells[:junction, _RIGHT] += 1
    cells[1 : junction + 1, _LEFT] -= 1
    cells[junction, [_UP, _DOWN]] = above, below
    cells[above, _DOWN] = cells[below, _UP] = junction
    return cells


class WalkedTMaze(EpisodicVector):
    """Walk through a corridor of L steps to a junction, and from there to the goal of the cue.

    The cue, up or down with probability 1/2 each, is shown once: on the first visit to the cell at the corridor's left
    end. The passive maze begins there (``steps_to_cue`` o = 0), the active one a step to the right of it (o = 1). The
    junction is L cells from the beginning. An episode has exactly L + 2 o + 1 steps:

        action t < L + 2 o      moves the agent; reward -1/L where it is behind, less than t + 1 - 2 o cells from the
                                beginning, else 0
        action L + 2 o          the last: reward 1 where the agent is then at the goal of the cue, else 0

    Observation: float32 [2]: 1 at the junction and at both goals, else 0; 1 for up or -1 for down where the cue is
    shown, and at the upper and the lower goal, else 0. Actions: 0 right, 1 up, 2 left, 3 down.
    Chance: that of random actions, nearly -1. An agent that walks right, and does not know the cue, earns 1/2.
    Best: 1.

    The numbers are those of Ni et al. 2023, "When do transformers shine in RL? Decoupling memory from credit
    assignment".
    """

    def __init__(self, num_envs: int, corridor_length: int, steps_to_cue: int) -> None:
        check_at_least("corridor_length", corridor_length, 1, "steps")
        super().__init__(num_envs, Box(-1.0, 1.0, (2,), np.float32), 4)
        self._start, junction = steps_to_cue, steps_to_cue + corridor_length
        self._next = _next_cells(junction)
        self._places = np.minimum(np.arange(junction + 3), junction)
        """How far right each cell lies."""
        self._seen = np.zeros((junction + 3, 2), dtype=np.float32)
        self._seen[junction:] = [[1, 0], [1, 1], [1, -1]]
        self.episode_steps = steps = corridor_length + 2 * steps_to_cue + 1
        self._penalty = -1.0 / corridor_length
        self.scores = ReferenceScores(self._return_of_random_actions(steps), 1.0, "chance", "best")
        self._cell, self._time, self._cue = (np.zeros(num_envs, dtype=np.int64) for _ in range(3))
        self._was_shown, self._is_shown = (np.zeros(num_envs, dtype=bool) for _ in range(2))
        """Whether the cue was shown before, and whether it is now."""

    def begin(self, streams: np.ndarray) -> None:
        drawn = [self._generators[stream].integers(2) for stream in streams.tolist()]
        self._cue[streams] = 1 - 2 * np.array(drawn, dtype=np.int64)
        self._cell[streams], self._time[streams] = self._start, 0
        self._was_shown[streams] = self._is_shown[streams] = self._start == 0

    def observe(self) -> np.ndarray:
        seen = self._seen[self._cell]
        seen[self._is_shown, 1] = self._cue[self._is_shown]
        return seen

    def act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cell = self._cell = self._next[self._cell, actions]
        self._time += 1
        over = self._time == self.episode_steps
        self._is_shown = (cell == 0) & ~self._was_shown
        self._was_shown |= self._is_shown
        late = self._places[cell] < self._time - self._start
        reward = np.where(over, self._seen[cell, 1] == self._cue, np.where(late, self._penalty, 0.0))
        return reward, over, np.zeros_like(over)

    def _return_of_random_actions(self, steps: int) -> float:
        """The mean return, from the probability of each cell step by step. Who is behind stays so, earns the penalty in
        each step but the last, and reaches no goal: only the others are followed."""

        def moved(probability: np.ndarray) -> np.ndarray:
            return np.bincount(self._next.ravel(), np.repeat(probability / 4, 4), len(probability))

        probability = (np.arange(len(self._places)) == self._start).astype(np.float64)
        total = 0.0
        for time in range(1, steps):
            probability = np.where(self._places < time - self._start, 0.0, moved(probability))
            on_time = float(probability.sum())
            if on_time < 1e-18:
                return total + self._penalty * (steps - time)
            total += self._penalty * (1 - on_time)
        return total + float(moved(probability)[-2:].sum()) / 2


class EndlessTMaze(EpisodicVector):
    """n corridors one after another, each with a cue of its own that makes the one before it worthless.

    A corridor has L cells and a junction behind them; with ``random_lengths`` each has its own number of cells, drawn
    uniformly from 1 … L. Its cue, left or right with probability 1/2 each, is shown in its first cell only.

        in the corridor     0 moves forward, reward 0; other actions: the agent stays, reward -0.01
        at the junction     the cue's turn: reward 1, and the next corridor begins, or after the last one the episode
                            terminates; any other action: reward -1, and the episode terminates

    An episode is truncated after 6 (L + 1) n steps.

    Observation: float32 [4]: cells passed in this corridor, as a share of L; cue is left; cue is right; at the
    junction. Actions: 0 forward, 1 left, 2 right.
    Chance: random actions pay 2 * 0.01 a cell, and one of three is right at a junction: with m cells on average
    -(0.02 m + 1/3) (1 + 1/3 + … + 1/3^(n-1)), without the limit, which they seldom meet. An agent that forgets
    the cue earns 0. Best: n.

    After Shchendrigin et al. 2026, "Memory retention is not enough to master memory tasks in reinforcement learning".
    """

    def __init__(
        self, num_envs: int, corridor_length: int = 40, corridors: int = 5, random_lengths: bool = False
    ) -> None:
        check_at_least("corridor_length", corridor_length, 1, "steps")
        check_at_least("corridors", corridors, 1, "corridors")
        super().__init__(num_envs, Box(0.0, 1.0, (4,), np.float32), 3)
        self._longest, self._random_lengths = corridor_length, random_lengths
        cells = (1 + corridor_length) / 2 if random_lengths else corridor_length
        low = -(2 * _DELAY * cells + 1 / 3) * sum(3.0**-i for i in range(corridors))
        self.scores = ReferenceScores(low, float(corridors), "chance", "best")
        self._limit = 6 * (corridor_length + 1) * corridors
        self._turns = np.zeros((num_envs, corridors), dtype=np.int64)
        """The right action at each junction."""
        self._lengths = np.full((num_envs, corridors), corridor_length)
        self._corridor, self._cell, self._time = (np.zeros(num_envs, dtype=np.int64) for _ in range(3))
        self._streams = np.arange(num_envs)

    def begin(self, streams: np.ndarray) -> None:
        for stream in streams.tolist():
            generator = self._generators[stream]
            self._turns[stream] = generator.integers(1, 3, size=self._turns.shape[1])
            if self._random_lengths:
                self._lengths[stream] = generator.integers(1, self._longest + 1, size=self._turns.shape[1])
        self._corridor[streams] = self._cell[streams] = self._time[streams] = 0

    def observe(self) -> np.ndarray:
        seen = np.zeros((self.num_envs, 4), dtype=np.float32)
        seen[:, 0] = self._cell / self._longest
        first = np.flatnonzero(self._cell == 0)
        seen[first, self._turns[first, self._corridor[first]]] = 1
        seen[:, 3] = self._cell == self._lengths[self._streams, self._corridor]
        return seen

    def act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        corridor = self._corridor
        at_junction = self._cell == self._lengths[self._streams, corridor]
        right = at_junction & (actions == self._turns[self._streams, corridor])
        forward = ~at_junction & (actions == 0)
        reward = np.where(at_junction, np.where(right, 1.0, -1.0), np.where(forward, 0.0, -_DELAY))
        self._time += 1
        solved = right & (corridor == self._turns.shape[1] - 1)
        terminated = solved | (at_junction & ~right)
        onwards = right & ~solved
        self._corridor = corridor + onwards
        self._cell = np.where(onwards, 0, self._cell + forward)
        return reward, terminated, ~terminated & (self._time == self._limit)


_DELAY = 0.01
"""What a step without progress in a corridor of the endless maze costs."""
