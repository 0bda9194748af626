"""What a suite and a task are, and the errors that a user of them can meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gymnasium.vector import VectorEnv

Split = Literal["train", "test"]


class UnknownTask(ValueError):
    """There is no task of that name; the message gives the nearest names, or what stands in the way."""


class InvalidOption(ValueError):
    """An option's value is not allowed; the message names the value and what is allowed."""


class MissingPackage(ImportError):
    """The engine of a suite is not installed; the message says what to install."""


class EngineFailed(RuntimeError):
    """An engine cannot be started, or dies over and over; the message says why."""


class EnvironmentFailed(EngineFailed):
    """An environment raised an error, or did what none may do. The message ``sentence`` names its task; ``details``
    are its own traceback, if any; ``never_worked`` says that it failed before its second step."""

    def __init__(self, sentence: str, details: str = "", never_worked: bool = False) -> None:
        # All of them, so that the error keeps them on its way from another process.
        super().__init__(sentence, details, never_worked)
        self.details, self.never_worked = details, never_worked

    def __str__(self) -> str:
        return str(self.args[0])


def missing_modules(*modules: str) -> list[str]:
    """Those of the top-level modules that are not installed; none of them is imported."""
    return [module for module in modules if find_spec(module) is None]


def check_at_least(label: str, value: object, least: int, unit: str) -> None:
    """Raises InvalidOption unless `value` is an int (Python's or numpy's) of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InvalidOption(f"{label} is {value!r}, but it must be an int of at least {least} ({unit})")


_type_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def check_choices(options: Any) -> None:
    """Raises InvalidOption unless each bool and each Literal of the dataclass has a value that its type allows."""
    for label, kind in _type_hints(type(options)).items():
        value, allowed = getattr(options, label), get_args(kind)
        if kind is bool and not isinstance(value, bool):
            raise InvalidOption(f"{label} is {value!r}, but it must be True or False")
        if get_origin(kind) is Literal and value not in allowed:
            raise InvalidOption(f"{label} is {value!r}, but it must be one of {', '.join(map(str, allowed))}")


@dataclass(frozen=True)
class ReferenceScores:
    """Two returns that a task's return is normalised with: (return - low) / (high - low)."""

    low: float
    high: float
    low_name: str
    high_name: str

    def normalise(self, episode_return: float) -> float:
        """0 at `low`, 1 at `high`; below 0 and above 1 are possible."""
        return (episode_return - self.low) / (self.high - self.low)


def mean_normalised_return(
    scores: Sequence[ReferenceScores], episode_returns: Sequence[float], cap: float = math.inf
) -> float:
    """The mean over tasks of min((return - low) / (high - low), cap), of each task's mean return; with cap = 1 over its
    30 tasks it is the score of DMLab-30 (Espeholt et al. 2018, "IMPALA", section 5.3; there in percent)."""
    pairs = zip(scores, episode_returns, strict=True)
    return sum(min(score.normalise(mean), cap) for score, mean in pairs) / len(scores)


@dataclass(frozen=True)
class Spaces:
    """What a task shows and takes."""

    shape: tuple[int, ...]
    """Of one observation: [C, H, W] of an image, [K] of a vector."""
    dtype: str
    """`uint8` for images, `float32` for vectors."""
    actions: int | None
    """The number of actions; None where only the engine knows."""


@dataclass(frozen=True)
class SuiteOptions:
    """Options that every suite has."""

    max_episode_steps: int = 0
    """Steps of the agent after which an episode is truncated, beside the task's own limits; 0: no such limit."""
    step_timeout: float = 0.0
    """Seconds after which the process of an actor (or of an evaluation) whose environments do not return from a step
    is killed and replaced; it must allow for the resets in a step. 0: never."""


@dataclass(frozen=True)
class Suite:
    """A family of tasks that share an engine and its options. A new suite is one more value of this type.

    The callables take a task's bare name (`Breakout`, not `atari/Breakout`) and options that `check` accepts.
    """

    name: str
    summary: str
    options: type[SuiteOptions]
    """Dataclass of the suite's options; its defaults are the paper's preset."""
    list_tasks: Callable[[], tuple[str, ...]]
    """Bare names of the tasks, also where the engine is not installed."""
    make: Callable[[str, int, int, Split, Any], VectorEnv]
    """make(name, num_envs, seed, split, options): see `make_vector`."""
    check: Callable[[str, Any], None] = lambda name, options: None
    """check(name, options) raises InvalidOption; it needs no engine. `check_choices` checks bool and Literal."""
    frames_per_step: Callable[[str, Any], int] = lambda name, options: 1
    reference_scores: Callable[[str, Any], ReferenceScores | None] = lambda name, options: None
    growing: tuple[str, ...] = ()
    """Tasks whose highest return grows with their `curriculum`."""
    episode_steps: Callable[[str, Any], int | None] = lambda name, options: None
    """The number of steps that all episodes of a task have; None where they differ or are not known."""
    describe: Callable[[str], str] = lambda name: ""
    """What a task asks for, in a sentence."""
    look_up: Callable[[str], None] | None = None
    """For names beyond those that `list_tasks` can list: look_up(name) raises UnknownTask unless there is the task."""
    spaces: Callable[[str, Any], Spaces | None] = lambda name, options: None
    """spaces(name, options) of the environment that `make` makes, without the engine; None where only that knows."""
    check_here: Callable[[str, Any], object] = lambda name, options: None
    """check_here(name, options) raises InvalidOption where something that the options name is not on this machine."""
    make_each: Callable[[Sequence[str], int, Split, Any], VectorEnv] | None = None
    """make_each(names, seed, split, options): stream i plays names[i]. None where a vector environment has one task."""
    read_by: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For each option that not all tasks read, the tasks that do."""
    unlisted: tuple[str, ...] = ()
    """Tasks that the name of the suite does not stand for: they are named one by one."""
    endless: tuple[str, ...] = ()
    """Tasks of which no episode ends, but for `max_episode_steps`."""
    foreign: bool = True
    """Whether code of others makes its numbers, so that they are checked."""
    final_observations: bool = True
    """Whether an episode that a time limit cuts off comes with its last observation."""
    modules: tuple[str, ...] = ()
    """Top-level modules of the engine."""
    remedy: str = ""
    """What to install for the engine; empty where there is none."""
    load: Callable[[], object] = lambda: None
    """Imports the engine, in this process."""
    engine_processes: bool = False
    """Whether the environments themselves replace an engine that takes longer than `step_timeout`."""
    presets: Mapping[str, Any] = field(default_factory=dict)
    """Options of published protocols by their names, in suites that have more than the defaults."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(Task(self, name) for name in self.list_tasks())

    def missing(self) -> str | None:
        """None where the engine is installed, else one sentence that says what to install."""
        if absent := missing_modules(*self.modules):
            return f"the suite {self.name} needs {', '.join(absent)}, not installed here: {self.remedy}"
        return None


def cannot_load(suite: str, reason: object, remedy: str) -> str:
    """One sentence for an engine that is installed and cannot be imported."""
    return f"the suite {suite} cannot load its engine ({' '.join(str(reason).split())}): {remedy}"


@dataclass(frozen=True)
class Task:
    """One task of a suite. Every `options` may be None for the suite's defaults; a wrong one raises InvalidOption."""

    suite: Suite
    short_name: str

    @property
    def name(self) -> str:
        """The full name, such as `atari/Breakout`."""
        return f"{self.suite.name}/{self.short_name}"

    def reads(self, option: str) -> bool:
        """Whether an option of the suite means anything to this task."""
        return self.short_name in self.suite.read_by.get(option, (self.short_name,))

    def checked_options(self, options: Any = None) -> Any:
        """The options, or the suite's defaults for None; raises InvalidOption where this task cannot run with them."""
        options = self.suite.options() if options is None else options
        if not isinstance(options, self.suite.options):
            kinds = f"{self.suite.options.__name__}, not {type(options).__name__}"
            raise InvalidOption(f"the options of {self.name} must be of type {kinds}")
        check_at_least("max_episode_steps", options.max_episode_steps, 0, "steps, 0 for no limit")
        if not 0 <= (seconds := options.step_timeout) < math.inf:
            raise InvalidOption(f"step_timeout is {seconds}, but it must be at least 0 and finite (seconds)")
        self.suite.check(self.short_name, options)
        check_choices(options)
        return options

    def killed_after(self, options: Any = None) -> float:
        """Seconds in a step after which a process that plays is to be killed; 0 for never, as for suites that replace
        their engines themselves."""
        return 0.0 if self.suite.engine_processes else self.checked_options(options).step_timeout

    def frames_per_step(self, options: Any = None) -> int:
        """Engine frames that one agent step takes (the action repeat)."""
        return self.suite.frames_per_step(self.short_name, self.checked_options(options))

    def spaces(self, options: Any = None) -> Spaces | None:
        """What the task shows and takes; None where only the engine knows."""
        return self.suite.spaces(self.short_name, self.checked_options(options))

    def episode_steps(self, options: Any = None) -> int | None:
        """The number of steps that all episodes have, `max_episode_steps` included; None where they differ or are not
        known."""
        options = self.checked_options(options)
        steps = self.suite.episode_steps(self.short_name, options)
        return steps if steps is None else min(steps, options.max_episode_steps or steps)

    def is_endless(self, options: Any = None) -> bool:
        """Whether no episode ever ends, `max_episode_steps` included."""
        return self.short_name in self.suite.endless and not self.checked_options(options).max_episode_steps

    def reference_scores(self, options: Any = None) -> ReferenceScores | None:
        """The returns to normalise with, or None where none are published."""
        return self.suite.reference_scores(self.short_name, self.checked_options(options))

    def training_scores(self, options: Any = None) -> ReferenceScores | None:
        """The same for returns in training: None where a curriculum makes them smaller than those of whole episodes."""
        grows = self.short_name in self.suite.growing and self.checked_options(options).curriculum
        return None if grows else self.reference_scores(options)
