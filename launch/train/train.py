"""The main job: train an agent, from an empty or an interrupted run to the last checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.runs.trackers import check_trackers
from r2ac.launch.runtime.progress import TrainingProgress
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.runtime.supervisor import restarts
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.settings.places import is_url
from r2ac.launch.train.group import LearnerGroup
from r2ac.launch.train.learn import learn
from r2ac.launch.train.resume import newest_step
from r2ac.launch.train.run_context import TrainCallback, open_run
from r2ac.launch.train.summary import print_start, print_summary
from r2ac.learner import SingleLearner


def train(
    config: TrainConfig[Any],
    place: Path | str,
    new: bool | None,
    console: Console,
    callback: TrainCallback | None = None,
) -> int:
    """Train until ``total_steps``, or until SIGINT or SIGTERM asks to stop; both save a checkpoint. Returns the exit
    code: 0 at the end of training, 128 + the signal's number where one came.

    The run is opened with ``place`` and ``new`` by :func:`r2ac.launch.train.run_context.open_run`: here, or by the
    first of ``num_learners`` learners in processes of their own, of which ``callback`` gets no lines of metrics. Raises
    what `open_run` raises, InvalidOption, MissingPackage, and one of ``RUN_FAILURES`` where the run cannot continue.
    """
    config.check()
    check_trackers(config.log)
    callback = callback or TrainCallback()
    progress = TrainingProgress(config.total_steps, console, stall_seconds=config.stall_seconds)
    callback = replace(callback, show_status=progress.update, show_budget=partial(print_start, console, config))
    signals = StopSignals(also=callback.stop_requested)
    with ExitStack() as stack:
        if config.num_learners:
            run, learned = None, 0 if new or is_url(str(place)) else newest_step(place) or 0
        else:
            run = stack.enter_context(open_run(place, new, config, console, callback, bool(restarts())))
            learned = run.env_steps
        if learned >= config.total_steps:
            goes_on = f"--total-steps is {config.total_steps:,}, and one above {learned:,} goes on"
            said = f"{place} has learned from its {learned:,} steps; {goes_on}"
            console.print(said, soft_wrap=True, markup=False)
            return 0
        stack.push(signals.__exit__)
        stack.enter_context(progress)
        if run is not None:
            # From here on there is a run that is to be saved, or removed.
            signals.install()
            summary = learn(config, SingleLearner(), run, signals)
        else:
            group = LearnerGroup(config, stack, console)
            signals.install()
            summary = group.train(place, new, callback, signals)
    assert summary is not None
    print_summary(console, config.task, summary, signals.received)
    return 128 + signals.received if signals.received else 0
