"""From single Gymnasium environments to the vector environments that `make_vector` promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from gymnasium.spaces.utils import flatten, flatten_space
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, TransformObservation

_CHANNELS = (1, 3, 4)


class SingleVector(SyncVectorEnv):
    """`num_envs` single environments stepped one after another in this process; autoreset SAME_STEP.

    Seeds may be numpy's ints too, which Gymnasium's own seeding refuses.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], num_envs: int) -> None:
        super().__init__([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream; seed: one a stream, or an int s for s, s + 1, ..., or None to go on."""
        if isinstance(seed, np.integer):
            seed = int(seed)
        elif seed is not None and not isinstance(seed, int):
            seed = [int(s) for s in seed]
        return super().reset(seed=seed, options=options)


class ActionRepeat(gymnasium.Wrapper):
    """Takes each action `repeat` times: rewards are summed, the last observation is shown, an end is an end at once."""

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class OneDiscreteAction(gymnasium.ActionWrapper):
    """Numbers the actions of a Discrete or MultiDiscrete space 0, 1, 2, …; of the latter the last factor runs first."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, Discrete | MultiDiscrete):
            raise TypeError(f"the actions must be discrete, not {space}")
        self._start = space.start
        self._sizes = tuple(np.atleast_1d(space.n if isinstance(space, Discrete) else space.nvec).tolist())
        self._single = isinstance(space, Discrete)
        self.action_space = Discrete(int(np.prod(self._sizes)))

    def action(self, action: Any) -> Any:
        if self._single:
            return self._start + action
        return self._start + np.array(np.unravel_index(action, self._sizes))


def as_vector(env: gymnasium.Env) -> gymnasium.Env:
    """Shows every observation as float32 [K]: numbers as they are, discrete ones one-hot, the parts of a tuple one
    after another."""
    space = env.observation_space
    flat = flatten_space(space)
    if not isinstance(flat, Box):
        raise TypeError(f"{space} cannot be shown as a vector")
    shown = Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
    return TransformObservation(env, lambda observation: np.asarray(flatten(space, observation), np.float32), shown)


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


def stack_frames(env: gymnasium.Env, frames: int) -> gymnasium.Env:
    """Stacks the last `frames` observations along the first axis, oldest first; the first one stands for all before
    it."""
    if frames == 1:
        return env
    stacked = FrameStackObservation(env, frames)
    space = stacked.observation_space
    assert isinstance(space, Box)
    _, first, *rest = space.shape
    shape = (frames * first, *rest)
    merged = Box(space.low.reshape(shape), space.high.reshape(shape), dtype=space.dtype.type)
    return TransformObservation(stacked, lambda observation: observation.reshape(shape), merged)
