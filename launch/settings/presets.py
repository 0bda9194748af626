"""The settings that each suite, task and algorithm begins with; every one can be overridden on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatch
from functools import partial
from typing import Any

from r2ac.agents import AgentConfig
from r2ac.envs import Task, find_tasks, make_vector, one_suite
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.task_settings import LEAST_EPISODES, MADE_FOR, PPO_OF_SMALL, TASK_SETTINGS
from r2ac.learner import LearnerConfig

_Settings = Callable[[Task, Any], TrainConfig[Any]]


def preset(
    task: str,
    protocol: str | None = None,
    options: Any = None,
    algorithm: str | None = None,
    core: str | None = None,
    encoder: str | None = None,
) -> TrainConfig[Any]:
    """The settings for a task: the paper's for its suites (Irie et al. 2024, section 4 and appendix A), with those of
    the ``algorithm``; None: V-trace, but PPO for the suites of `TASK_SETTINGS`, which have settings for each task.
    Of these, those of `MADE_FOR` go where another ``core`` or ``encoder`` is named.

    Several tasks, as `find_tasks` reads them, have the settings of the first, and at least one stream each. ``options``
    are the environment's where they are known, else those of the suite's preset ``protocol``, or its defaults. Raises
    UnknownTask, InvalidOption, MissingPackage and, for a protocol that the suite does not have, ConfigError.
    """
    tasks = find_tasks(task)
    options = preset_options(task, protocol) if options is None else options
    suite = one_suite(tasks).name
    config = replace(_SETTINGS.get(suite, _default)(tasks[0], options), task=task)
    changes = _settings_of(tasks[0], options)
    for part, named in (("core", core), ("encoder", encoder)):
        if named not in (None, changes.get(part, getattr(AgentConfig, part))):
            changes = {name: value for name, value in changes.items() if name not in MADE_FOR[part]}
    algorithm = algorithm or ("ppo" if changes else "vtrace")
    if algorithm in ALGORITHM_SETTINGS:
        changes = changes if changes and algorithm == "ppo" else ALGORITHM_SETTINGS[algorithm]
        config = _with_settings(config, {"algorithm": algorithm, **changes})
    streams_needed = -(-len(tasks) // max(config.num_actors, 1))
    streams = max(config.streams_per_actor, streams_needed)
    in_phase = any(each.episode_steps(options) for each in tasks)
    config = replace(config, streams_per_actor=streams, stagger_streams=in_phase)
    return replace(config, **config.in_step)


def _settings_of(task: Task, options: Any) -> dict[str, Any]:
    """What `TASK_SETTINGS` says of a task, the first pattern that fits; empty where none does."""
    name = f"{task.name} {'pixels' if getattr(options, 'pixels', False) else 'vectors'}"
    pattern = next((pattern for pattern in TASK_SETTINGS if fnmatch(name, pattern)), None)
    if pattern is None:
        return {}
    steps, settings = task.episode_steps(options) or 50, TASK_SETTINGS[pattern]
    total_steps = max(settings["total_steps"], LEAST_EPISODES.get(pattern, 0) * steps)
    return {**PPO_OF_SMALL, "chrono_steps": max(10, 2 * steps), **settings, "total_steps": total_steps}


def _with_settings(config: TrainConfig[Any], values: Mapping[str, Any]) -> TrainConfig[Any]:
    """The configuration with other values of fields, its own or those of the agent and the learner."""

    def own(part: Any) -> dict[str, Any]:
        return {field.name: values[field.name] for field in fields(part) if field.name in values}

    agent, learner = config.agent, config.learner
    return replace(config, **own(config), agent=replace(agent, **own(agent)), learner=replace(learner, **own(learner)))


def preset_options(task: str, protocol: str | None = None) -> Any:
    """The options of the environment that :func:`preset` takes where none are known; no environment is made."""
    tasks = find_tasks(task)
    suite = one_suite(tasks)
    if protocol is not None and protocol not in suite.presets:
        has = ", ".join(suite.presets) or "its defaults only"
        raise ConfigError(f"--preset is {protocol!r}, but {suite.name} has {has}")
    options = suite.options() if protocol is None else suite.presets[protocol]
    names = {field.name for field in fields(options)}
    if "threads" in names:
        # Each rollout actor has one core, on which it also runs the agent.
        options = replace(options, threads=1)
    if "instruction" in names and any(each.short_name.startswith("language_") for each in tasks):
        options = replace(options, instruction=True)
    return options


def _default(task: Task, options: Any) -> TrainConfig[Any]:
    """Atari and ProcGen: the defaults of the configuration are the paper's."""
    return TrainConfig(task.name, options)


def _dmlab(task: Task, options: Any) -> TrainConfig[Any]:
    """Of the rollouts of 10, 50 and 100 steps in the paper the longest do best."""
    steps = 30_000_000 if task.short_name == "rooms_select_nonmatching_object" else 100_000_000
    return TrainConfig(task.name, options, agent=AgentConfig(hidden_size=512), total_steps=steps, rollout_length=100)


def _memory(task: Task, options: Any, **changes: Any) -> TrainConfig[Any]:
    """Settings of V-trace, stream and td, which solve the T-maze. PPO's are those of `TASK_SETTINGS`."""
    spaces = task.spaces(options)
    return replace(_small(task, options, images=spaces is not None and len(spaces.shape) == 3), **changes)


def _small(task: Task, options: Any, images: bool) -> TrainConfig[Any]:
    """For small observations. Without chrono initialisation the forget gates lose the cue within a few steps. Without
    an encoder the gradient is exact from end to end. The settings for images are not tuned."""
    return TrainConfig(
        task.name,
        options,
        agent=AgentConfig(hidden_size=64, encoder="auto" if images else "none", chrono_steps=100),
        learner=LearnerConfig(optimiser="adam", learning_rate=1e-3 if images else 4e-3),
        total_steps=1_500_000,
        rollout_length=10,
        batch_size=64,
        num_actors=1,
        streams_per_actor=64,
        learner_threads=1,
    )


def _gym(task: Task, options: Any) -> TrainConfig[Any]:
    """Most ids do not ask for long memory, rewards may be of any size, and time limits are not part of most tasks."""
    env = make_vector(task.name, 1, 0, options=options)
    shape = env.single_observation_space.shape or ()
    env.close()
    config = _small(task, options, images=len(shape) == 3)
    agent = replace(config.agent, chrono_steps=0, normalise_rewards=True, reward_clip=10.0)
    return replace(config, agent=agent, bootstrap_at_time_limits=True)


_SETTINGS: dict[str, _Settings] = {
    "dmlab": _dmlab,
    "memory": _memory,
    # For V-trace the budget of POPGym's own benchmark (Morad et al. 2023).
    "popgym": partial(_memory, total_steps=15_000_000),
    "minigrid": partial(_memory, total_steps=10_000_000),
    "gym": _gym,
}
"""By suite; the others have the paper's."""

_ONE_STEP = {
    "num_actors": 0,
    "streams_per_actor": 1,
    "optimiser": "sgd",
    "learning_rate": 1.0,
    "learning_rate_schedule": "constant",
    "reward_clip": "none",
}
"""One stream in this process, and plain gradient descent with a bounded step (Elsayed et al. 2024)."""
ALGORITHM_SETTINGS: dict[str, dict[str, Any]] = {
    "vtrace": {},
    # The defaults of Stable-Baselines3 where they mean the same; our value loss has a factor of 0.5 inside.
    "ppo": {
        "optimiser": "adam",
        "learning_rate": 3e-4,
        "learning_rate_schedule": "constant",
        "max_gradient_norm": 0.5,
        "baseline_cost": 1.0,
        "entropy_cost": 0.0,
    },
    "stream": {**_ONE_STEP, "normalise_rewards": True, "normalise_observations": True},
    "td": {**_ONE_STEP, "normalise_rewards": False},
}
"""What ``--algorithm`` changes of the settings of a suite, by the names of the flags; what is not named here is the
suite's, or the field's default."""
ALGORITHMS_OF = {
    "clip_rho clip_pg_rho clip_c vtrace_lambda": ("vtrace",),
    "n_epochs num_minibatches gae_lambda clip_range clip_range_vf clip_schedule": ("ppo",),
    "entropy_schedule normalise_advantage target_kl": ("ppo",),
    "trace_lambda step_bound": ("stream", "td"),
    "baseline_cost entropy_cost": ("vtrace", "ppo", "stream"),
}
"""The algorithms that read a setting, for those settings that not all read."""
_OF_THE_ALGORITHM = (
    frozenset(name for settings in ALGORITHM_SETTINGS.values() for name in settings)
    | frozenset(name for names in ALGORITHMS_OF for name in names.split())
    | {"batch_size", "rollouts_in_flight"}
)
_OF_THE_TASK = (
    frozenset(name for settings in TASK_SETTINGS.values() for name in settings) | {*PPO_OF_SMALL, "chrono_steps"}
) - {"core", "total_steps"}


def of_the_algorithm(suite: str) -> frozenset[str]:
    """Settings that follow from the algorithm on tasks of a suite: two runs that differ by the algorithm differ by
    these, too, without anybody's having named them."""
    has_settings = any(pattern.startswith(f"{suite}/") for pattern in TASK_SETTINGS)
    return _OF_THE_ALGORITHM | _OF_THE_TASK if has_settings else _OF_THE_ALGORITHM
