"""The suite `popgym`: partially observable tasks of Morad et al. 2023, "POPGym: Benchmarking partially observable RL".

A task is named as POPGym's id without `popgym-` and `-v0`. Observations are shown as float32 [K], discrete ones
one-hot; two coordinates become one action, row by row; the pendulums' actions are continuous.
docs/environments/popgym.md says which ids are left out and why.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatten, flatten_space

from r2ac.envs.action_spaces import OneDiscreteAction, RowActions
from r2ac.envs.single import as_vector, single_streams
from r2ac.envs.suite import ReferenceScores, Suite, SuiteOptions

# Return of uniformly random actions, and the best return or, where that is not known, a bound that no policy exceeds
# in the mean. Random: (2 - A) / A where each answer is one of A and worth plus or minus an equal share; 0 by symmetry
# (bandit, higher-lower); the mean of 4000 episodes (cart-poles, concentration), 1000 (pendulums) or 30,000 (mines).
# Battleship: of b fields with 12 of ships, b shots hit h = 12 (1 - (1 - 1/b)^b) for the first time:
# h / 12 - (b - h) / (b - 12). Best: 1 by POPGym's scale; in higher-lower that of an agent that counts all cards, by
# 20,000 decks; for A bandits the mean (A - 1) / (A + 1) of the best one, as if it were known from the start.
_FAMILIES: dict[str, tuple[tuple[float, float], ...]] = {
    "Autoencode": ((-0.5, 1.0),) * 3,
    "RepeatPrevious": ((-0.5, 1.0),) * 3,
    "RepeatFirst": ((-0.5, 1.0),) * 3,
    "CountRecall": ((-25 / 27, 1.0), (-25 / 27, 1.0), (-15 / 17, 1.0)),
    "PositionOnlyCartPole": ((0.111, 1.0), (0.056, 1.0), (0.037, 1.0)),
    "PositionOnlyPendulum": ((0.244, 1.0), (0.247, 1.0), (0.246, 1.0)),
    "VelocityOnlyCartpole": ((0.111, 1.0), (0.056, 1.0), (0.037, 1.0)),
    "NoisyPositionOnlyCartPole": ((0.111, 1.0),) * 3,
    "NoisyPositionOnlyPendulum": ((0.244, 1.0),) * 3,
    "MultiarmedBandit": ((0.0, 9 / 11), (0.0, 19 / 21), (0.0, 29 / 31)),
    "HigherLower": ((0.0, 0.528), (0.0, 0.517), (0.0, 0.511)),
    "Battleship": ((-0.449, 1.0), (-0.416, 1.0), (-0.400, 1.0)),
    "Concentration": ((-0.193, 1.0), (-0.185, 1.0), (-0.835, 1.0)),
    "MineSweeper": ((-0.232, 1.0), (-0.398, 1.0), (-0.432, 1.0)),
}
_SCORES = {
    family + level: scores
    for family, of_levels in _FAMILIES.items()
    for level, scores in zip(("Easy", "Medium", "Hard"), of_levels, strict=True)
}


# Of the families whose episodes all have one length, whatever is done.
_STEPS = {
    "Autoencode": (103, 207, 311),
    "RepeatPrevious": (51, 103, 155),
    "RepeatFirst": (51, 415, 831),
    "CountRecall": (51, 103, 207),
    "PositionOnlyPendulum": (200, 150, 100),
    "NoisyPositionOnlyPendulum": (200, 200, 200),
    "MultiarmedBandit": (200, 400, 600),
    "HigherLower": (51, 103, 155),
}
_EPISODE_STEPS = {
    family + level: steps
    for family, of_levels in _STEPS.items()
    for level, steps in zip(("Easy", "Medium", "Hard"), of_levels, strict=True)
}


@dataclass(frozen=True)
class PopgymOptions(SuiteOptions):
    """Options of the POPGym tasks."""

    previous_action: bool = True
    """Show the action before, one-hot where it is discrete, after the observation (zeros in the first step of an
    episode), as POPGym's own benchmark does: Battleship, Concentration, MineSweeper and MultiarmedBandit cannot be
    solved without it."""


class PreviousAction(gymnasium.Wrapper):
    """Appends the action before to a vector observation, one-hot where it is discrete: zeros in the first step of an
    episode."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        seen: Any = env.observation_space
        shown: Any = flatten_space(env.action_space)
        self._none = np.zeros(shown.shape, dtype=np.float32)
        low, high = (
            np.concatenate(bounds, dtype=np.float32) for bounds in ((seen.low, shown.low), (seen.high, shown.high))
        )
        self.observation_space = Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return np.concatenate([observation, self._none]), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        before = np.asarray(flatten(self.env.action_space, action), np.float32)
        return np.concatenate([observation, before]), reward, terminated, truncated, info


def _load() -> None:
    importlib.import_module("popgym")  # registers the ids


def _make_one(name: str, options: PopgymOptions) -> gymnasium.Env:
    _load()
    env = gymnasium.make(f"popgym-{name}-v0", disable_env_checker=True)
    env = as_vector(RowActions(env) if isinstance(env.action_space, Box) else OneDiscreteAction(env))
    return PreviousAction(env) if options.previous_action else env


SUITE = Suite(
    name="popgym",
    summary="partially observable card games, boards, bandits, cart-poles and pendulums (POPGym)",
    options=PopgymOptions,
    list_tasks=lambda: tuple(_SCORES),
    modules=("popgym",),
    remedy="pip install 'r2ac[popgym]'",
    load=_load,
    make=single_streams(_make_one),
    episode_steps=lambda name, options: _EPISODE_STEPS.get(name),
    reference_scores=lambda name, options: ReferenceScores(*_SCORES[name], "random", "best"),
)
