"""From single Gymnasium environments to the vector environments that `make_vector` promises."""

from __future__ import annotations

import functools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatten, flatten_space
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import TransformObservation

from r2ac.envs.action_spaces import find_mask
from r2ac.envs.seeding import engine_seeds, stream_seeds
from r2ac.envs.signals import Signals, StreamsVector
from r2ac.envs.suite import Split

_CHANNELS = (1, 3, 4)


def single_streams(make_one: Callable[[str, Any], gymnasium.Env]) -> Callable[[str, int, int, Split, Any], VectorEnv]:
    """`Suite.make` of a suite whose single environments `make_one(name, options)` makes."""

    def make(name: str, num_envs: int, seed: int, split: Split, options: Any) -> VectorEnv:
        return SingleVector(functools.partial(make_one, name, options), engine_seeds(seed, split, num_envs))

    return make


class SingleVector(StreamsVector):
    """Single environments stepped one after another in this process; autoreset SAME_STEP.

    Observations are copied, so that an environment may write into one buffer; their infos are dropped. The signals in
    `info` have the final observations of episodes, and the actions that are allowed where environments are wrapped in
    `ActionMask`. Rewards are float64 [N].

    make: makes one of them.
    seeds: one for each stream, for the first `reset`, and for the spaces' generators; the first one seeds Python's and
        numpy's global generators too.

    Raises ValueError or TypeError where an observation does not fit its space, a reward is no number, or `reset` or
    `step` does not return what Gymnasium's interface says.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], seeds: Sequence[int]) -> None:
        random.seed(seeds[0])
        np.random.seed(seeds[0])
        self.envs = [make() for _ in seeds]
        for env, seed in zip(self.envs, seeds, strict=True):
            env.unwrapped.action_space.seed(seed)
            env.unwrapped.observation_space.seed(seed)
        self._seeds: Any = seeds
        self._masks = [mask for env in self.envs if (mask := find_mask(env)) is not None]
        space = self.envs[0].observation_space
        assert space.shape is not None
        super().__init__(len(seeds), space, self.envs[0].action_space, masks_actions=bool(self._masks))
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream, or in those of `options["reset_mask"]` (bool [N]), whose rows alone mean
        something then. ``seed``: one a stream, or an int s for s, s + 1, ...; None leaves the generators as they are,
        or takes the constructor's seeds the first time."""
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        seeds, self._seeds = self._seeds if seed is None else stream_seeds(seed, self.num_envs), None
        observation = np.zeros((self.num_envs, *self._shape), dtype=self._dtype)
        for stream in np.flatnonzero(mask).tolist():
            own = None if seeds is None else seeds[stream]
            shown, _ = values_of_reset(self.envs[stream].reset(seed=own))
            self._put(shown, observation, stream)
        return observation, Signals(action_mask=self._action_mask()).info()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, rewards = np.empty((self.num_envs, *self._shape), dtype=self._dtype), np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=bool)
        for stream, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            shown, reward, terminates, truncates, _ = values_of_step(env.step(action))
            terminated[stream], truncated[stream] = truth_of("terminated", terminates), truth_of("truncated", truncates)
            rewards[stream] = number_of(reward)
            self._put(shown, observation, stream)
        ended = terminated | truncated
        final = observation.copy() if ended.any() else None
        for stream in np.flatnonzero(ended).tolist():
            shown, _ = values_of_reset(self.envs[stream].reset())
            self._put(shown, observation, stream)
        has_final = None if final is None else ended
        signals = Signals(final_observation=final, has_final=has_final, action_mask=self._action_mask())
        return observation, rewards, terminated, truncated, signals.info()

    def close_extras(self, **kwargs: Any) -> None:
        with ExitStack() as stack:
            for env in self.envs:
                stack.callback(env.close)

    def _action_mask(self) -> np.ndarray | None:
        """bool [N,P]."""
        return np.stack([mask.allowed for mask in self._masks]) if self._masks else None

    def _put(self, shown: Any, observation: np.ndarray, stream: int) -> None:
        if np.shape(shown) != self._shape:
            shapes = f"of shape {list(np.shape(shown))}, but its space says {list(self._shape)}"
            raise ValueError(f"stream {stream} shows an observation {shapes}")
        given = np.asarray(shown)
        if not np.can_cast(given.dtype, self._dtype, "same_kind"):
            raise ValueError(f"stream {stream} shows {given.dtype}, but its space is of {self._dtype}")
        observation[stream] = given
        if self._dtype.kind != "f" and given.dtype != self._dtype and (observation[stream] != given).any():
            lost = given[observation[stream] != given].flat[0]
            raise ValueError(f"stream {stream} shows {lost}, which is no {self._dtype}")


def values_of_reset(returned: Any) -> tuple[Any, Any]:
    """Observation and info, as an environment's reset returned them; raises TypeError for anything else."""
    return _values("reset", ("observation", "info"), returned)


def values_of_step(returned: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Observation, reward, terminated, truncated and info likewise."""
    return _values("step", ("observation", "reward", "terminated", "truncated", "info"), returned)


def _values(method: str, names: tuple[str, ...], returned: Any) -> Any:
    """What a method of an environment returned, if it is a tuple of what the names say."""
    if not isinstance(returned, tuple) or len(returned) != len(names):
        found = f"a tuple of {len(returned)}" if isinstance(returned, tuple) else type(returned).__name__
        raise TypeError(f"{method} returned {found}, but it must return the tuple ({', '.join(names)})")
    return returned


def number_of(reward: Any) -> float:
    """A reward as a number, also where it is an array of one. Raises TypeError where it is none."""
    try:
        # Not by a dtype: that makes None nan.
        value = np.asarray(reward).reshape(()).item()
        if isinstance(value, str | bytes):
            raise TypeError  # a word that float would read
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise TypeError(f"the reward is {reward!r}, but it must be a number") from None


def truth_of(name: str, value: Any) -> bool:
    """Whether an episode has ended, as `step` says it. Raises TypeError for what is neither true nor false."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    array = np.asarray(value)
    if array.size != 1 or array.item() not in (0, 1):
        raise TypeError(f"{name} is {value!r}, but it must be a bool")
    return bool(array.item())


class ActionRepeat(gymnasium.Wrapper):
    """Takes each action `repeat` times: rewards are summed, the last observation is shown. An end is an end at once, an
    action that is masked meanwhile is not repeated."""

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        super().__init__(env)
        self._repeat, self._mask = repeat, find_mask(env)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = values_of_step(self.env.step(action))
            total += number_of(reward)
            if terminated or truncated or not (self._mask is None or self._mask.allows(action)):
                break
        return observation, total, terminated, truncated, info


def as_vector(env: gymnasium.Env) -> gymnasium.Env:
    """Shows observations as float32 [K]: numbers as they are, discrete ones one-hot, parts of a tuple in order. Raises
    ValueError for an observation that would be shown as another one, such as -1 in Discrete(3) as 2."""
    space = env.observation_space
    flat = flatten_space(space)
    if not isinstance(flat, Box):
        raise TypeError(f"{space} cannot be shown as a vector")
    shown = Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)

    def vector(observation: Any) -> np.ndarray:
        if not _holds(space, observation):
            found, named = (" ".join(repr(each).split()) for each in (observation, space))
            raise ValueError(f"an observation is {found[:200]}, which is not in its space, {named[:200]}")
        return np.asarray(flatten(space, observation), np.float32)

    return TransformObservation(env, vector, shown)


def _holds(space: Space, value: Any) -> bool:
    """Whether Gymnasium's `flatten` keeps the value as it is. Numbers beyond the bounds of a Box are kept, and so are
    those of another shape in the same order."""
    if isinstance(space, Discrete) and isinstance(value, int | np.integer):
        # First, as it is the most frequent by far, and costs next to nothing.
        return bool(space.start <= value < space.start + space.n)
    if isinstance(space, Dict):
        parts = space.spaces.items()
        return isinstance(value, Mapping) and all(key in value and _holds(part, value[key]) for key, part in parts)
    if isinstance(space, Tuple):
        values = list(value) if np.iterable(value) else []
        return len(values) == len(space.spaces) and all(map(_holds, space.spaces, values))
    try:
        numbers, dtype = np.asarray(value), np.dtype(space.dtype)
    except ValueError:  # rows of different lengths
        return False
    if numbers.size != math.prod(space.shape or ()) or numbers.dtype.kind not in "biuf":
        return False
    if dtype.kind == "f" or (numbers.dtype == dtype and isinstance(space, Box)):
        return True
    if isinstance(space, Discrete | MultiDiscrete):
        if numbers.dtype.kind == "f" or (isinstance(space, MultiDiscrete) and numbers.shape != space.shape):
            return False
        numbers = numbers.reshape(space.shape).astype(np.int64) - space.start
        return bool((numbers >= 0).all() and (numbers < getattr(space, "nvec", getattr(space, "n", 0))).all())
    is_truth = dtype.kind == "b" or isinstance(space, MultiBinary)
    low, high = (0, 1) if is_truth else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    whole = numbers.dtype.kind != "f" or bool((numbers == np.floor(numbers)).all())
    return whole and bool((numbers >= low).all() and (numbers <= high).all())


def is_image(space: Space) -> bool:
    """Whether a space is of uint8 images: [H,W], or with 1, 3 or 4 channels [H,W,C] or [C,H,W]."""
    if not isinstance(space, Box) or space.dtype != np.uint8:
        return False
    shape = space.shape
    return len(shape) == 2 or (len(shape) == 3 and (shape[-1] in _CHANNELS or shape[0] in _CHANNELS))


def as_image(env: gymnasium.Env) -> gymnasium.Env:
    """Shows images as uint8 [C,H,W], with the last axis for channels where both outer ones could be."""
    shape = env.observation_space.shape
    assert shape is not None
    if len(shape) == 2:
        return TransformObservation(env, lambda image: image[None], Box(0, 255, (1, *shape), np.uint8))
    if shape[-1] not in _CHANNELS:
        return env
    height, width, channels = shape
    return TransformObservation(
        env, lambda image: np.moveaxis(image, 2, 0), Box(0, 255, (channels, height, width), np.uint8)
    )


class FrameStack(gymnasium.Wrapper):
    """Stacks the last `frames` observations along the first axis, oldest first, at first copies of the first one."""

    def __init__(self, env: gymnasium.Env, frames: int) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Box)
        low, high = (np.concatenate([bound] * frames) for bound in (space.low, space.high))
        self.observation_space = Box(low, high, dtype=space.dtype.type)
        self._frames: deque[np.ndarray] = deque(maxlen=frames)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([np.array(observation)] * (self._frames.maxlen or 0))
        return np.concatenate(self._frames), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        # A copy: the environment may write the next one into the same array.
        self._frames.append(np.array(observation))
        return np.concatenate(self._frames), reward, terminated, truncated, info
