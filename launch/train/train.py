"""The main job: train an agent, from an empty or an interrupted run directory to the last checkpoint."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from r2ac.agents import ObservationSpec
from r2ac.envs import EngineFailed, EnvironmentFailed, make_vector
from r2ac.launch.rollouts.inference.pool import InferenceFailed
from r2ac.launch.rollouts.rollout_source import ActorsLost
from r2ac.launch.runs.loading import agent_of_shapes, learner_device, load_agent, load_encoder, make_agent
from r2ac.launch.runs.metrics import MetricsWriter
from r2ac.launch.runs.mirror import Mirror
from r2ac.launch.runs.run_directory import RunDirectory, default_run_directory, new_directory
from r2ac.launch.runs.storage import StorageUnavailable
from r2ac.launch.runtime.errors import LearnersLost, RunDirectoryError, RunUnwritable, with_details_kept
from r2ac.launch.runtime.process import learner_threads, set_up_process
from r2ac.launch.runtime.progress import Progress, print_table
from r2ac.launch.runtime.signals import StopSignals
from r2ac.launch.runtime.supervisor import TRY_AGAIN, restarts
from r2ac.launch.settings.config import ConfigError, TrainConfig, config_from_json
from r2ac.launch.train.callback import TrainCallback
from r2ac.launch.train.loop import Records, Rollouts, ShowsProgress, Summary, Training
from r2ac.launch.train.memory_budget import MemoryBudget, available_memory, check_fits, memory_budget, print_budget
from r2ac.launch.train.sources import make_batches, make_publisher, make_source
from r2ac.learner import (
    CaptureFailed,
    Collective,
    Learner,
    SingleLearner,
    TrainingDiverged,
    load_optimiser_state,
    use_matmul_precision,
)
from r2ac.learner.checkpoint import Checkpoint, CheckpointError, latest_checkpoint, load_checkpoint

RUN_FAILURES = (
    TrainingDiverged,
    ActorsLost,
    InferenceFailed,
    EngineFailed,
    CaptureFailed,
    LearnersLost,
    RunUnwritable,
    StorageUnavailable,
)
"""What ends a run that began well; each message is one sentence."""
FINAL_FAILURES = (TrainingDiverged, CaptureFailed)
"""Those of them that would come again in another try from the newest checkpoint."""


def failure_code(error: BaseException) -> int:
    """The exit code of what ended a run: TRY_AGAIN where it may go better from the newest checkpoint, 2 where its
    environment never worked, else 1."""
    if isinstance(error, EnvironmentFailed) and error.never_worked:
        return 2
    return TRY_AGAIN if isinstance(error, RUN_FAILURES) and not isinstance(error, FINAL_FAILURES) else 1


@dataclass(frozen=True)
class Resumed:
    """An interrupted run that is to go on."""

    run: RunDirectory
    checkpoint: Checkpoint
    path: Path
    """Where the checkpoint was read from."""


def open_interrupted(path: Path, waits: Callable[[str], object] | None = None) -> Resumed:
    """Lock the run at ``path``, as :meth:`RunDirectory.open` does, and read its newest checkpoint.

    Raises:
        RunDirectoryError: if there is no run, or it is in use.
        CheckpointError: if it has no checkpoint that can be read.
    """
    run = RunDirectory.open(path, for_writing=True, waits=waits)
    try:
        newest = latest_checkpoint(run.checkpoints)
        return Resumed(run, load_checkpoint(newest), newest)
    except CheckpointError as error:
        run.close()
        raise CheckpointError(f"{path} cannot go on: {error} (a damaged file must be removed first)") from error


def train(
    config: TrainConfig[Any],
    console: Console,
    resumed: Resumed | None = None,
    callback: TrainCallback | None = None,
    mirror: Mirror | None = None,
) -> int:
    """Train until ``total_steps``, or until SIGINT or SIGTERM asks to stop; both save a checkpoint.

    Args:
        config: checked settings.
        console: where the progress line and the summary are printed.
        resumed: the interrupted run to go on with; None begins a new one.
        follower: is told of each line of metrics, and can ask to stop too; not of learners in processes of their own.
        mirror: takes the run to its URL, where it is one at a URL; with learners in processes of their own the first of
            them has it.

    Returns:
        The exit code: 0 at the end of training, 128 + the signal's number where one came.

    Raises:
        ConfigError, InvalidOption, MissingPackage, RunDirectoryError, CheckpointError: for what the user can mend.
        TrainingDiverged, ActorsLost, LearnersLost: when the run cannot go on.
    """
    config.check()
    if resumed is not None:
        check_goes_on(config, resumed)
        learned = int(resumed.checkpoint.counters["env_steps"])
        if learned >= config.total_steps:
            with resumed.run:
                console.print(
                    f"{resumed.run.path} has learned from its {learned:,} steps; --total-steps N goes on to N",
                    soft_wrap=True,
                    markup=False,
                )
            return 0
    with ExitStack() as stack:
        path = resumed.run.path if resumed else stack.enter_context(new_run_path(config))
        if config.num_learners:
            # Its learners are made of what is in this module.
            from r2ac.launch.train.group import train_in_group
            from r2ac.launch.train.group_member import Place

            if resumed is not None:
                # The first learner reads and locks it.
                resumed.run.close()
            place = Place(path.absolute(), resumed is not None, bool(restarts()))
            return train_in_group(config, console, place)
        callback = callback or TrainCallback()
        signals = StopSignals(also=callback.stop_requested)
        stack.push(signals.__exit__)
        progress = stack.enter_context(Progress(config.total_steps, console, stall_seconds=config.stall_seconds))
        front = Front(
            path, resumed, progress, partial(print_start, console, config), callback, mirror, bool(restarts())
        )
        summary = learn(config, config, SingleLearner(), front, signals.stop_requested, signals.install)
    assert summary is not None
    print_summary(console, config.task, summary, signals.received)
    return 128 + signals.received if signals.received else 0


@dataclass(frozen=True)
class Front:
    """What the first learner of a training has beside what all have: it opens the run, and tells how it goes."""

    path: Path
    """Of the run."""
    resumed: Resumed | None
    """The run, where it goes on; None where it is to be created."""
    progress: ShowsProgress
    tell_budget: Callable[[MemoryBudget], None]
    callback: TrainCallback
    mirror: Mirror | None
    again: bool
    """Whether the training was started again after a failure."""


def learn(
    config: TrainConfig[Any],
    share: TrainConfig[Any],
    collective: Collective,
    front: Front | None,
    stop_requested: Callable[[], bool],
    take_signals: Callable[[], None],
) -> Summary | None:
    """One learner's part of a training, in this process, from its rollout actors to the last checkpoint.

    Args:
        config: of the whole training.
        share: the same with the actors and the batch of this learner.
        peers: all learners.
        front: of the first learner; None for the others.
        stop_requested: whether the training was asked to stop.
        take_signals: called where signals are to be taken, again after other libraries have put in their handlers.

    Returns:
        What became of it; None but for the first learner.

    Raises:
        As :func:`train`, and CollectiveBroken.
    """
    device = learner_device(share.device)
    set_up_process(learner_threads(share.learner_threads, share.busy_cores))
    use_matmul_precision(config.learner.matmul_precision)
    spec = observation_spec(config)
    resumed = front.resumed if front else None
    learner, budget = make_learner(share, spec, device, resumed, collective)
    with ExitStack() as stack:
        if front is not None:
            run = resumed.run if resumed else RunDirectory.create(front.path, config.to_json())
            stack.enter_context(run)
            front.tell_budget(budget)
        take_signals()
        try:
            counters = _begin_together(learner, resumed, collective)
            source = make_source(share, spec, learner, counters, first_index=collective.rank * share.num_actors)
        except BaseException:
            if front is not None and resumed is None:
                run.discard()
            raise
        batches = stack.enter_context(closing(make_batches(share, source, learner)))
        take_signals()
        records = None
        if front is not None:
            metrics = stack.enter_context(MetricsWriter(run, learner.env_steps if resumed else None))
            if resumed is not None:
                run.write_config(config.to_json())
            metrics.write_config(config.to_json(), learner.env_steps)
            again = front.again and resumed is not None
            records = Records(run, metrics, front.progress, front.callback, front.mirror, again)
        publisher = stack.enter_context(closing(make_publisher(share, batches, learner)))
        training = Training(config, learner, Rollouts(source, batches, publisher), collective, records, counters)
        began = learner.updates
        try:
            return training.loop(stop_requested)
        except EnvironmentFailed as error:
            if front is None:
                raise
            sentence = with_details_kept(error, run.path)
            raise EnvironmentFailed(sentence, "", error.never_worked and learner.updates == began) from error
        except (RunDirectoryError, CheckpointError) as error:
            if not any(run.checkpoints.glob("step_*")):
                run.discard()
                raise RunUnwritable(f"{error}; nothing was learned") from error
            place = front.mirror.url if front is not None and front.mirror is not None else run.path
            rest = f"the checkpoints before are whole, and {resume_command(place)} goes on once there is room"
            raise RunUnwritable(f"{error}; {rest}") from error
        except Exception as error:
            # One that nothing is known about comes with its traceback.
            if front is not None and not isinstance(error, RUN_FAILURES):
                with suppress(CheckpointError):
                    steps = int(load_checkpoint(latest_checkpoint(run.checkpoints)).counters["env_steps"])
                    error.add_note(f"What was learned in {steps:,} steps is saved: {resume_command(run.path)} goes on.")
            raise


def print_start(console: Console, config: TrainConfig[Any], budget: MemoryBudget, who: str = "the run") -> None:
    """What is done to rewards and ends, and what memory ``who`` will hold."""
    console.print(config.rewards_and_ends(), soft_wrap=True, markup=False)
    print_budget(console, budget, who)


def print_summary(console: Console, task: str, summary: Summary, stopped_by: signal.Signals | None) -> None:
    """The table at the end, and where everything lies."""
    mean_return = summary.mean_return
    title = f"{task}: {'stopped by ' + stopped_by.name if stopped_by else 'trained'}"
    rows = [
        ("environment steps", f"{summary.env_steps:,} ({summary.env_frames:,} frames)"),
        ("updates", f"{summary.updates:,}"),
        ("time", f"{summary.seconds:,.0f} s, {summary.steps / summary.seconds:,.0f} steps/s"),
        ("return, last 100 episodes", "–" if mean_return is None else f"{mean_return:,.3f}"),  # noqa: RUF001
    ]
    rows += [(name, f"{count:,}") for name, count in summary.notes.items() if count]
    print_table(console, title, [*rows, *summary.profile], summary.paths)
    if stopped_by:
        console.print(f"Continue with: {resume_command(summary.paths['run'])}", soft_wrap=True, markup=False)


def resume_command(place: Path | str) -> str:
    """What goes on with the run at a path or a URL."""
    return shlex.join(("r2ac", "train", "--resume", str(place)))


def new_run_path(config: TrainConfig[Any]) -> AbstractContextManager[Path]:
    """Where a new run is written; by default a directory that is made here, and removed if no run comes to be.

    Raises ConfigError where --run-dir is no folder of its own.
    """
    if config.run_dir is None:
        return new_directory(default_run_directory(config.task, config.agent.label, config.seed))
    if not config.run_dir.name:
        raise ConfigError(f"--run-dir is '{config.run_dir}', but a run needs a folder of its own")
    return nullcontext(config.run_dir)


def observation_spec(config: TrainConfig[Any]) -> ObservationSpec:
    """What the environment shows and takes. Raises EnvironmentFailed where one that no suite lists cannot make a step:
    before there is a run."""
    # One stream of each task, so that all are seen to show the same.
    count = len(config.tasks)
    env = make_vector(config.task, count, config.seed, options=config.env)
    try:
        if config.tasks[0].suite.look_up is not None:
            env.reset()
            env.step(np.zeros(count, dtype=np.int64))
        return ObservationSpec.of(env)
    finally:
        env.close()


def make_learner(
    config: TrainConfig[Any],
    spec: ObservationSpec,
    device: torch.device,
    resumed: Resumed | None = None,
    collective: Collective | None = None,
) -> tuple[Learner, MemoryBudget]:
    """The learner, as new or as it was, and the memory that the run will hold.

    Args:
        config: checked settings, of this learner.
        spec: what the environment shows and takes.
        device: where it learns.
        resumed: the run that goes on; None for a new one.
        peers: all learners; None for one alone. What there is to be read from files, the first of them reads.

    Raises:
        ConfigError: where the memory is not there.
        CheckpointError: where the checkpoint, or that of the encoder, does not fit.
    """
    # An agent that does not fit must not be made.
    check_fits(memory_budget(config, agent_of_shapes(spec, config.agent), spec, device), available_memory(device))
    agent = make_agent(spec, config.agent, config.seed, device)
    if resumed is None and config.encoder_from is not None and (collective is None or collective.rank == 0):
        load_encoder(agent, config.encoder_from)
    if config.freeze_encoder:
        agent.freeze_encoder()
    budget = memory_budget(config, agent, spec)
    check_fits(budget, available_memory(device))
    # A trace of a captured update has no parts.
    settings = replace(config.learner, cuda_graph=False) if config.profile else config.learner
    learner = Learner(agent, settings, config.num_streams, config.total_steps, collective)
    if resumed is not None:
        _restore(learner, resumed.checkpoint, resumed.path)
    return learner, budget


def check_goes_on(config: TrainConfig[Any], resumed: Resumed) -> None:
    """Raise ConfigError where a setting that the checkpoint depends on is not what it was."""
    before = config_from_json(resumed.checkpoint.config, resumed.path)
    pairs = [(name, getattr(before, name), getattr(config, name)) for name in ("encoder_from", "freeze_encoder")]
    pairs.append(("optimiser", before.learner.optimiser, config.learner.optimiser))
    pairs += [(name, was, getattr(config.agent, name)) for name, was in vars(before.agent).items()]
    for name, was, now in pairs:
        if was != now:
            raise ConfigError(f"--{name.replace('_', '-')} is {now}, but a run goes on as it began, with {was}")


def _begin_together(learner: Learner, resumed: Resumed | None, collective: Collective) -> Mapping[str, int | float]:
    """Give all learners what the first one begins with. Returns the counters of its checkpoint, none for a new run."""
    own = resumed.checkpoint if resumed else None
    checkpoint = collective.share(own)
    weights = collective.share({name: tensor.cpu() for name, tensor in learner.agent.state_dict().items()})
    if collective.rank > 0:
        learner.agent.load_state_dict(weights)
        if checkpoint is not None:
            _restore(learner, checkpoint, Path("the checkpoint"))
            # They are summed over the learners.
            learner.carries.resets = 0
    return checkpoint.counters if checkpoint else {}


def _restore(learner: Learner, checkpoint: Checkpoint, source: Path) -> None:
    """Bring learner, counters and random state back to what they were; every stream begins a new episode."""
    counters = checkpoint.counters
    load_agent(learner.agent, checkpoint, source)
    load_optimiser_state(learner.optimiser, checkpoint.optimiser)
    learner.env_steps, learner.updates = int(counters["env_steps"]), int(counters["updates"])
    learner.skipped_updates = int(counters["skipped_updates"])
    learner.carries.resets = int(counters["stream_resets"])
    learner.carries.next_sequence[:] = int(counters["next_sequence"])
    torch.set_rng_state(checkpoint.random_state)
