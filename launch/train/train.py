"""The main job: train an agent, from an empty or an interrupted run directory to the last checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import Console

from r2ac.launch.runs.mirror import Mirror
from r2ac.launch.runtime.progress import TrainingProgress
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.runtime.supervisor import restarts
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.callback import TrainCallback
from r2ac.launch.train.learn import Front, learn
from r2ac.launch.train.resume import Resumed, check_goes_on
from r2ac.launch.train.summary import new_run_path, print_start, print_summary
from r2ac.learner import SingleLearner


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
        stall_seconds = config.stall_seconds
        progress = stack.enter_context(TrainingProgress(config.total_steps, console, stall_seconds=stall_seconds))
        front = Front(
            path, resumed, progress.update, partial(print_start, console, config), callback, mirror, bool(restarts())
        )
        summary = learn(config, config, SingleLearner(), front, signals.stop_requested, signals.install)
    assert summary is not None
    print_summary(console, config.task, summary, signals.received)
    return 128 + signals.received if signals.received else 0
