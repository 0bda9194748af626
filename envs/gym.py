"""The suite `gym`: any Gymnasium id with an image or a vector to see, as `gym/<id>`.

An id is written as `gymnasium.make` takes it, with its version: `gym/CartPole-v1`, or `gym/my_module:MyEnv-v0` where
importing a module, which may lie in the current directory, registers it. Images (uint8 [H,W], [H,W,C] or [C,H,W] with
1, 3 or 4 channels) are shown as [C,H,W]; everything else of at most two axes, and dictionaries and tuples of it, as one
float32 vector: numbers as they are, discrete ones one-hot. Actions are Discrete, MultiDiscrete or a Box. Other ids are
refused.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.wrappers import TransformObservation

from r2ac.envs.action_spaces import ActionMask, OneDiscreteAction, RowActions, masks_actions
from r2ac.envs.checked import exits_raise
from r2ac.envs.single import ActionRepeat, FrameStack, as_image, as_vector, is_image, single_streams
from r2ac.envs.suite import InvalidOption, MissingPackage, Suite, SuiteOptions, UnknownTask, check_at_least


@dataclass(frozen=True)
class GymOptions(SuiteOptions):
    """Options of the Gymnasium ids."""

    action_repeat: int = 1
    """Engine steps that each action is repeated for; their rewards are summed, the last observation is shown."""
    frame_stack: int = 1
    """Observations stacked, oldest first: as channels of an image, one after another in a vector."""
    env_kwargs: str = "{}"
    """Arguments for gymnasium.make, a JSON object such as '{"level": 3}'."""
    wrappers: tuple[str, ...] = ()
    """What wraps the environment, the first one first: module:function (or module:Class), called with the
    environment."""
    mask_from_info: bool = False
    """Read from info["action_mask"] which actions are allowed, as Taxi-v4 says it; an action_mask in a Dict observation
    and a method action_masks() are read without this."""


def _look_up(name: str) -> None:
    """Raises UnknownTask unless Gymnasium knows the id, where it names a module after importing that."""
    module, colon, env_id = name.rpartition(":")
    try:
        if colon:
            _import(module)
        gymnasium.spec(env_id)
    except (ImportError, ValueError, gymnasium.error.Error) as error:
        said = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, gymnasium.error.NameNotFound | gymnasium.error.NamespaceNotFound):
            own = _registered_by(module)
            near = ", ".join(get_close_matches(env_id, own, 5, 0.0)) + " and others" * (len(own) > 5)
            said = f"{module} registers {near}" if own else said
        raise UnknownTask(f"there is no task {'gym/' + name!r}: {said}") from error


def _registered_by(module: str) -> list[str]:
    """The ids of environments that are defined in the module, or in one below it."""
    entries = {name: spec.entry_point for name, spec in gymnasium.registry.items()}
    homes = {name: getattr(entry, "__module__", str(entry).partition(":")[0]) for name, entry in entries.items()}
    return [name for name, home in homes.items() if f"{home}.".startswith(f"{module}.")]


def _import(module: str) -> ModuleType:
    """The module, also from the current directory, as for `python -c`; raises ImportError for whatever it raises."""
    here = ""
    with suppress(FileNotFoundError):
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
    try:
        with exits_raise():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise ImportError(f"{module} cannot be imported: {error!r}") from error
        raise ImportError(
            f"No module named {error.name!r} in the current directory ({here}), on PYTHONPATH or installed; start the "
            "command where it lies, or take it along to a cluster with r2ac submit --with-module"
        ) from error
    except (Exception, SystemExit) as error:
        raise ImportError(f"{module} cannot be imported: {error!r}") from error


def _check(name: str, options: GymOptions) -> None:
    check_at_least("action_repeat", options.action_repeat, 1, "engine steps")
    check_at_least("frame_stack", options.frame_stack, 1, "observations")
    _keywords(options)
    for wrapper in options.wrappers:
        if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", wrapper):
            raise InvalidOption(
                f"wrappers has {wrapper!r}, but each must be module:function, such as "
                "gymnasium.wrappers:FlattenObservation"
            )


def _keywords(options: GymOptions) -> dict[str, Any]:
    """What `gymnasium.make` is given beside the id."""
    try:
        values = json.loads(options.env_kwargs)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InvalidOption(
            f"env_kwargs is {options.env_kwargs!r}, but it must be a JSON object such as '{{\"level\": 3}}'"
        )
    for taken in ("id", "disable_env_checker"):
        if taken in values:
            raise InvalidOption(f"env_kwargs names {taken!r}, but that is not for the environment to take")
    return values


def make_single(name: str, options: GymOptions) -> gymnasium.Env:
    """The environment as `gymnasium.make` and the wrappers give it. Raises InvalidOption or MissingPackage."""
    try:
        env = gymnasium.make(name, disable_env_checker=True, **_keywords(options))
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise MissingPackage(f"gym/{name} lacks a package: {' '.join(str(error).split())}") from error
    except TypeError as error:
        # gymnasium.make raises it again: what no frame below its call raised is about the arguments.
        first = error.__context__
        if first is not None and first.__traceback__ is not None and first.__traceback__.tb_next is not None:
            raise
        raise InvalidOption(f"gym/{name} cannot be made with env_kwargs {options.env_kwargs}: {error}") from error
    for wrapper in options.wrappers:
        env = _wrapped(env, wrapper)
    return env


def _wrapped(env: gymnasium.Env, wrapper: str) -> gymnasium.Env:
    module, _, function = wrapper.partition(":")
    try:
        wrap: Any = functools.reduce(getattr, function.split("."), _import(module))
    except (ImportError, AttributeError) as error:
        raise InvalidOption(f"there is no wrapper {wrapper}: {error}") from error
    wrapped = wrap(env)
    if not isinstance(wrapped, gymnasium.Env):
        raise InvalidOption(f"the wrapper {wrapper} returns {wrapped!r}, but it must return a gymnasium.Env")
    return wrapped


def _shown(name: str, env: gymnasium.Env) -> gymnasium.Env:
    """Shows one image or one vector; raises UnknownTask for what is neither."""
    parts = dict(_parts(env.observation_space))
    images = [path for path, space in parts.items() if is_image(space)]
    if len(parts) == 1 and images:
        (path,) = images
        if path:
            env = TransformObservation(
                env, lambda seen: functools.reduce(lambda at, key: at[key], path, seen), parts[path]
            )
        return as_image(env)
    if images:
        others = ", ".join(_named(path) for path in parts if path != images[0])
        raise UnknownTask(
            f"gym/{name} is no task here: it shows the image {_named(images[0])} beside {others}, but an agent sees "
            "one image or one vector; --wrappers module:function can choose"
        )
    for path, space in parts.items():
        flat = isinstance(space, Box) and len(space.shape) <= 2
        if not (flat or isinstance(space, Discrete | MultiDiscrete | MultiBinary)):
            raise UnknownTask(
                f"gym/{name} is no task here: its observations must be uint8 images with 1, 3 or 4 channels, or Box of "
                f"at most two axes, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of these, not {_text(space)}"
                + (f" in {_named(path)}" if path else "")
            )
    return as_vector(env)


def _parts(space: Space, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Space]]:
    """What a space is made of: the keys that lead there, and a space that is no Dict or Tuple."""
    if isinstance(space, Dict | Tuple):
        for key, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
            yield from _parts(part, (*path, key))
    else:
        yield path, space


def _named(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _text(space: Space) -> str:
    return " ".join(str(space).split())


def masked(env: gymnasium.Env, options: GymOptions) -> gymnasium.Env:
    """The environment in an `ActionMask` where it says which of its discrete actions it allows."""
    has_mask = options.mask_from_info or masks_actions(env)
    discrete = isinstance(env.action_space, Discrete | MultiDiscrete)
    return ActionMask(env, options.mask_from_info) if has_mask and discrete else env


def _make_one(name: str, options: GymOptions) -> gymnasium.Env:
    env = make_single(name, options)
    space = env.action_space
    if options.mask_from_info and isinstance(space, Box):
        raise UnknownTask(f"gym/{name} is no task here: it masks actions, but these are {_text(space)}")
    env = masked(env, options)
    try:
        env = OneDiscreteAction(env) if isinstance(space, Discrete) else RowActions(env)
    except TypeError:
        raise UnknownTask(
            f"gym/{name} is no task here: its actions must be Discrete, MultiDiscrete or a Box of floating-point "
            f"numbers, not {_text(space)}; --wrappers module:function can change them"
        ) from None
    env = _shown(name, ActionRepeat(env, options.action_repeat))
    return FrameStack(env, options.frame_stack) if options.frame_stack > 1 else env


SUITE = Suite(
    name="gym",
    summary="any Gymnasium id, your own too, such as these",
    options=GymOptions,
    list_tasks=lambda: ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1"),
    check=_check,
    make=single_streams(_make_one),
    frames_per_step=lambda name, options: options.action_repeat,
    look_up=_look_up,
)
