"""The suite `popgym`: partially observable tasks of Morad et al. 2023, "POPGym: Benchmarking partially observable RL".

A task is named as POPGym's id without `popgym-` and `-v0`: `popgym/RepeatPreviousEasy`. Discrete observations are shown
one-hot, those of several parts one part after another, all as float32 [K]. Battleship's and MineSweeper's two
coordinates become one action, row by row. The two pendulums are left out, since their actions are continuous, and the
labyrinths, which POPGym itself lacks without one more package.

POPGym pays at every step, and an agent of this package sees its last reward: in RepeatFirst, where one answer is right
throughout, trying the four answers finds it without memory of the first card (`memory/repeat_first` asks once).
VelocityOnlyCartpole's first observation of an episode holds positions in place of velocities: that is POPGym's.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from r2ac.envs.seeding import engine_seeds
from r2ac.envs.single import OneDiscreteAction, SingleVector, as_vector
from r2ac.envs.suite import InvalidOption, ReferenceScores, Split, Suite, SuiteOptions, missing_modules

# Return of uniformly random actions, and the best return or, where that is not known, a bound that no policy exceeds
# in the mean. Random: (2 - A) / A where each answer is one of A and worth plus or minus an equal share; 0 by symmetry
# (bandit, higher-lower); the mean of 4000 episodes (cart-poles, concentration) or 30,000 (mines). Battleship: of b
# fields with 12 of ships, b shots hit h = 12 (1 - (1 - 1/b)^b) for the first time: h / 12 - (b - h) / (b - 12).
# Best: 1 by POPGym's scale; in higher-lower who counts all cards, by 20,000 decks; for A bandits the mean
# (A - 1) / (A + 1) of the best one, as if it were known from the start.
_SCORES: dict[str, tuple[float, float]] = {
    "AutoencodeEasy": (-0.5, 1.0),
    "AutoencodeMedium": (-0.5, 1.0),
    "AutoencodeHard": (-0.5, 1.0),
    "RepeatPreviousEasy": (-0.5, 1.0),
    "RepeatPreviousMedium": (-0.5, 1.0),
    "RepeatPreviousHard": (-0.5, 1.0),
    "RepeatFirstEasy": (-0.5, 1.0),
    "RepeatFirstMedium": (-0.5, 1.0),
    "RepeatFirstHard": (-0.5, 1.0),
    "CountRecallEasy": (-25 / 27, 1.0),
    "CountRecallMedium": (-25 / 27, 1.0),
    "CountRecallHard": (-15 / 17, 1.0),
    "PositionOnlyCartPoleEasy": (0.111, 1.0),
    "PositionOnlyCartPoleMedium": (0.056, 1.0),
    "PositionOnlyCartPoleHard": (0.037, 1.0),
    "VelocityOnlyCartpoleEasy": (0.111, 1.0),
    "VelocityOnlyCartpoleMedium": (0.056, 1.0),
    "VelocityOnlyCartpoleHard": (0.037, 1.0),
    "NoisyPositionOnlyCartPoleEasy": (0.111, 1.0),
    "NoisyPositionOnlyCartPoleMedium": (0.111, 1.0),
    "NoisyPositionOnlyCartPoleHard": (0.111, 1.0),
    "MultiarmedBanditEasy": (0.0, 9 / 11),
    "MultiarmedBanditMedium": (0.0, 19 / 21),
    "MultiarmedBanditHard": (0.0, 29 / 31),
    "HigherLowerEasy": (0.0, 0.528),
    "HigherLowerMedium": (0.0, 0.517),
    "HigherLowerHard": (0.0, 0.511),
    "BattleshipEasy": (-0.449, 1.0),
    "BattleshipMedium": (-0.416, 1.0),
    "BattleshipHard": (-0.400, 1.0),
    "ConcentrationEasy": (-0.193, 1.0),
    "ConcentrationMedium": (-0.185, 1.0),
    "ConcentrationHard": (-0.835, 1.0),
    "MineSweeperEasy": (-0.232, 1.0),
    "MineSweeperMedium": (-0.398, 1.0),
    "MineSweeperHard": (-0.432, 1.0),
}

_INSTALL = "pip install 'r2ac[popgym]'"


@dataclass(frozen=True)
class PopgymOptions(SuiteOptions):
    """Options of the POPGym tasks."""

    previous_action: bool = True
    """Show the action before, one-hot, after the observation (zeros in the first step of an episode), as POPGym's own
    benchmark does: Battleship, Concentration, MineSweeper and MultiarmedBandit cannot be solved without it."""


class PreviousAction(gymnasium.Wrapper):
    """Appends the action before, one-hot, to a vector observation: zeros in the first step of an episode."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        seen: Any = env.observation_space
        actions = int(env.action_space.n)  # type: ignore[attr-defined]
        self.observation_space = Box(
            np.concatenate([seen.low, np.zeros(actions, np.float32)]),
            np.concatenate([seen.high, np.ones(actions, np.float32)]),
            dtype=np.float32,
        )
        self._one_hot = np.eye(actions, dtype=np.float32)
        self._none = np.zeros(actions, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return np.concatenate([observation, self._none]), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return np.concatenate([observation, self._one_hot[action]]), reward, terminated, truncated, info


def _missing() -> str | None:
    if missing_modules("popgym"):
        return f"the suite popgym needs POPGym, which is not installed: {_INSTALL}"
    return None


def _check(name: str, options: PopgymOptions) -> None:
    if not isinstance(options.previous_action, bool):
        raise InvalidOption(f"previous_action is {options.previous_action!r}, but it must be True or False")


def _make_one(name: str, options: PopgymOptions) -> gymnasium.Env:
    env = as_vector(OneDiscreteAction(gymnasium.make(f"popgym-{name}-v0", disable_env_checker=True)))
    return PreviousAction(env) if options.previous_action else env


def _load() -> None:
    importlib.import_module("popgym")  # registers the ids


def _make(name: str, num_envs: int, seed: int, split: Split, options: PopgymOptions) -> VectorEnv:
    _load()
    return SingleVector(functools.partial(_make_one, name, options), engine_seeds(seed, split, num_envs))


SUITE = Suite(
    name="popgym",
    summary="partially observable card games, boards, bandits and cart-poles (POPGym)",
    options=PopgymOptions,
    list_tasks=lambda: tuple(_SCORES),
    missing=_missing,
    remedy=_INSTALL,
    load=_load,
    check=_check,
    make=_make,
    frames_per_step=lambda name, options: 1,
    reference_scores=lambda name, options: ReferenceScores(*_SCORES[name], "random", "best"),
)
