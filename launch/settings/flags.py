"""The flags of a training: words on a command line, and the settings that they make."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import field as new_field
from dataclasses import fields, make_dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from r2ac.agents.config import AgentConfig, gradient_of, only_gradient
from r2ac.envs import SUITES, find_tasks, one_suite
from r2ac.launch.settings.config import ConfigError, TrainConfig, require
from r2ac.launch.settings.matching import with_matched_size
from r2ac.launch.settings.parser import describe, parse, parse_known
from r2ac.launch.settings.presets import ALGORITHMS_OF, preset, preset_options
from r2ac.learner import LearnerConfig


def flag_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings by the names of their fields as the words of a command line."""
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool) and name not in _OPTIONAL_TRUTHS:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        elif isinstance(value, Mapping):
            words += [f"--{flag}", json.dumps(value)]
        elif str(value).startswith("-"):
            words.append(f"--{flag}={value}")
        else:
            words += [f"--{flag}", str(value)]
    return words


_OPTIONAL_TRUTHS = {
    name for name, hint in get_type_hints(AgentConfig).items() if set(get_args(hint)) == {bool, NoneType}
}
"""Flags that take the word true or false; others are switches."""


def parse_with_options(
    kind: Any, prog: str, arguments: Sequence[str], default: Any, names: str, description: str | None = None
) -> Any:
    """`parse` for a generic dataclass whose field `env` holds the options of a suite. Raises ConfigError also for an
    option that none of the tasks `names` reads; the help leaves these out."""
    if {"-h", "--help"}.intersection(arguments):
        default = replace(default, env=_read_options(default.env, names))
    else:
        _check_options(default.env, arguments, names)
    return parse(kind[type(default.env)], prog, arguments, default, description)


def _read_options(options: Any, names: str) -> Any:
    """Those of the options that the tasks read, as a dataclass of their own."""
    describe(type(options), options)
    hints, tasks = get_type_hints(type(options)), find_tasks(names)
    shown = [
        (each.name, hints[each.name], new_field(default=getattr(options, each.name), metadata=each.metadata))
        for each in fields(options)
        if any(task.reads(each.name) for task in tasks)
    ]
    return make_dataclass("Options", shown, namespace={"__doc__": options.__doc__})()


def is_flag(word: str, flag: str) -> bool:
    """Whether a word is this flag, alone or with its value; underscores are dashes, as for tyro."""
    return word.startswith("--") and word.partition("=")[0].replace("_", "-") == flag


def take_flag(arguments: list[str], flag: str) -> str | None:
    """Take a flag and its value, written ``--flag value`` or ``--flag=value``, out of the arguments; returns the value,
    None where the flag is not there. Raises ConfigError where no value follows."""
    for i, word in enumerate(arguments):
        if is_flag(word, flag):
            if "=" in word:
                return arguments.pop(i).partition("=")[2]
            if i + 1 == len(arguments) or arguments[i + 1].startswith("--"):
                raise ConfigError(f"{flag} is given without a value")
            del arguments[i]
            return arguments.pop(i)
    return None


def replace_flags(arguments: Sequence[str], by: Sequence[str]) -> list[str]:
    """The arguments with the flags ``by``, each with one value, which take the place of those of the same name."""
    rest = list(arguments)
    for word in by:
        if word.startswith("--"):
            take_flag(rest, word.partition("=")[0].replace("_", "-"))
    return [*rest, *by]


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """The same, but the arguments stay as they are."""
    return take_flag(list(arguments), flag)


def last_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag that may be given twice, as the parser takes it."""
    rest, value = list(arguments), None
    while (found := take_flag(rest, flag)) is not None:
        value = found
    return value


def with_flag(sentence: str) -> str:
    """The sentence of an error; where its first word is a field of the agent, the learner or the environment, as in
    what their packages raise, with the flag of that field instead, and with switches as they are typed."""
    parts = AgentConfig, LearnerConfig, *(suite.options for suite in SUITES.values())
    first, _, rest = sentence.partition(" ")
    named = any(field.name == first for part in parts for field in fields(part))
    sentence = f"--{first.replace('_', '-')} {rest}" if named else sentence
    match = _SWITCH.fullmatch(sentence)
    if match is None or match["name"].replace("-", "_") in _OPTIONAL_TRUTHS:
        return sentence
    is_set, allowed = ("--" + "no-" * (match[value] == "False") + match["name"] for value in ("value", "allowed"))
    return f"{is_set} is set, but {match['why']} {allowed}{match['rest']}"


_SWITCH = re.compile(
    r"--(?P<name>\S+) is (?P<value>True|False), but (?P<why>.*?(?:it must be|it began, with)) "
    r"(?P<allowed>True|False)(?! or)(?P<rest>.*)"
)
"""What is said of a switch whose value is not allowed."""


def require_runs(runs: Sequence[Path], command: str) -> None:
    if not runs:
        raise ConfigError(f"r2ac {command} needs at least one run directory")


def check_ranges(arguments: object, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Raise ConfigError for the first number of the arguments that is not within its range, both ends included."""
    for name, (least, most) in ranges.items():
        value = getattr(arguments, name)
        require(value is None or least <= value <= most, name, value, f"from {least} to {most}")


def changed_config(
    before: TrainConfig[Any],
    prog: str,
    arguments: Sequence[str],
    description: str | None = None,
    names: str | None = None,
) -> TrainConfig[Any]:
    """The settings with what the flags say; what can have one value only has it unless a flag says otherwise. Raises
    ConfigError for a flag of another algorithm, another suite or other tasks; where the flags are for each of the tasks
    ``names``, for one of none of these."""
    config = parse_with_options(TrainConfig, prog, arguments, before, names or before.task, description)
    algorithm = config.learner.algorithm
    for settings, algorithms in ALGORITHMS_OF.items():
        for name in settings.split():
            if algorithm not in algorithms and (flag := _given(name, arguments)):
                only = " or ".join(algorithms)
                raise ConfigError(f"{flag} is a setting of --algorithm {only}, but the algorithm is {algorithm}")
    gradient, core = only_gradient(config.agent), config.agent.core
    if gradient and not _given("gradient", arguments):
        config = replace(config, agent=replace(config.agent, gradient=gradient))
    elif config.agent.gradient == "rtrl" and gradient_of(core, "rtrl") is None and _given("gradient", arguments):
        raise ConfigError(f"--gradient is rtrl, but --core {core} has no memory to train: leave --gradient out")
    asked = [name for name in _OF_ACTORS if _given(name, arguments)]
    if asked and config.num_actors == 0 and not _given("num_actors", arguments):
        config = replace(config, num_actors=max(config.num_learners, 1))
    return replace(config, **{name: value for name, value in config.in_step.items() if not _given(name, arguments)})


def _check_options(options: Any, arguments: Sequence[str], names: str) -> None:
    """Raise ConfigError for an option that only other suites have, or that only other tasks read."""
    suites: dict[str, list[str]] = {}
    for suite in SUITES.values():
        for field in fields(suite.options):
            suites.setdefault(field.name, []).append(suite.name)
    known = {field.name for kind in (type(options), TrainConfig, AgentConfig, LearnerConfig) for field in fields(kind)}
    for name in suites:
        if name not in known and (flag := _given(name, arguments)):
            raise ConfigError(f"{flag} is an option of the suite {' or '.join(suites[name])}, which is not the task's")
    tasks = find_tasks(names)
    suite = tasks[0].suite
    for name, readers in suite.read_by.items():
        if not any(task.reads(name) for task in tasks) and (flag := _given(name, arguments)):
            only = ", ".join(f"{suite.name}/{reader}" for reader in readers)
            raise ConfigError(f"{flag} is an option of {only}: it would have no effect on {names.replace(',', ', ')}")


_OF_ACTORS = ("ray_address", "num_learners", "inference", "inference_workers", "transport")
"""Settings of a training with rollout actors: where one is given, the training has at least one actor."""


def _given(field: str, arguments: Sequence[str]) -> str | None:
    """The flag of a field that is among the arguments; None where there is none."""
    flags = [f"--{no}{field.replace('_', '-')}" for no in ("", "no-")]
    return next((flag for flag in flags for word in arguments if is_flag(word, flag)), None)


def training_config(task: str, arguments: Sequence[str], names: str | None = None) -> TrainConfig[Any]:
    """The task's preset with what the flags say; those of the environment are read first, as the preset needs them, and
    `--match-parameters` last. ``names``: all tasks that the flags are for, each in a training of its own."""
    rest = list(arguments)
    words = [task, *takewhile(lambda word: word.strip(",").partition("/")[0] in (*SUITES, ""), rest)]
    if len(words) > 1:
        joined = ",".join(part for word in words if (part := word.strip(",")))
        raise ConfigError(f"{' '.join(words)!r} are several words, but several tasks are joined by commas: {joined}")
    chosen: dict[str, Any] = {name: last_value(rest, f"--{name}") for name in ("algorithm", "core", "encoder")}
    options = preset_options(task, take_flag(rest, "--preset"))
    prog = f"r2ac train {task}"
    options, _ = parse_known(type(options), prog, [word for word in rest if word not in ("-h", "--help")], options)
    named = " or ".join(one_suite(find_tasks(task)).presets)
    doc = " ".join((TrainConfig.__doc__ or "").split())
    about = f"{doc} Presets of this suite, which flags override: --preset {named}" if named else None
    config = changed_config(preset(task, options=options, **chosen), prog, rest, about, names)
    if config.num_actors == 0 and not _given("batch_size", rest):
        # The suites' presets count on the streams of several actors.
        config = replace(config, batch_size=min(config.batch_size, max(config.num_streams, 1)))
    return with_matched_size(config)
