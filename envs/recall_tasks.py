"""Recall tasks whose episodes are written out when they begin: copy, repeat, parity, match to sample.

In all of them the reward is 1 for a right answer and 0 for everything else, an answer is an action, and every answer is
drawn uniformly from the actions. An agent may see its last reward. So nothing is asked twice: were the first symbol
asked at every step, an agent that never read it could try the answers one after another and keep the one that pays.
"""

from __future__ import annotations

import numpy as np

from r2ac.envs.recall import COLOURS, WHITE, ScriptedVector, one_hot, paint
from r2ac.envs.suite import InvalidOption, check_at_least

_TOP = [(row, column) for row in (0, 1) for column in range(3)]


def _symbol_pictures(symbols: int) -> list[np.ndarray]:
    """The upper two rows of the picture in the symbol's colour."""
    return [paint(_TOP, colour) for colour in COLOURS[:symbols]]


class Copy(ScriptedVector):
    """Say a sequence of symbols again, in its order, once it has been shown: L symbols out of K.

    An episode has 2 L steps:

        observations 0..L-1     the symbols, each drawn uniformly; actions ignored
        observations L..2L-1    the question; action L + i is right if it is symbol i

    Observation: float32 [K + 1]: the symbol, one-hot; it is asked. Actions: the K symbols.
    Chance: each of the L answers is right with probability 1/K, whatever was answered before: L / K. Best: L.
    Pixels: a symbol colours the upper two rows, the question whitens the lower row's middle.

    The copy task of Graves et al. 2014, "Neural Turing machines", with the answers as actions.
    """

    def __init__(self, num_envs: int, symbols: int = 4, sequence_length: int = 10) -> None:
        check_at_least("symbols", symbols, 2, "different symbols")
        check_at_least("sequence_length", sequence_length, 1, "symbols")
        self.symbols, self.length = symbols, sequence_length
        steps, questions = 2 * sequence_length, sequence_length
        super().__init__(num_envs, features=symbols + 1, actions=symbols, episode_steps=steps, questions=questions)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(self.symbols, size=self.length)

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        observations[: self.length, :, : self.symbols] = one_hot(drawn.T, self.symbols)
        observations[self.length :, :, self.symbols] = 1
        answers[self.length :] = drawn.T

    def pictures(self) -> list[np.ndarray]:
        return [*_symbol_pictures(self.symbols), paint([(2, 1)], WHITE)]


class RepeatPrevious(ScriptedVector):
    """Say at every step which symbol was shown k steps ago: n steps, K symbols, lag k.

    Every observation is a symbol, drawn uniformly. Action t is right if it is symbol t - k; the first k are ignored.

    Observation: float32 [K]: the symbol, one-hot. Actions: the K symbols.
    Chance: n - k answers, each right with probability 1/K: (n - k) / K. Best: n - k.
    Pixels: a symbol colours the upper two rows.

    As in POPGym (Morad et al. 2023), which draws cards without putting them back.
    """

    def __init__(self, num_envs: int, symbols: int = 4, lag: int = 4, episode_length: int = 50) -> None:
        check_at_least("symbols", symbols, 2, "different symbols")
        check_at_least("lag", lag, 1, "steps")
        check_at_least("episode_length", episode_length, 1, "steps")
        if lag >= episode_length:
            raise InvalidOption(f"lag is {lag}, but it must be less than episode_length, which is {episode_length}")
        self.symbols, self.lag = symbols, lag
        questions = episode_length - lag
        super().__init__(num_envs, features=symbols, actions=symbols, episode_steps=episode_length, questions=questions)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(self.symbols, size=self.episode_steps)

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        observations[:] = one_hot(drawn.T, self.symbols)
        answers[self.lag :] = drawn.T[: -self.lag]

    def pictures(self) -> list[np.ndarray]:
        return _symbol_pictures(self.symbols)


class RepeatFirst(ScriptedVector):
    """Say at the end which symbol was shown first: K symbols, d steps between the first and the question.

    An episode has d + 1 steps:

        observation 0           the first symbol, marked as the first
        observations 1..d-1     other symbols, each drawn uniformly
        observation d           the question: action d is right if it is the first symbol; all others are ignored

    Observation: float32 [K + 2]: the symbol, one-hot; it is the first; it is asked. Actions: the K symbols.
    Chance: one answer, right with probability 1/K: 1 / K. Best: 1.
    Pixels: a symbol colours the upper two rows; the first whitens the lower row's left, the question its middle.

    `RepeatFirst` of Morad et al. 2023, "POPGym", asks at every step: see the module for why this one does not.
    """

    def __init__(self, num_envs: int, symbols: int = 4, delay: int = 20) -> None:
        check_at_least("symbols", symbols, 2, "different symbols")
        check_at_least("delay", delay, 1, "steps")
        self.symbols = symbols
        super().__init__(num_envs, features=symbols + 2, actions=symbols, episode_steps=delay + 1, questions=1)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(self.symbols, size=self.episode_steps - 1)

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        observations[:-1, :, : self.symbols] = one_hot(drawn.T, self.symbols)
        observations[0, :, self.symbols] = 1
        observations[-1, :, self.symbols + 1] = 1
        answers[-1] = drawn[:, 0]

    def pictures(self) -> list[np.ndarray]:
        return [*_symbol_pictures(self.symbols), paint([(2, 0)], WHITE), paint([(2, 1)], WHITE)]


class Parity(ScriptedVector):
    """Say whether the number of ones among N bits, shown one after another, is even or odd.

    An episode has N + 1 steps: N bits, each 1 with probability 1/2, then the question. Action N is right if it is the
    parity; all others are ignored.

    Observation: float32 [3], one-hot: the bit is 0, the bit is 1, it is asked. Actions: 0 even, 1 odd.
    Chance: one answer, right with probability 1/2, also without a single bit: 1/2. Best: 1.
    Pixels: a bit colours the upper two rows, the question whitens the lower row's middle.
    """

    def __init__(self, num_envs: int, sequence_length: int = 10) -> None:
        check_at_least("sequence_length", sequence_length, 1, "bits")
        self.length = sequence_length
        super().__init__(num_envs, features=3, actions=2, episode_steps=sequence_length + 1, questions=1)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(2, size=self.length)

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        observations[:-1, :, :2] = one_hot(drawn.T, 2)
        observations[-1, :, 2] = 1
        answers[-1] = drawn.sum(axis=1) % 2

    def pictures(self) -> list[np.ndarray]:
        return [*_symbol_pictures(2), paint([(2, 1)], WHITE)]


class MatchToSample(ScriptedVector):
    """Delayed match to sample: which of two symbols was shown d steps ago? K symbols, delay d.

    An episode has d + 1 steps:

        observation 0           the sample, drawn uniformly
        observations 1..d-1     waiting
        observation d           the sample and another symbol, each on either side with probability 1/2: action d is
                                right if it is the sample's side; all others are ignored

    Observation: float32 [3 K + 1]: sample, left and right symbol, each one-hot or 0; waiting. Actions: 0 left, 1 right.
    Chance: each of the two symbols is the sample with probability 1/2: 1/2. Best: 1.
    Pixels: the sample colours the upper row, the symbols both sides of the lower two; waiting whitens the middle.
    """

    def __init__(self, num_envs: int, symbols: int = 4, delay: int = 20) -> None:
        check_at_least("symbols", symbols, 2, "different symbols")
        check_at_least("delay", delay, 1, "steps")
        self.symbols = symbols
        super().__init__(num_envs, features=3 * symbols + 1, actions=2, episode_steps=delay + 1, questions=1)

    def draw(self, generator: np.random.Generator) -> list[np.int64]:
        return [generator.integers(self.symbols), generator.integers(1, self.symbols), generator.integers(2)]

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        sample, step, side = drawn.T
        other = (sample + step) % self.symbols
        left, right = np.where(side == 0, sample, other), np.where(side == 0, other, sample)
        observations[0, :, : self.symbols] = one_hot(sample, self.symbols)
        observations[1:-1, :, -1] = 1
        observations[-1, :, self.symbols : 2 * self.symbols] = one_hot(left, self.symbols)
        observations[-1, :, 2 * self.symbols : 3 * self.symbols] = one_hot(right, self.symbols)
        answers[-1] = side

    def pictures(self) -> list[np.ndarray]:
        places = [[(0, 0), (0, 1), (0, 2)], [(1, 0), (2, 0)], [(1, 2), (2, 2)]]
        symbols = [paint(place, colour) for place in places for colour in COLOURS[: self.symbols]]
        return [*symbols, paint([(1, 1)], WHITE)]
