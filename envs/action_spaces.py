"""Actions as the agent gives them, and which of them an environment allows."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space

_KEY = "action_mask"


def actions_text(space: Space) -> str:
    """How many actions a space has, in words: `4`, `3 x 2` or `2 continuous`."""
    if isinstance(space, Discrete):
        return str(int(space.n))
    if isinstance(space, MultiDiscrete):
        return " x ".join(map(str, space.nvec.flatten().tolist()))
    return f"{int(np.prod(space.shape or ()))} continuous"


class OneDiscreteAction(gymnasium.ActionWrapper):
    """Numbers the actions of a Discrete or MultiDiscrete space 0, 1, 2, …; of the latter the last factor runs first."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, Discrete | MultiDiscrete):
            raise TypeError(f"the actions must be discrete, not {space}")
        self._first = space.start
        self.start = np.int64(self._first if isinstance(space, Discrete) else 0)
        """What the environment calls action 0; of several factors, numbered together, there is no such number."""
        self._sizes = tuple(np.atleast_1d(space.n if isinstance(space, Discrete) else space.nvec).tolist())
        self._single = isinstance(space, Discrete)
        self.action_space = Discrete(int(np.prod(self._sizes)))

    def action(self, action: Any) -> Any:
        if self._single:
            return self._first + action
        return self._first + np.array(np.unravel_index(action, self._sizes))


class RowActions(gymnasium.ActionWrapper):
    """Takes actions as rows: of a MultiDiscrete or a Box of any shape K numbers, those of a MultiDiscrete from 0 on,
    those of a Box float32 and clipped to its bounds.

    Raises TypeError for a space of another kind.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.action_space
        if isinstance(space, MultiDiscrete):
            self.action_space = MultiDiscrete(space.nvec.flatten())
        elif isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
            low, high = (bound.flatten().astype(np.float32) for bound in (space.low, space.high))
            self.action_space = Box(low, high, dtype=np.float32)
        else:
            raise TypeError(f"the actions must be MultiDiscrete or a Box of floating-point numbers, not {space}")
        self._space = space
        self.start = np.ravel(space.start).astype(np.int64) if isinstance(space, MultiDiscrete) else np.int64(0)
        """What the environment calls choice 0 of each part."""

    def action(self, action: Any) -> Any:
        space: Any = self._space
        action = np.asarray(action, space.dtype).reshape(space.shape)
        if isinstance(space, MultiDiscrete):
            return space.start + action
        # A bound of float64 may lie below its float32.
        return action.clip(space.low, space.high)


class ActionMask(gymnasium.Wrapper):
    """Keeps which actions the environment allows in the next step, as ``allowed``, bool [P]: P is the number of its
    discrete actions, or of the choices of all parts of a MultiDiscrete, one part after another.

    It says so by the entry `action_mask` of a Dict observation, which is taken out of what is shown; else with
    ``from_info`` by that of its infos; else by a method `action_masks()`.

    Raises ValueError for a mask that is not there or has another size.
    """

    def __init__(self, env: gymnasium.Env, from_info: bool) -> None:
        super().__init__(env)
        sizes = np.ravel(env.action_space.nvec if isinstance(env.action_space, MultiDiscrete) else _n(env))
        self._size = int(sizes.sum())
        self._begins = sizes.cumsum() - sizes
        """Where the choices of each part begin."""
        self.allowed = np.ones(self._size, dtype=bool)
        self._is_shown, self._from_info = _is_shown(env), from_info
        if self._is_shown:
            shown: Any = env.observation_space
            # Pairs keep their order; a plain dictionary would be sorted.
            self.observation_space = Dict([(key, space) for key, space in shown.items() if key != _KEY])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._note(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._note(observation, info), reward, terminated, truncated, info

    def _note(self, observation: Any, info: dict[str, Any]) -> Any:
        if self._is_shown:
            mask = observation[_KEY]
            observation = {key: part for key, part in observation.items() if key != _KEY}
        elif self._from_info:
            if _KEY not in info:
                raise ValueError(f"there is no {_KEY} in its info, which mask_from_info says is there")
            mask = info[_KEY]
        else:
            mask = self.env.get_wrapper_attr("action_masks")()
        parts = mask if isinstance(mask, tuple | list) else (mask,)
        self.allowed = np.concatenate([np.ravel(part) for part in parts]).astype(bool)
        if self.allowed.size != self._size:
            raise ValueError(f"{_KEY} has {self.allowed.size} numbers, but {self._size} actions can be taken")
        return observation

    def allows(self, action: Any) -> bool:
        """Whether an action as the agent gives it, whose parts count from 0, may be taken in the next step."""
        return bool(self.allowed[self._begins + action].all())

    def sample(self) -> Any:
        """One of the allowed actions, as the environment takes it; drawn by its space."""
        space: Any = self.env.action_space
        if isinstance(space, Discrete):
            return space.sample(mask=self.allowed.astype(np.int8))
        parts = np.split(self.allowed, self._begins[1:])
        # Where a part allows nothing, an episode has ended, and what is taken does not count.
        chosen = [space.np_random.choice(np.flatnonzero(part)) if part.any() else 0 for part in parts]
        return np.reshape(chosen, space.shape).astype(space.dtype) + space.start


def masks_actions(env: gymnasium.Env) -> bool:
    """Whether an environment says, without an option, which actions it allows."""
    return _is_shown(env) or env.has_wrapper_attr("action_masks")


def find_mask(env: gymnasium.Env) -> ActionMask | None:
    """The :class:`ActionMask` among the wrappers of an environment."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, ActionMask):
            return env
        env = env.env
    return None


def first_action(env: gymnasium.Env | None) -> np.ndarray | np.int64:
    """What an environment calls the action that agents give as 0, or choice 0 of each of its K parts, int64 [] or [K]:
    the ``start`` of its space, by a wrapper of this module, if it has one."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, OneDiscreteAction | RowActions):
            return env.start
        env = env.env
    return np.int64(0)


def _is_shown(env: gymnasium.Env) -> bool:
    return isinstance(env.observation_space, Dict) and _KEY in env.observation_space.spaces


def _n(env: gymnasium.Env) -> int:
    space: Any = env.action_space
    return int(space.n)
