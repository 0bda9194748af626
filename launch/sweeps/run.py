"""Trains the trials of a sweep through Ray Tune."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.cluster.connect import connect
from r2ac.launch.runtime.errors import last_line
from r2ac.launch.runtime.process import available_cores
from r2ac.launch.runtime.stop_signals import stops_here
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.sweeps.results import (
    BEGUN,
    FAILED,
    TRAINED,
    WAITING,
    TrialResult,
    print_results,
    result_of,
    write_description,
)
from r2ac.launch.sweeps.space import Value
from r2ac.launch.sweeps.sweep_plan import SweepPlan, TrialPlan
from r2ac.launch.sweeps.sweep_settings import SweepSettings
from r2ac.launch.sweeps.trial import Record, generation_of

KEPT_COPIES = 4
"""Checkpoints that Tune keeps of a member for others to copy; those of the last comparison are among them."""


def run_sweep(plan: SweepPlan, console: Console) -> int:
    """Trains what has not ended yet, prints the results of all and returns the exit code: 0, 1 where no trial was
    trained to its end, 130 where a signal interrupted the sweep.

    Raises RunDirectoryError, ConnectionFailed, and ConfigError for a device that the trials cannot have.
    """
    before = {trial.name: result_of(plan, trial) for trial in plan.trials}
    # A member that failed may yet copy another.
    over = (TRAINED,) if plan.settings.is_population else (TRAINED, FAILED)
    left = [trial for trial in plan.trials if before[trial.name].state not in over]
    crashes: dict[str, str] = {}
    if left:
        with _tune_set_up():
            try:
                crashes = _tune(plan, left, before, console)
            except KeyboardInterrupt:
                # Before Tune takes Ctrl-C, or again while it stops the trials. The sweep can be resumed.
                if not plan.description.exists():
                    raise
    results = [result_of(plan, trial, crashes.get(trial.name)) for trial in plan.trials]
    write_description(plan, results)
    print_results(console, plan, results)
    if any(result.state in (BEGUN, WAITING) for result in results):
        command = shlex.join(("r2ac", "sweep", "--resume", str(plan.sweep_dir)))
        console.print(f"Continue with: {command}", soft_wrap=True, markup=False)
        return 130
    if all(result.score is None for result in results):
        console.print(f"No trial has measured {plan.settings.metric}.", soft_wrap=True, markup=False)
    return 0 if any(result.state == TRAINED for result in results) else 1


def _tune(
    plan: SweepPlan, trials: Sequence[TrialPlan], before: Mapping[str, TrialResult], console: Console
) -> dict[str, str]:
    """Train these trials; returns what ended the processes of those that were given up, by name."""
    settings, config = plan.settings, trials[0].config
    # The learner's threads, and a core for each rollout actor.
    cpus = config.learner_threads + config.num_actors
    at_once = settings.concurrent or 1
    if settings.ray_address == "local":
        at_once = min(len(trials), settings.concurrent or max(1, available_cores() // cpus))
    working = plan.sweep_dir / ".tune"
    with closing(connect(settings.ray_address, num_actors=cpus * at_once)) as connection:
        # Not before Ray is there: a command that failed by then can be given again.
        write_description(plan, before.values())
        shutil.rmtree(working, ignore_errors=True)
        bundles = _bundles(settings, config, connection.ray.cluster_resources())
        grid = _tuner(plan, trials, before, console, bundles, working).fit()
        ended = [grid[i] for i in range(len(grid))]
        shutil.rmtree(working, ignore_errors=True)
    return {Path(one.path).name: last_line(one.error) for one in ended if one.error is not None}


def _tuner(
    plan: SweepPlan,
    trials: Sequence[TrialPlan],
    before: Mapping[str, TrialResult],
    console: Console,
    bundles: list[dict[str, float]],
    working: Path,
) -> Any:
    """Ray Tune with its settings. The state of a trial lies in its run directory; Tune's own files are for the weights
    that members of a population hand to one another, and are thrown away at the end."""
    from ray import tune

    from r2ac.launch.sweeps.population import Population
    from r2ac.launch.sweeps.progress_callback import ProgressCallback
    from r2ac.launch.sweeps.trainable import SweepTrial

    settings, names = plan.settings, [trial.name for trial in trials]
    space: dict[str, Any] = {"trial": tune.grid_search(names)}
    space |= {name: tune.sample_from(partial(_setting_of, before, name)) for name in plan.perturbed}
    records = [(before[name].env_steps, Record.read(plan.sweep_dir / name)) for name in names]
    first_generation = min(generation_of(steps, record, plan.perturb_every) for steps, record in records)
    scheduler = Population(plan, first_generation) if settings.is_population else None
    trainable = tune.with_parameters(SweepTrial, plan=plan, first_generation=first_generation)
    return tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory(bundles)),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="min" if settings.minimise else "max",
            scheduler=scheduler,
            max_concurrent_trials=None if scheduler else settings.concurrent or None,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(working),
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_COPIES, checkpoint_at_end=False),
            callbacks=[ProgressCallback(plan, {name: before[name].env_steps for name in names}, console)],
            verbose=0,
        ),
    )


def _setting_of(before: Mapping[str, TrialResult], setting: str, config: Mapping[str, Any]) -> Value:
    """What a setting of the trial is as Tune begins with it."""
    return before[config["trial"]].last_settings[setting]


def _bundles(settings: SweepSettings, config: TrainConfig[Any], resources: dict[str, float]) -> list[dict[str, float]]:
    """What Ray reserves for a trial, its learner's bundle first, then one for each rollout actor. Raises ConfigError
    for a device that Ray cannot assign."""
    learner = {"CPU": float(config.learner_threads)}
    if ":" in config.device:
        raise ConfigError(f"--device is {config.device}, but Ray deals out the GPUs of a sweep: it must be cuda")
    if config.device == "cuda" or (config.device == "auto" and resources.get("GPU", 0)):
        if not resources.get("GPU", 0):
            raise ConfigError("--device is cuda, but no machine of Ray has a GPU")
        learner["GPU"] = settings.gpus_per_trial
    if settings.is_population and settings.concurrent:
        # The members of a population that are not to train now are kept out by what the others hold.
        share = int(resources.get("CPU", 0)) // settings.concurrent
        learner["CPU"] = max(learner["CPU"], float(share - config.num_actors))
    return [learner, *({"CPU": 1.0} for _ in range(config.num_actors))]


@contextmanager
def _tune_set_up() -> Iterator[None]:
    """Without what Tune writes and logs for programs that are its own: our table, and run directories, hold it. Every
    signal that asks a run to stop does what SIGINT does: Tune stops every trial in order."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0", "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    others = [number for number in stops_here() if number != signal.SIGINT]
    handlers = [signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in others]
    try:
        yield
    finally:
        logger.setLevel(level)
        for number, handler in zip(others, handlers, strict=True):
            signal.signal(number, handler)
