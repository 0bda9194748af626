"""What a sweep is going to train: every trial with its checked configuration, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

from r2ac.envs import MissingPackage
from r2ac.launch.runs.run_directory import default_run_directory
from r2ac.launch.runs.trackers import check_trackers
from r2ac.launch.runtime.errors import RunDirectoryError, os_reason
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.flags import flag_value, training_config
from r2ac.launch.sweeps.space import Domain, Listed, Settings, Span, Value, draw_settings, parse_bounds, parse_vary
from r2ac.launch.sweeps.sweep_settings import SweepSettings, settings_from_json
from r2ac.learner import LearnerConfig

SAME_FOR_ALL = frozenset(
    {"run-dir", "ray-address", "device", "num-actors", "learner-threads", "log", "profile", "transport"}
    | {"inference", "inference-workers", "inference-device"}
)
"""Flags that say where and how a run goes."""
SCORE_LINES = 10
"""Lines of metrics over which a score is the mean."""
PERTURBABLE = frozenset(name.replace("_", "-") for name, hint in get_type_hints(LearnerConfig).items() if hint is float)
"""What may change within a training: numbers of the learner."""


@dataclass(frozen=True)
class TrialPlan:
    """A trial, with the settings that were drawn for it and its whole configuration, run directory included."""

    name: str
    settings: Settings
    config: TrainConfig[Any]


@dataclass(frozen=True)
class SweepPlan:
    sweep_dir: Path
    """Absolute."""
    task: str
    flags: tuple[str, ...]
    """Of r2ac train, for every trial."""
    settings: SweepSettings
    space: dict[str, Domain]
    trials: tuple[TrialPlan, ...]

    @property
    def description(self) -> Path:
        return self.sweep_dir / "sweep.json"

    @property
    def perturbed(self) -> dict[str, Domain]:
        """What population based training changes: all that is random. Empty without it."""
        if not self.settings.is_population:
            return {}
        return {name: domain for name, domain in self.space.items() if not isinstance(domain, Listed)}

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """How far changes may carry each number."""
        spans = {name: (domain.low, domain.high) for name, domain in self.perturbed.items() if isinstance(domain, Span)}
        return spans | dict(_parse_bound(text) for text in self.settings.bounds)

    @property
    def perturb_every(self) -> int:
        """Environment steps between two comparisons of a population; 0 without one."""
        default = max(1, self.trials[0].config.total_steps // 20)
        return (self.settings.perturb_every or default) if self.settings.is_population else 0


def make_plan(task: str, flags: Sequence[str], settings: SweepSettings, drawn: Sequence[Settings] = ()) -> SweepPlan:
    """Draw the settings of all trials (or take those ``drawn`` before) and check each of them.

    Raises ConfigError, UnknownTask, InvalidOption, MissingPackage for what cannot be trained.
    """
    settings.check()
    space = parse_vary(settings.vary)
    base = training_config(task, flags)
    switches = _check_names(space, base, flags)
    _check_base(base, settings.metric)
    assert settings.sweep_dir is not None
    sweep_dir = settings.sweep_dir.absolute()
    random = any(not isinstance(domain, Listed) for domain in space.values())
    drawn = drawn or draw_settings(space, (settings.trials or 8) if random else 1, settings.sweep_seed)
    if not random and settings.trials > 1:
        raise ConfigError(
            f"--trials is {settings.trials}, but nothing that is varied is random: the lists make {len(drawn)} trials"
        )
    digits = max(2, len(str(len(drawn))))
    trials = []
    for number, values in enumerate(drawn, start=1):
        name = f"trial-{number:0{digits}}"
        config = training_config(task, [*flags, *(_flag(n, value, switches) for n, value in values.items())])
        encoder = config.encoder_from.absolute() if config.encoder_from else None
        address = "local" if settings.ray_address == "local" else "auto"
        config = replace(config, run_dir=sweep_dir / name, encoder_from=encoder, ray_address=address)
        config = replace(config, learner_threads=config.learner_threads or 1)
        config.check()
        trials.append(TrialPlan(name, values, config))
    plan = SweepPlan(sweep_dir, task, tuple(flags), replace(settings, sweep_dir=sweep_dir), space, tuple(trials))
    if not settings.is_population:
        return plan
    _check_population(plan)
    # So many lines of metrics that a score has its ten between two comparisons.
    most_steps = max(1, plan.perturb_every // SCORE_LINES)
    configs = [replace(t.config, log_steps=min(t.config.log_interval, most_steps)) for t in trials]
    trials = [replace(trial, config=config) for trial, config in zip(trials, configs, strict=True)]
    return replace(plan, trials=tuple(trials))


def with_settings(config: TrainConfig[Any], settings: Mapping[str, Value]) -> TrainConfig[Any]:
    """The configuration with other numbers of the learner, by the names of their flags."""
    numbers: dict[str, Any] = {name.replace("-", "_"): float(value) for name, value in settings.items()}
    return replace(config, learner=replace(config.learner, **numbers))


def read_plan(sweep_dir: Path, change: Any) -> SweepPlan:
    """The sweep that ``sweep.json`` describes; ``change`` takes its settings and returns those to resume with.

    Raises RunDirectoryError where there is no sweep, or it is damaged, and whatever :func:`make_plan` raises.
    """
    path = sweep_dir / "sweep.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        task, flags = str(values["task"]), tuple(map(str, values["flags"]))
        drawn = [dict(trial["settings"]) for trial in values["trials"]]
        settings = settings_from_json(values["sweep"], sweep_dir)
    except OSError as error:
        raise RunDirectoryError(
            f"{sweep_dir} is not a sweep: {path.name} cannot be read ({os_reason(error)})"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise RunDirectoryError(f"{path} is damaged: {error!r}") from error
    return make_plan(task, flags, change(settings), drawn)


def default_sweep_directory(task: str) -> Path:
    """``runs/<suite>-<name>/sweep-<YYYYmmdd-HHMMSS>``, relative."""
    return default_run_directory(task, "", 0).parent / f"sweep-{datetime.now():%Y%m%d-%H%M%S}"


def _check_base(base: TrainConfig[Any], metric: str) -> None:
    """Raise for what no trial of a sweep can be, or cannot be here, and where no line will have the metric."""
    if base.ray_address != "local" or base.run_dir is not None:
        raise ConfigError("--run-dir and --ray-address are not for single trials: give --sweep-dir and --ray-address")
    if base.num_learners:
        raise ConfigError(
            f"--num-learners is {base.num_learners}, but it must be 0 in a sweep: a trial learns in one process"
        )
    for task in base.tasks:
        if (sentence := task.suite.missing()) is not None:
            raise MissingPackage(sentence)
        task.suite.check_here(task.short_name, base.env)
        if metric.endswith("normalised_return") and task.training_scores(base.env) is None:
            raise ConfigError(
                f"--metric is {metric}, but {task.name} has no reference scores in training: take episode_return"
            )
    check_trackers(base.log)


def _check_names(space: Mapping[str, Domain], base: TrainConfig[Any], flags: Sequence[str]) -> frozenset[str]:
    """Raise ConfigError for a name that cannot be varied; returns the flags that are switches."""
    kinds = {"agent": base.agent, "learner": base.learner, "env": base.env}
    names = {f.name: get_type_hints(TrainConfig)[f.name] for f in fields(TrainConfig) if f.name not in kinds}
    for part in kinds.values():
        names |= get_type_hints(type(part))
    known = {name.replace("_", "-"): hint for name, hint in names.items() if name != "task"}
    for name in space:
        if name not in known:
            raise ConfigError(f"--vary {name}, but r2ac train {base.task} has no flag --{name} (see its --help)")
        if name in SAME_FOR_ALL:
            raise ConfigError(f"--vary {name}, but where and how a run goes is the same for every trial")
        if flag_value(flags, f"--{name}") is not None:
            raise ConfigError(f"--{name} is given and varied: leave out the one or the other")
    return frozenset(name for name, hint in known.items() if hint is bool)


def _flag(name: str, value: Value, switches: frozenset[str]) -> str:
    if name not in switches:
        return f"--{name}={value}"
    switch = str(value).lower()
    if switch not in ("true", "false"):
        raise ConfigError(f"--vary {name} has the value {value}, but it must be true or false")
    return f"--{name}" if switch == "true" else f"--no-{name}"


def _check_population(plan: SweepPlan) -> None:
    """Raise ConfigError for what a population cannot do."""
    if len(plan.trials) < 2:
        raise ConfigError(f"a population needs at least 2 trials, but --trials makes {len(plan.trials)}")
    if not plan.perturbed:
        raise ConfigError("--scheduler pbt has nothing to change: vary a number at random, as loguniform(…) does")
    for name, domain in plan.space.items():
        if isinstance(domain, Listed) and name != "seed":
            raise ConfigError(
                f"--vary {name} is a list, but with --scheduler pbt only seed can be one: members take over the "
                "weights of others, so that all else is the same for all or changes"
            )
        if not isinstance(domain, Listed) and name not in PERTURBABLE:
            raise ConfigError(
                f"--vary {name}, but with --scheduler pbt only these can change within a training: "
                f"{', '.join(sorted(PERTURBABLE))}"
            )
    config = plan.trials[0].config
    if plan.perturb_every >= config.total_steps:
        raise ConfigError(
            f"--perturb-every is {plan.perturb_every}, but it must be less than the steps of a trial, "
            f"{config.total_steps}"
        )
    for name, ends in plan.bounds.items():
        span = plan.perturbed.get(name)
        if not isinstance(span, Span):
            raise ConfigError(f"--bounds {name}, but no number of that name is varied at random")
        if span.low < ends[0] or span.high > ends[1]:
            raise ConfigError(
                f"--bounds {name} are {ends[0]:g},{ends[1]:g}, but draws lie between {span.low:g} and {span.high:g}"
            )
        for end in ends:
            with_settings(config, {name: end}).check()


def _parse_bound(text: str) -> tuple[str, tuple[float, float]]:
    name, separator, ends = text.partition("=")
    if not separator:
        raise ConfigError(f"--bounds is {text!r}, but it must be NAME=LOW,HIGH")
    return name.strip().removeprefix("--").replace("_", "-"), parse_bounds(f"--bounds is {text!r}", ends)
