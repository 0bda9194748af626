"""The configuration of a training run: one dataclass, read by the command line and written to config.json."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from r2ac.agents import AgentConfig
from r2ac.agents.config import agent_label, gradient_of, only_gradient
from r2ac.envs import SuiteOptions, Task, find_tasks, one_suite
from r2ac.launch.settings.policy_lag import PREFETCHED, UNDER_WAY, least_bound
from r2ac.learner import LearnerConfig
from r2ac.learner.config import ONE_STEP

EnvOptions = TypeVar("EnvOptions", bound=SuiteOptions)
MAX_GROUPS = 255
_HAS_SHARED_MEMORY = hasattr(os, "memfd_create")
_RENAMED = {"max_failures": "max_engine_failures"}  # options of an environment, as earlier versions called them


class ConfigError(ValueError):
    """A setting that is not allowed; the message names the value and what is allowed."""


@dataclass(frozen=True)
class TrainConfig(Generic[EnvOptions]):
    """Settings of a training run. Counts are in environment steps (agent decisions), not in frames. An interrupted run
    goes on with: r2ac train --resume RUN [--flags]"""

    task: tyro.conf.Fixed[str]
    """Suite and task, such as memory/tmaze (`r2ac envs` lists them); several of one suite, separated by commas, or the
    name of a list such as dmlab-30, for one agent that learns all of them."""
    env: EnvOptions
    agent: AgentConfig = field(default_factory=AgentConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)

    seed: int = 1
    """Seeds environments, actors and initial weights."""
    total_steps: int = 200_000_000
    """Environment steps to learn from."""
    rollout_length: int = 50
    """Steps of a rollout (T)."""
    batch_size: int = 32
    """Rollouts in an update (B), each of another stream; where the algorithm learns on-policy, of all streams."""
    bootstrap_at_time_limits: bool = False
    """Where a time limit ends an episode, let the return go on with the value of its last observation; else a time
    limit ends the return like any other end. Rollouts then hold the last observations too, and are twice as large."""
    num_actors: int = 2
    """Rollout actors, each a Ray process, on a cluster at the most: those for which it has no CPU yet wait for one; 0:
    one in this process, without Ray, bit-identical for one seed on a CPU."""
    streams_per_actor: int = 24
    """Environments that each rollout actor steps together."""
    stagger_streams: bool = False
    """Cut the first episode of each stream short at a step drawn by the seed, so that streams of a task whose episodes
    all have the same number of steps do not end them together; these are not counted. On for such tasks by default."""
    rollouts_in_flight: int = 2
    """Rollouts that an actor may be ahead of the learner; at least 2, so that it never waits for weights, but 1 where
    the algorithm learns on-policy."""
    publish_every: int = 1
    """Updates between two publications of the weights to those who act."""
    max_policy_lag: int = 0
    """The most updates that the weights behind a rollout may be old when it is learned from: the learner waits for late
    actors; 0: no bound but that of the queue."""
    inference: Literal["auto", "actor", "worker"] = "auto"
    """Who computes the actions: each rollout actor for itself, on its core; or an inference worker for all of them, on
    the GPU; auto takes the worker for images where there is a GPU, on this machine alone. On a cluster actors ask
    workers through Ray."""
    inference_workers: int = 1
    """Inference workers, with --inference worker; several GPUs are dealt out among them."""
    inference_device: str = "auto"
    """Where inference workers act, or with --num-actors 0 the actor: cpu, cuda, cuda:1, …; auto takes the GPU where
    there is one (in this process: for images)."""
    stream_groups: int = 0
    """Groups of an actor's streams: one is stepped while the actions of another are computed; 0: two with inference
    workers, else one."""
    transport: Literal["auto", "shared", "ray"] = "auto"
    """How rollouts reach the learner: in memory that both share, on one machine; or through Ray's object store, also
    from other machines; auto shares where Ray is local."""

    device: str = "auto"
    """Where the learner runs: cpu, cuda, cuda:1, …; auto takes the GPU where there is one."""
    num_learners: int = 0
    """Learners in Ray processes of their own, each with a share of the actors and of the batch and, where it learns on
    GPUs, with one of its own; together they make the updates of one learner. 0: one, in this process."""
    learner_threads: int = 0
    """CPU threads of a learner; 0: all cores but those of the actors (of DMLab: the engines), at least one."""
    ray_address: str = "local"
    """Ray cluster to join; local starts Ray on this machine, reachable from this machine only."""

    run_dir: Path | None = None
    """Where the run is written; runs/<suite>-<task>/<core and gradient>-seed<seed>-<time> if not given."""
    encoder_from: Path | None = None
    """Run or checkpoint whose encoder the agent begins with, and whose mean and deviation of vectors where those are
    normalised."""
    freeze_encoder: bool = False
    """Keep the encoder as it is, that of --encoder-from or the random one of the start: it costs no backward pass, and
    the core's gradient is the whole one."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints are kept."""
    log_steps: int = 0
    """Environment steps between two lines of metrics.jsonl; 0: a 200th of the run, at most 100,000."""
    log: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Where else than in the run's directory its measurements and settings go: to Weights & Biases, to MLflow, or to
    both."""
    max_failures: int = 0
    """Times that the training is started again from its newest checkpoint after it was killed or has failed, by a
    parent process that watches over it; 0: none."""
    video_minutes: float = 0.0
    """Minutes between two episodes that the learner plays and films for TensorBoard, at most 200 steps each, while
    training stands still; 0: none."""

    stall_seconds: float = 60.0
    """Seconds without a rollout after which the progress line says which actor hands over nothing (--step-timeout
    replaces it)."""

    profile: bool = False
    """Write where the time goes into the run's folder `profile`: a page, and traces of the learner and of Ray. On a GPU
    updates are then launched kernel by kernel."""

    @property
    def label(self) -> str:
        """The agent in a few words, after the algorithm where it is not the default one."""
        agent = self.agent
        return training_label(self.learner.algorithm, agent.core, agent.gradient, agent.freeze_core, agent.layers)

    @property
    def num_streams(self) -> int:
        """Streams of all rollout actors together."""
        return max(self.num_actors, 1) * self.streams_per_actor

    @property
    def busy_cores(self) -> int:
        """Cores that the rollout actors take, or the engines where each stream has one in a process of its own."""
        return max(self.num_actors, self.num_streams if self.tasks[0].suite.engine_processes else 0)

    @property
    def shares_memory(self) -> bool:
        """Whether rollouts lie in memory that actors and learner share."""
        local = self.ray_address == "local" and self.num_actors > 0 and _HAS_SHARED_MEMORY
        return local if self.transport == "auto" else self.transport == "shared"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the agent learns; raises UnknownTask."""
        return find_tasks(self.task)

    @property
    def log_interval(self) -> int:
        """Environment steps between two lines of metrics.jsonl."""
        return self.log_steps or max(1, min(self.total_steps // 200, 100_000))

    @property
    def in_step(self) -> dict[str, Any]:
        """The only values that some settings can have where the algorithm learns on-policy, from the rollouts of all
        streams with the newest weights; none for other algorithms."""
        if not self.learner.on_policy:
            return {}
        one_step = {"rollout_length": 1} if self.learner.algorithm in ONE_STEP else {}
        settings = {"batch_size": self.num_streams, "rollouts_in_flight": 1, "publish_every": 1, "max_policy_lag": 0}
        return settings | one_step

    def check(self) -> None:
        """Raise ConfigError, UnknownTask or InvalidOption for the first setting that is not allowed."""
        whole = "num_actors max_policy_lag stream_groups num_learners learner_threads log_steps max_failures"
        counts = "total_steps rollout_length batch_size streams_per_actor publish_every inference_workers"
        agent, learner = self.agent, self.learner
        _require(self, "stall_seconds", "above 0 and finite", lambda x: 0 < x < inf)
        _require(self, "seed", "at least 0 and below 2**64", lambda x: 0 <= x < 2**64)
        _require(self, whole, "at least 0", lambda x: x >= 0)
        _require(self, f"{counts} keep_checkpoints", "at least 1", lambda x: x >= 1)
        _require(self, "checkpoint_minutes video_minutes", "at least 0 and finite", lambda x: 0 <= x < inf)
        if agent.core not in (AgentConfig.core,):
            # The table of the others needs torch, which takes seconds to import.
            from r2ac.agents import CORE_NAMES, is_core

            _require(agent, "core", f"one of {CORE_NAMES}", is_core)
        only = only_gradient(agent)
        cause = "--freeze-core" if agent.freeze_core else f"--core {agent.core}"
        _require(agent, "gradient", f"{only} with {cause}", lambda x: only in (None, x))
        _require(agent, "hidden_size layers encoder_features readout_size", "at least 1", lambda x: x >= 1)
        _require(agent, "reward_clip", "above 0 and finite, or none", lambda x: x == "none" or 0 < float(x) < inf)
        scales = "input_scale recurrent_scale"
        _require(agent, scales, "above 0 and finite", lambda x: x is None or 0 < x < inf)
        _require(agent, "chrono_steps", "0 or at least 2", lambda x: x == 0 or x >= 2)
        _require(learner, "discount", "in [0, 1]", lambda x: 0 <= x <= 1)
        _require(learner, "vtrace_lambda gae_lambda trace_lambda", "in [0, 1]", lambda x: 0 <= x <= 1)
        rates = "learning_rate max_gradient_norm clip_rho clip_pg_rho clip_c clip_range"
        _require(learner, rates, "above 0 and finite", lambda x: 0 < x < inf)
        bounds = "clip_range_vf target_kl"
        _require(learner, bounds, "above 0 and finite, or none", lambda x: x == "none" or 0 < float(x) < inf)
        _require(learner, "baseline_cost entropy_cost step_bound", "at least 0 and finite", lambda x: 0 <= x < inf)
        _require(learner, "n_epochs num_minibatches", "at least 1", lambda x: x >= 1)
        _require(learner, "rtrl_metrics_every refresh_every", "at least 0", lambda x: x >= 0)
        _require(learner, "refresh_rollouts max_skipped_updates", "at least 1", lambda x: x >= 1)
        if gradient_of(agent.core, agent.gradient, agent.freeze_core) != "rtrl":
            needs = f"0 with an agent that is trained without sensitivities ({agent.label})"
            _require(learner, "refresh_every", needs, lambda x: x == 0)
        if self.batch_size > self.num_streams:
            raise ConfigError(
                f"--batch-size is {self.batch_size}, but each rollout of a batch comes from another stream and there "
                f"are only {self.num_streams} (actors times --streams-per-actor): lower the one or raise the other"
            )
        self._check_in_step()
        self._check_actors()
        self._check_learners()
        if agent.encoder == "none":
            if self.encoder_from is not None and not self.encoder_from.exists():
                raise ConfigError(f"--encoder-from is {self.encoder_from}, which does not exist")
            _require(self, "freeze_encoder", "False with --encoder none", lambda x: not x)
        suite = one_suite(self.tasks)
        if self.bootstrap_at_time_limits and not suite.final_observations:
            raise ConfigError(
                f"--bootstrap-at-time-limits is not possible with {suite.name}: its engine never shows the last "
                "observation of an episode"
            )
        if self.num_streams < len(self.tasks):
            raise ConfigError(
                f"--streams-per-actor is {self.streams_per_actor}, which makes {self.num_streams} streams, but "
                f"{len(self.tasks)} tasks need at least one each"
            )
        for task in self.tasks:
            task.checked_options(self.env)
        if self.stagger_streams and not any(task.episode_steps(self.env) for task in self.tasks):
            raise ConfigError(
                f"--stagger-streams is True, but it must be False with {self.task}: r2ac does not know that all its "
                "episodes have one length"
            )
        if self.num_actors == 0 and (seconds := self.tasks[0].killed_after(self.env)):
            raise ConfigError(
                f"--step-timeout is {seconds:g}, but it must be 0 with --num-actors 0: a step that does not return "
                "is ended by killing its process, and here that is this one"
            )

    def _check_in_step(self) -> None:
        """Whether the rollouts are as new as the algorithm needs them."""
        for name, value in self.in_step.items():
            allowed = f"{value} with --algorithm {self.learner.algorithm}"
            if name == "batch_size":
                allowed += ", the number of streams, which --num-actors and --streams-per-actor change"
            require(getattr(self, name) == value, name, getattr(self, name), allowed)
        share = self.batch_size // max(self.num_learners, 1)
        divides = f"a divisor of the {share} streams of a learner"
        _require(self.learner, "num_minibatches", divides, lambda x: share % x == 0)
        if not self.learner.on_policy:
            _require(self, "rollouts_in_flight", "at least 2", lambda x: x >= 2)

    def _check_actors(self) -> None:
        """Who acts where, and how old weights may be."""
        if self.inference == "worker" and self.num_actors == 0:
            raise ConfigError("--inference is worker, but it must be actor with --num-actors 0")
        if self.inference == "worker" and not self.shares_memory:
            allowed = self.inference_device in ("auto", "cpu", "cuda")
            require(allowed, "inference_device", self.inference_device, "auto, cpu or cuda: Ray deals out the GPUs")
        if self.transport == "shared" and not (_HAS_SHARED_MEMORY and self.num_actors and self.ray_address == "local"):
            raise ConfigError("--transport is shared, but that needs actors, --ray-address local, and os.memfd_create")
        if self.stream_groups > min(self.streams_per_actor, MAX_GROUPS):
            raise ConfigError(
                f"--stream-groups is {self.stream_groups}, but it must be at most --streams-per-actor "
                f"({self.streams_per_actor}) and {MAX_GROUPS}"
            )
        if self.max_policy_lag and self.num_actors == 0:
            raise ConfigError(
                f"--max-policy-lag is {self.max_policy_lag}, but it must be 0 with --num-actors 0: no actor is late"
            )
        if self.max_policy_lag:
            import torch

            under_way = UNDER_WAY if self.device != "cpu" and torch.cuda.is_available() else 0
            least = least_bound(
                self.num_streams, self.batch_size, self.rollouts_in_flight, PREFETCHED, self.publish_every, under_way
            )
            if self.max_policy_lag < least:
                raise ConfigError(
                    f"--max-policy-lag is {self.max_policy_lag}, but it must be 0 or at least {least}: so many updates "
                    f"it takes to learn from the {self.rollouts_in_flight} rollouts in flight of {self.num_streams} "
                    f"streams, {self.batch_size} an update"
                )

    def _check_learners(self) -> None:
        """Whether several learners have equal shares."""
        if self.num_learners == 0:
            return
        for name in ("num_actors", "batch_size"):
            value, flag = getattr(self, name), name.replace("_", "-")
            if value == 0 or value % self.num_learners:
                raise ConfigError(
                    f"--{flag} is {value}, but it must be a multiple of --num-learners ({self.num_learners}): each "
                    "learner has an equal share"
                )
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"--device is {self.device}, but with --num-learners it must be auto, cpu or cuda: Ray gives each "
                "learner a GPU of its own"
            )

    def rewards_and_ends(self) -> str:
        """One sentence that says what is done to rewards and to the ends of episodes."""
        agent, bound = self.agent, self.agent.reward_clip
        done = ["divided by the running deviation of the discounted return"] if agent.normalise_rewards else []
        done += [] if bound == "none" else [f"clipped to [-{bound:g}, {bound:g}]"]
        rewards = f"{' and then '.join(done)} in the losses and in the core's input" if done else "as they are"
        limits = "does not end the return" if self.bootstrap_at_time_limits else "ends the return"
        return f"rewards: {rewards}; a time limit {limits}"

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON has them: paths are text, tuples lists."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=os.fspath))
        return values


def training_label(algorithm: str | None, *agent: Any) -> str:
    """:attr:`TrainConfig.label` from settings of which old runs may lack some; ``agent`` are those of `agent_label`."""
    names = ("" if algorithm in (None, LearnerConfig.algorithm) else algorithm, agent_label(*agent))
    return " ".join(name for name in names if name)


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise ConfigError for the value of a flag where it is not ``allowed``."""
    if not holds:
        raise ConfigError(f"--{name.replace('_', '-')} is {value}, but it must be {allowed}")


def _require(part: object, names: str, allowed: str, holds: Callable[[Any], bool]) -> None:
    for name in names.split():
        require(holds(getattr(part, name)), name, getattr(part, name), allowed)


def config_from_json(values: dict[str, Any], source: Path) -> TrainConfig[Any]:
    """The configuration that :meth:`TrainConfig.to_json` wrote. Raises UnknownTask, and ConfigError where ``source``
    holds something else, or fields that this version does not know."""
    try:
        options = find_tasks(values["task"])[0].suite.options
        paths = {name: Path(values[name]) for name in ("run_dir", "encoder_from") if values.get(name) is not None}
        parts = {
            "env": _typed(options, {_RENAMED.get(name, name): value for name, value in values["env"].items()}),
            "agent": _typed(AgentConfig, values["agent"]),
            "learner": _typed(LearnerConfig, values["learner"]),
        }
        return _typed(TrainConfig, {**values, **paths, **parts})
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source} is not a configuration of this version of r2ac: {error}") from error


def _typed(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass ``kind`` with ``values``; raises TypeError for a plain field whose value is of another type."""
    for name, hint in get_type_hints(kind).items():
        if name not in values:
            continue
        if not _fits(values[name], hint):
            raise TypeError(f"{name} is {values[name]!r}")
        if get_origin(hint) is tuple:
            values = {**values, name: tuple(values[name])}
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether JSON's ``value`` is of a field's type; true for types that JSON does not have."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(each, get_args(hint)[0]) for each in value)
    if hint is NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint if hint in (int, str, bool) else True
