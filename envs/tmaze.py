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

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from r2ac.envs.recall import COLOURS, SIDE, WHITE, ScriptedVector, paint
from r2ac.envs.suite import check_at_least

_CORRIDOR, _JUNCTION = 2, 3
_OBSERVATIONS = np.eye(4, dtype=np.float32)


class TMaze(gymnasium.Env[np.ndarray, np.int64]):
    """One passive T-maze (see the module). Raises InvalidOption for a corridor shorter than one step."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, corridor_length: int = 40, render_mode: None = None) -> None:
        check_at_least("corridor_length", corridor_length, 1, "steps")
        self.corridor_length = corridor_length
        self.render_mode = render_mode
        self.observation_space = Box(0.0, 1.0, (4,), np.float32)
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


class TMazeVector(ScriptedVector):
    """`num_envs` passive T-mazes. Equal, number for number, to Gymnasium's SyncVectorEnv of `TMaze`."""

    def __init__(self, num_envs: int, corridor_length: int = 40, render_mode: None = None) -> None:
        check_at_least("corridor_length", corridor_length, 1, "steps")
        super().__init__(num_envs, features=4, actions=2, episode_steps=corridor_length + 1, questions=1)
        self.render_mode = render_mode

    def draw(self, generator: np.random.Generator) -> list[np.int64]:
        return [generator.integers(2)]

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        cue = drawn[:, 0]
        observations[0] = _OBSERVATIONS[cue]
        observations[1:-1, :, _CORRIDOR] = 1
        observations[-1, :, _JUNCTION] = 1
        answers[-1] = cue

    def pictures(self) -> list[np.ndarray]:
        top, middle, bottom = ([(row, column) for column in range(SIDE)] for row in range(SIDE))
        right = [(row, SIDE - 1) for row in range(SIDE)]
        return [paint(top, COLOURS[0]), paint(bottom, COLOURS[1]), paint(middle, WHITE), paint(right, WHITE)]


gymnasium.register("r2ac/TMaze-v0", "r2ac.envs.tmaze:TMaze", vector_entry_point="r2ac.envs.tmaze:TMazeVector")
