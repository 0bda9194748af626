"""Key to door: take a key, remember its colour through a corridor, open the door of that colour."""

from __future__ import annotations

import numpy as np

from r2ac.envs.recall import COLOURS, NO_ANSWER, SIDE, WHITE, ScriptedVector, paint
from r2ac.envs.suite import ReferenceScores, check_at_least

KEY_ROOM_STEPS = 4
"""Steps in the key's room: two bring the agent from the middle to any field."""
_IN_ROOM, _BEGINS = NO_ANSWER - 1, NO_ANSWER - 2
"""Stand in the scripts where nothing is asked in the key's room, and in its first step."""
_DOORS = 4
_FIELDS = SIDE * SIDE
_MIDDLE = 4
_AROUND = np.array([field for field in range(_FIELDS) if field != _MIDDLE])
_MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
_PLACES = np.stack(np.divmod(np.arange(_FIELDS), SIDE), axis=1)
_NEXT = np.clip(_PLACES[:, None] + _MOVES, 0, SIDE - 1) @ [SIDE, 1]
"""The field that each action leads to from each field, int64 [_FIELDS,4]."""
_TAKEN = 147 / 512
"""How often random moves take the key: the mean number of fields that they visit, the middle left out, is 147 / 64."""


class KeyToDoor(ScriptedVector):
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
    Chance: random moves take the key in 147 of 512 episodes, and one door of four is right: 147 / 2048 = 0.072. With
    the key in hand it is 1/4. Best: 1.
    Pixels: the fields as they lie, the agent white; a key or door colours its field.
    """

    def __init__(self, num_envs: int, delay: int = 20) -> None:
        check_at_least("delay", delay, 1, "steps")
        steps = KEY_ROOM_STEPS + delay + 1
        super().__init__(num_envs, features=(1 + _DOORS) * _FIELDS, actions=_DOORS, episode_steps=steps, questions=1)
        self.scores = ReferenceScores(_TAKEN / _DOORS, 1.0, "chance", "best")
        self._agent = np.full(num_envs, _MIDDLE)
        self._has_key = np.zeros(num_envs, dtype=bool)
        self._room = np.arange(0)
        """The streams in the key's room."""

    def draw(self, generator: np.random.Generator) -> list[np.int64]:
        return [generator.integers(len(_AROUND)), generator.integers(_DOORS), *generator.permutation(_DOORS)]

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        """All but the agent in the key's room."""
        key, colour, doors = _AROUND[drawn[:, 0]], drawn[:, 1], drawn[:, 2:]
        streams = np.arange(len(drawn))
        fields = observations.reshape(*answers.shape, 1 + _DOORS, _FIELDS)
        fields[:KEY_ROOM_STEPS, streams, 1 + colour, key] = 1
        fields[-1, :, 0, _MIDDLE] = 1
        fields[-1, streams[:, None], 1 + doors, _NEXT[_MIDDLE]] = 1
        answers[0], answers[1:KEY_ROOM_STEPS] = _BEGINS, _IN_ROOM
        answers[-1] = (doors == colour[:, None]).argmax(axis=1)

    def observe(self) -> np.ndarray:
        seen, answers = super().observe(), self.answers
        room = self._room = (answers < NO_ANSWER).nonzero()[0]
        if room.size:
            begun = room[answers[room] == _BEGINS]
            self._agent[begun], self._has_key[begun] = _MIDDLE, False
            seen[room, self._agent[room]] = 1
            seen[room[self._has_key[room]], _FIELDS:] = 0
        return seen

    def pay(self, actions: np.ndarray) -> np.ndarray:
        room = self._room
        if room.size:
            agent = self._agent[room] = _NEXT[self._agent[room], actions[room]]
            here = agent[:, None] + _FIELDS * np.arange(1, 1 + _DOORS)
            self._has_key[room] |= self.script[room[:, None], here].any(axis=1)
        return super().pay(actions) * self._has_key

    def pictures(self) -> list[np.ndarray]:
        fields = [(row, column) for row in range(SIDE) for column in range(SIDE)]
        return [paint([field], colour) for colour in (WHITE, *COLOURS[:_DOORS]) for field in fields]
