"""The memory chain: one bit, seen in the first step only, is asked for in the last."""

from __future__ import annotations

import numpy as np

from r2ac.envs.recall import NO_ANSWER, ScriptedVector
from r2ac.envs.suite import ReferenceScores, check_at_least


class MemoryChain(ScriptedVector):
    """A chain of L steps, after the task `memory_len` of Osband et al. 2020, "Behaviour suite for reinforcement
    learning".

    An episode has L steps:

        observation 0           the context: one bit, drawn uniformly
        observations 0..L-1     the time that is left, 1 - t / L
        observation L-1         the query
        actions 0..L-2          ignored, reward 0
        action L-1              the answer: reward 1 if it is the context, else -1; the episode terminates

    So L - 1 steps lie between context and answer, as in bsuite with memory length L. There the first observation is
    shown twice, and the second feature is the number of the bit that is asked for, which is always 0 with one bit.

    Observation: float32 [3]: the time that is left; 1 in the last step, else 0; in the first step -1 for left or 1 for
    right, else 0. Actions: 0 left, 1 right.
    Chance: the answer is right with probability 1/2: 0. Best: 1.
    """

    def __init__(self, num_envs: int, chain_length: int = 64) -> None:
        check_at_least("chain_length", chain_length, 2, "steps")
        super().__init__(num_envs, features=3, actions=2, episode_steps=chain_length, questions=1, low=-1.0)
        self.scores = ReferenceScores(0.0, 1.0, "chance", "best")

    def draw(self, generator: np.random.Generator) -> list[np.int64]:
        return [generator.integers(2)]

    def write(self, drawn: np.ndarray, observations: np.ndarray, answers: np.ndarray) -> None:
        context = drawn[:, 0]
        observations[:, :, 0] = 1 - np.arange(len(observations))[:, None] / len(observations)
        observations[-1, :, 1] = 1
        observations[0, :, 2] = 2 * context - 1
        answers[-1] = context

    def pay(self, actions: np.ndarray) -> np.ndarray:
        return np.where(self.answers == NO_ANSWER, 0.0, 2 * super().pay(actions) - 1)
