"""The passive T-maze: remember one bit through a corridor.

The maze is that of Bakker 2001, "Reinforcement learning with long short-term memory". Its passive form, in which the
agent is carried forward and only the choice at the junction counts, is that of Ni et al. 2023, "When do transformers
shine in RL? Decoupling memory from credit assignment", and in all but name the task `memory_len` of Osband et al. 2020,
"Behaviour suite for reinforcement learning".

An episode of a corridor of length L has exactly L + 1 steps:

    observation 0      the cue, up or down, each with probability 1/2
    observations 1..L-1  in the corridor (none where L = 1)
    observation L      at the junction
    actions 0..L-1     ignored, reward 0
    action L           the choice: reward 1 if it is the cue's direction, else 0; the episode terminates

So L steps lie between seeing the cue and choosing; the mean return is the success rate, 0.5 by chance, 1 at best. The
observation after the choice is the junction again.

Observation: float32 [4], one-hot: cue is up, cue is down, in the corridor, at the junction. Actions: 0 up, 1 down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from r2ac.envs.seeding import stream_generators
from r2ac.envs.signals import Signals
from r2ac.envs.suite import check_at_least

_CORRIDOR, _JUNCTION = 2, 3
_OBSERVATIONS = np.eye(4, dtype=np.float32)


def _observation_space() -> Box:
    return Box(0.0, 1.0, (4,), np.float32)


class TMaze(gymnasium.Env[np.ndarray, np.int64]):
    """One passive T-maze (see the module); registered with Gymnasium as `r2ac/TMaze-v0`.

    corridor_length: steps between seeing the cue and choosing, at least 1; else InvalidOption.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, corridor_length: int = 40, render_mode: None = None) -> None:
        check_at_least("corridor_length", corridor_length, 1, "steps")
        self.corridor_length = corridor_length
        self.render_mode = render_mode
        self.observation_space = _observation_space()
        self.action_space = Discrete(2)
        self._cue = 0
        self._position = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._cue = int(self.np_random.integers(2))
        self._position = 0
        return _OBSERVATIONS[self._cue].copy(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        chosen = self._position == self.corridor_length
        self._position = min(self._position + 1, self.corridor_length)
        seen = _JUNCTION if self._position == self.corridor_length else _CORRIDOR
        reward = float(chosen and action == self._cue)
        return _OBSERVATIONS[seen].copy(), reward, chosen, False, {}


class TMazeVector(VectorEnv):
    """`num_envs` passive T-mazes in one numpy array program, autoreset SAME_STEP.

    Equal, number for number, to Gymnasium's SyncVectorEnv of `TMaze`. All episodes have the same length and begin
    together, so that one position serves all streams; each stream draws its cues from a generator of its own.
    """

    def __init__(self, num_envs: int, corridor_length: int = 40, render_mode: None = None) -> None:
        check_at_least("corridor_length", corridor_length, 1, "steps")
        self.num_envs = num_envs
        self.corridor_length = corridor_length
        self.render_mode = render_mode
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = _observation_space()
        self.single_action_space = Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._cue = np.zeros(num_envs, dtype=np.int64)
        self._position = 0

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream.

        seed: one seed a stream, or an int s for s, s + 1, ...; None goes on with the generators as they are.
        """
        if seed is not None or not self._generators:
            self._generators = stream_generators(seed, self.num_envs)
        return self._first_observations(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        truncated = np.zeros(self.num_envs, dtype=bool)
        if self._position < self.corridor_length:
            self._position += 1
            seen = _JUNCTION if self._position == self.corridor_length else _CORRIDOR
            reward = np.zeros(self.num_envs)
            return self._same_observations(seen), reward, np.zeros(self.num_envs, dtype=bool), truncated, {}
        reward = (np.asarray(actions) == self._cue).astype(np.float64)
        everyone = np.ones(self.num_envs, dtype=bool)
        signals = Signals(final_observation=self._same_observations(_JUNCTION), has_final=everyone.copy())
        return self._first_observations(), reward, everyone, truncated, signals.info()

    def _first_observations(self) -> np.ndarray:
        self._position = 0
        self._cue = np.fromiter((g.integers(2) for g in self._generators), dtype=np.int64, count=self.num_envs)
        return _OBSERVATIONS[self._cue]

    def _same_observations(self, seen: int) -> np.ndarray:
        return np.repeat(_OBSERVATIONS[seen : seen + 1], self.num_envs, axis=0)


gymnasium.register(
    id="r2ac/TMaze-v0",
    entry_point="r2ac.envs.tmaze:TMaze",
    vector_entry_point="r2ac.envs.tmaze:TMazeVector",
)
