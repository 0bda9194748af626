"""Key to door: take a key, remember its colour through a corridor, open the door of that colour."""

from __future__ import annotations

import numpy as np

from r2ac.envs.recall import COLOURS, SIDE, WHITE, LockstepVector, paint
from r2ac.envs.suite import ReferenceScores, check_at_least

KEY_ROOM_STEPS = 4
"""Steps in the key's room: two bring the agent from the middle to any field."""
_DOORS = 4
_FIELDS = SIDE * SIDE
_MIDDLE = np.array([1, 1])
_MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
_AROUND = np.array([(row, column) for row in range(SIDE) for column in range(SIDE) if (row, column) != (1, 1)])


class KeyToDoor(LockstepVector):
    """Two rooms of 3 x 3 fields and a dark corridor of d steps between them.

    An episode has 4 + d + 1 steps:

        observations 0..3           the key's room: the agent begins in the middle, the key lies on one of the 8 other
                                    fields and has one of 4 colours, all drawn uniformly; actions move the agent, walls
                                    stop it, and it takes the key by stepping on it (then the key is gone)
        observations 4..4+d-1       the corridor: nothing is seen; actions ignored
        observation 4+d             the doors' room: the agent in the middle, a door on each side, the 4 colours in a
                                    random order; the action opens the door on its side: reward 1 if the agent has the
                                    key and the door has its colour, else 0

    That the agent has a key, and which, is not seen. After Hung et al. 2019, "Optimizing agent behavior over long time
    scales by transporting value", there with one door and apples on the way.

    Observation: float32 [45]: five times the 9 fields row by row: the agent; then key or door of colour 0, 1, 2, 3.
    Actions: 0 up, 1 down, 2 left, 3 right.
    Chance: with a key of unknown colour one door of four is right: 1/4 (less without the key). Best: 1.
    Pixels: the fields as they lie, the agent white; a key or door colours its field.
    """

    scores = ReferenceScores(1 / _DOORS, 1.0, "chance", "best")

    def __init__(self, num_envs: int, delay: int = 20) -> None:
        check_at_least("delay", delay, 1, "steps")
        super().__init__(
            num_envs, features=(1 + _DOORS) * _FIELDS, actions=_DOORS, episode_steps=KEY_ROOM_STEPS + delay + 1
        )
        self._streams = np.arange(num_envs)
        self._agent = np.zeros((num_envs, 2), dtype=np.int64)
        self._key = np.zeros((num_envs, 2), dtype=np.int64)
        self._colour = np.zeros(num_envs, dtype=np.int64)
        self._doors = np.zeros((num_envs, _DOORS), dtype=np.int64)
        self._has_key = np.zeros(num_envs, dtype=bool)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return np.concatenate([generator.integers([len(_AROUND), _DOORS]), generator.permutation(_DOORS)])

    def begin(self, drawn: np.ndarray) -> None:
        self._agent[:] = _MIDDLE
        self._key[:] = _AROUND[drawn[:, 0]]
        self._colour[:] = drawn[:, 1]
        self._doors[:] = drawn[:, 2:]
        self._has_key[:] = False

    def observe(self, position: int) -> np.ndarray:
        seen = np.zeros((self.num_envs, 1 + _DOORS, SIDE, SIDE), dtype=np.float32)
        if position < KEY_ROOM_STEPS:
            seen[self._streams, 0, self._agent[:, 0], self._agent[:, 1]] = 1
            seen[self._streams, 1 + self._colour, self._key[:, 0], self._key[:, 1]] = ~self._has_key
        elif position == self.episode_steps - 1:
            seen[:, 0, 1, 1] = 1
            row, column = (_MIDDLE + _MOVES).T
            seen[self._streams[:, None], 1 + self._doors, row, column] = 1
        return seen.reshape(self.num_envs, -1)

    def pay(self, position: int, actions: np.ndarray) -> np.ndarray:
        if position < KEY_ROOM_STEPS:
            self._agent = np.clip(self._agent + _MOVES[actions], 0, SIDE - 1)
            self._has_key |= (self._agent == self._key).all(axis=1)
        if position < self.episode_steps - 1:
            return np.zeros(self.num_envs)
        return (self._has_key & (self._doors[self._streams, actions] == self._colour)).astype(np.float64)

    def pictures(self) -> list[np.ndarray]:
        fields = [(row, column) for row in range(SIDE) for column in range(SIDE)]
        return [paint([field], colour) for colour in (WHITE, *COLOURS[:_DOORS]) for field in fields]
