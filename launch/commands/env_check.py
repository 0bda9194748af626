"""What r2ac makes of an environment of a user's own: a hundred steps, and Gymnasium's own checker."""

from __future__ import annotations

import copy
import random
import re
import time
import traceback
import warnings
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence

from r2ac.agents import ActionSpec
from r2ac.envs import EnvironmentFailed, Signals, checked, make_vector
from r2ac.envs.action_spaces import ActionMask, actions_text
from r2ac.envs.checked import exits_raise
from r2ac.envs.gym import GymOptions, make_single, masked
from r2ac.envs.single import number_of, truth_of, values_of_reset, values_of_step
from r2ac.launch.runtime.step_timer import step_limit

_COLOURS = re.compile(r"\x1b\[\d*m")
_PATIENCE = 60.0
"""Seconds that a call of the environment may take where --step-timeout does not say."""


@dataclass(frozen=True)
class Finding:
    about: str
    text: str
    wrong: bool = False


@dataclass
class _Played:
    """What some steps of one environment showed."""

    observations: list[Any] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of the episodes that ended
    truncated: int = 0
    info_keys: set[str] = field(default_factory=set)
    outside: str = ""  # the first observation that its space does not hold
    failure: str = ""  # what the environment raised, and when, or that it did not return


@exits_raise()
def check_environment(name: str, options: GymOptions, seed: int, steps: int) -> list[Finding]:
    """What r2ac makes of the environment ``gym/<name>`` after steps of uniformly random actions; one that takes longer
    than ``options.step_timeout`` seconds (0: 60) is a failure of the environment. Only the main thread, which receives
    signals, can call this. Raises UnknownTask, InvalidOption, MissingPackage."""
    env = make_vector(f"gym/{name}", 1, seed, options=options)
    env.close()
    shown, taken = env.single_observation_space, env.single_action_space
    kind = "an image" if len(shown.shape or ()) == 3 else "a vector"
    single = make_single(name, options)
    inner = masked(single, options).observation_space
    keys = inner.spaces if kind == "a vector" and isinstance(inner, spaces.Dict) else ()
    order = f", in the order {', '.join(keys)}" if keys else ""
    single.close()
    played = _play(name, options, seed, steps, generators=0)
    seen = f"{_text(single.observation_space)}, seen as {kind}: {shown.dtype} {list(shown.shape or ())}{order}"
    masks = ", masked" if getattr(env.unwrapped, "masks_actions", False) else ""
    unused = sorted(played.info_keys - ({"action_mask"} if options.mask_from_info else set()))
    findings = [
        Finding("observation", seen),
        Finding("actions", f"{_text(single.action_space)}: {actions_text(taken)} actions{masks}"),
        Finding("infos", f"{', '.join(unused) or 'empty'}: not used"),
        _ends(played, single.spec, steps),
        _rewards(played.rewards),
    ]
    if played.outside:
        findings.append(Finding("observation", played.outside, wrong=True))
    if played.failure:
        findings.append(Finding("steps", played.failure, wrong=True))
    if not any(finding.wrong for finding in findings):
        findings += [_speed(name, options, seed, steps), _seeds(name, options, seed, steps, played)]
    if masks:
        return [*findings, Finding("check_env", "not asked: Gymnasium's own checker takes masked actions too")]
    return [*findings, *_gymnasium_says(name, options)]


def _play(name: str, options: GymOptions, seed: int, steps: int, generators: int) -> _Played:
    """Steps of the environment before r2ac wraps it; ``generators`` seeds the global ones of Python and numpy."""
    played = _Played()
    env = masked(make_single(name, options), options)
    step = 0
    random.seed(generators)
    np.random.seed(generators)
    try:
        with step_limit(options.step_timeout or _PATIENCE):
            observation, info = values_of_reset(env.reset(seed=seed))
        began = 0
        # Not the environment's own seed: its draws would be those of the actions.
        env.action_space.seed(seed + 1)
        for step in range(1, steps + 1):
            _note(played, env, observation, info, step)
            action = env.sample() if isinstance(env, ActionMask) else env.action_space.sample()
            with step_limit(options.step_timeout or _PATIENCE):
                observation, reward, terminated, truncated, info = values_of_step(env.step(action))
            terminated, truncated = truth_of("terminated", terminated), truth_of("truncated", truncated)
            played.rewards.append(reward)
            if terminated or truncated:
                played.lengths.append(step - began)
                played.truncated += not terminated
                _note(played, env, observation, info, step)
                with step_limit(options.step_timeout or _PATIENCE):
                    observation, info = values_of_reset(env.reset())
                began = step
        _note(played, env, observation, info, step)
        env.close()
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = Path(__file__).parents[1], Path(checked.__file__).parent
        place = next(
            (frame for frame in reversed(frames) if not any(map(Path(frame.filename).is_relative_to, ours))), frames[-1]
        )
        raised = f" raises {error!r} ({place.filename}, line {place.lineno})"
        # Where it is what was returned, the sentence says all.
        played.failure = f"step {step}" + (
            f": {error}" if frames[-1].filename == values_of_step.__code__.co_filename else raised
        )
    return played


def _note(played: _Played, env: gymnasium.Env, observation: Any, info: Any, step: int) -> None:
    # A copy: the environment may write the next one into the same array.
    played.observations.append(copy.deepcopy(observation))
    # Infos of another kind are for Gymnasium's checker to name: r2ac drops them.
    played.info_keys.update(map(str, info if isinstance(info, dict) else ()))
    if not played.outside and not env.observation_space.contains(observation):
        wrong = _why_outside(env.observation_space, observation)
        played.outside = f"what is shown before step {step} does not lie in its space: {wrong}"


def _why_outside(space: gymnasium.Space, value: Any, name: str = "it") -> str:
    """What keeps a value from its space, the first of it."""
    parts: list[tuple[gymnasium.Space, Any, str]] = []
    if isinstance(space, spaces.Dict) and isinstance(value, dict):
        if space.keys() != value.keys():
            return f"{name} has the keys {sorted(value, key=str)}, not {sorted(space, key=str)}"
        parts = [(part, value[key], repr(key)) for key, part in space.items()]
    elif isinstance(space, spaces.Tuple) and isinstance(value, tuple) and len(space) == len(value):
        parts = [(*pair, f"part {number}") for number, pair in enumerate(zip(space, value, strict=True))]
    elif isinstance(space, spaces.Box) and isinstance(value, np.ndarray):
        if not np.can_cast(value.dtype, space.dtype):
            return f"{name} is {value.dtype}, not {space.dtype}"
        if value.shape != space.shape:
            return f"{name} has the shape {value.shape}, not {space.shape}"
        for where in np.argwhere(~((value >= space.low) & (value <= space.high)))[:1]:
            at = tuple(where)
            return f"{name} holds {value[at]}, but there {space.low[at]} to {space.high[at]} are allowed"
    for part in parts:
        if not part[0].contains(part[1]):
            return _why_outside(*part)
    return f"{name} is {_text(value)[:200]}, but its space is {space}"


def _ends(played: _Played, spec: Any, steps: int) -> Finding:
    limit = getattr(spec, "max_episode_steps", None)
    limited = f"a time limit of {limit} steps" if limit else "no time limit"
    lengths = played.lengths
    if not lengths:
        return Finding("ends", f"no episode ended in {steps} steps; {limited}")
    ended = f"{len(lengths)} episodes of {min(lengths)} to {max(lengths)} steps ended"
    return Finding("ends", f"{ended}, {played.truncated} of them by truncation; {limited}")


def _rewards(rewards: list[Any]) -> Finding:
    numbers = []
    for reward in rewards:
        try:
            numbers.append(number_of(reward))
        except TypeError:
            return Finding("rewards", f"{reward!r} is no number", wrong=True)
    if wrong := [number for number in numbers if not isfinite(number)]:
        return Finding("rewards", f"{len(wrong)} of {len(numbers)} are not finite, such as {wrong[0]}", wrong=True)
    if not numbers:
        return Finding("rewards", "none")
    if not any(numbers):
        return Finding("rewards", f"all {len(numbers)} are 0: try --steps {10 * len(numbers)}, or another --seed")
    large = sum(abs(number) > 1 for number in numbers)
    clipped = f"; {large} of {len(numbers)} lie outside of [-1, 1]" if large else ""
    return Finding("rewards", f"{min(numbers):g} to {max(numbers):g}, mean {np.mean(numbers):.3g}{clipped}")


def _speed(name: str, options: GymOptions, seed: int, steps: int) -> Finding:
    env = make_vector(f"gym/{name}", 1, seed, options=options)
    spec, random = ActionSpec.of(env.single_action_space), np.random.default_rng(seed)
    try:
        _, info = env.reset()
        began = time.perf_counter()
        for _ in range(steps):
            with step_limit(options.step_timeout or _PATIENCE):
                actions = spec.at_random(random, 1, Signals.of(info).action_mask)
                _, _, _, _, info = env.step(actions)
        rate = steps / (time.perf_counter() - began)
        env.close()
    except EnvironmentFailed as error:
        return Finding("steps", f"with other actions: {error}", wrong=True)
    return Finding("speed", f"{rate:,.0f} steps/s on one core, without the agent")


def _seeds(name: str, options: GymOptions, seed: int, steps: int, first: _Played) -> Finding:
    """One seed must show the same, whatever the state of the global generators is."""

    def shows_the_same(generators: int) -> bool:
        again = _play(name, options, seed, steps, generators)
        own, others = ((each.observations, each.rewards, each.lengths, each.truncated) for each in (first, again))
        return data_equivalence(own, others)

    if shows_the_same(generators=1):
        return Finding("seeds", "one seed shows the same again")
    if shows_the_same(generators=0):
        return Finding("seeds", "draws from the global random or np.random, not from self.np_random", wrong=True)
    text = "one seed shows something else each time: reset(seed=…) must seed all that is drawn"
    return Finding("seeds", text, wrong=True)


def _gymnasium_says(name: str, options: GymOptions) -> list[Finding]:
    """What `check_env` says of the environment without wrappers."""
    env, findings = make_single(name, options).unwrapped, []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with step_limit(options.step_timeout or _PATIENCE):
                check_env(env, skip_render_check=True)
        except (Exception, SystemExit) as error:
            findings.append(Finding("check_env", _text(error) or repr(error), wrong=True))
    remarks = dict.fromkeys(_COLOURS.sub("", _text(each.message)).removeprefix("WARN: ") for each in said)
    findings += [Finding("check_env", remark) for remark in remarks]
    return findings or [Finding("check_env", "Gymnasium's own checker has no remarks")]


def _text(value: object) -> str:
    return " ".join(str(value).split())
