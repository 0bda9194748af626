"""The suite `gym`: any Gymnasium id with discrete actions and an image or a vector to see, as `gym/<id>`.

An id is written as `gymnasium.make` takes it, with its version: `gym/CartPole-v1`, or `gym/my_module:MyEnv-v0` where
importing a module registers it. Images (uint8 [H,W], [H,W,C] or [C,H,W] with 1, 3 or 4 channels) are shown as
[C,H,W], one-dimensional boxes of any dtype as float32 vectors with their numbers as they are. Ids with other
observations or with actions that are not Discrete are refused.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass

import gymnasium
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv

from r2ac.envs.seeding import engine_seeds
from r2ac.envs.single import (
    ActionRepeat,
    FrameStack,
    OneDiscreteAction,
    SingleVector,
    as_image,
    as_vector,
    is_image,
)
from r2ac.envs.suite import MissingPackage, Split, Suite, UnknownTask, check_at_least


@dataclass(frozen=True)
class GymOptions:
    """Options of the Gymnasium ids."""

    action_repeat: int = 1
    """Engine steps that each action is repeated for; their rewards are summed, the last observation is shown."""
    frame_stack: int = 1
    """Observations stacked, oldest first: as channels of an image, one after another in a vector."""


def _look_up(name: str) -> None:
    """Raises UnknownTask unless Gymnasium knows the id, where it names a module after importing that."""
    module, colon, env_id = name.rpartition(":")
    try:
        if colon:
            _import(module)
        gymnasium.spec(env_id)
    except (ImportError, ValueError, gymnasium.error.Error) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UnknownTask(f"there is no task {'gym/' + name!r}: {said}") from error


def _import(module: str) -> None:
    """Raises ImportError whatever is wrong with the module."""
    try:
        importlib.import_module(module)
    except Exception as error:
        raise ImportError(f"{module} cannot be imported: {error!r}") from error


def _check(name: str, options: GymOptions) -> None:
    check_at_least("action_repeat", options.action_repeat, 1, "engine steps")
    check_at_least("frame_stack", options.frame_stack, 1, "observations")


def _make_one(name: str, options: GymOptions) -> gymnasium.Env:
    try:
        env = gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise MissingPackage(f"gym/{name} lacks a package: {' '.join(str(error).split())}") from error
    if not isinstance(env.action_space, Discrete):
        raise UnknownTask(f"gym/{name} is no task here: its actions must be Discrete, not {env.action_space}")
    space = env.observation_space
    if not (is_image(space) or (isinstance(space, Box) and len(space.shape) == 1)):
        raise UnknownTask(
            f"gym/{name} is no task here: its observations must be a Box, either uint8 images with 1, 3 or 4 channels "
            f"or vectors, not {' '.join(str(space).split())}"
        )
    env = ActionRepeat(OneDiscreteAction(env), options.action_repeat)
    env = as_image(env) if is_image(space) else as_vector(env)
    return FrameStack(env, options.frame_stack) if options.frame_stack > 1 else env


def _make(name: str, num_envs: int, seed: int, split: Split, options: GymOptions) -> VectorEnv:
    return SingleVector(functools.partial(_make_one, name, options), engine_seeds(seed, split, num_envs))


SUITE = Suite(
    name="gym",
    summary="any Gymnasium id with discrete actions and image or vector observations, such as these",
    options=GymOptions,
    list_tasks=lambda: ("CartPole-v1", "Acrobot-v1", "MountainCar-v0"),
    missing=lambda: None,
    check=_check,
    make=_make,
    frames_per_step=lambda name, options: options.action_repeat,
    reference_scores=lambda name, options: None,
    look_up=_look_up,
)
