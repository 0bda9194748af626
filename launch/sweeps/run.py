"""Trains the trials of a sweep through Ray Tune."""

from __future__ import annotations

import logging
import os
import random
import shlex
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from r2ac.launch.cluster import connect
from r2ac.launch.config import ConfigError
from r2ac.launch.process import available_cores
from r2ac.launch.sweeps.plan import Plan, TrialPlan, write_description
from r2ac.launch.sweeps.results import BEGUN, FAILED, TRAINED, WAITING, Result, print_results, result_of, to_json
from r2ac.launch.sweeps.space import Settings, Value
from r2ac.launch.sweeps.trial import Record, generation_of

KEPT_COPIES = 4
"""Checkpoints that Tune keeps of a member for others to copy; those of the last comparison are among them."""


def run_sweep(plan: Plan, console: Console) -> int:
    """Train what has not ended yet, and tell what all came to.

    Returns:
        The exit code: 0, 1 where no trial was trained to its end, 130 where Ctrl-C or SIGTERM interrupted the sweep.

    Raises:
        RunDirectoryError: where the sweep's directory cannot be written.
        ConnectionFailed: where Ray cannot be started or joined.
        ConfigError: for a device that the trials cannot have.
    """
    before = [result_of(plan, trial) for trial in plan.trials]
    write_description(plan, to_json(before))
    left = [trial for trial, result in zip(plan.trials, before, strict=True) if result.state not in (TRAINED, FAILED)]
    crashes: dict[str, str] = {}
    if left:
        with _quiet(), _terminating_like_ctrl_c():
            crashes = _tune(plan, left, before, console)
    results = [result_of(plan, trial, crashes.get(trial.name)) for trial in plan.trials]
    write_description(plan, to_json(results))
    print_results(console, plan, results)
    if any(result.state in (BEGUN, WAITING) for result in results):
        command = shlex.join(("r2ac", "sweep", "--resume", str(plan.sweep_dir)))
        console.print(f"Continue with: {command}", soft_wrap=True, markup=False)
        return 130
    if all(result.score is None for result in results):
        console.print(f"No trial has measured {plan.settings.metric}.", soft_wrap=True, markup=False)
    return 0 if any(result.state == TRAINED for result in results) else 1


def _tune(plan: Plan, trials: Sequence[TrialPlan], before: Sequence[Result], console: Console) -> dict[str, str]:
    """Train these trials; returns what ended the processes of those that were given up, by name."""
    settings = plan.settings
    cpus = _cpus(trials[0])
    atonce = settings.concurrent or max(1, available_cores() // cpus)
    connection = connect(settings.ray_address, num_actors=cpus * min(atonce, len(trials)))
    with closing(connection):
        from ray import tune

        from r2ac.launch.sweeps.telling import telling
        from r2ac.launch.sweeps.trainable import SweepTrial

        working = plan.sweep_dir / ".tune"
        shutil.rmtree(working, ignore_errors=True)
        names = [trial.name for trial in trials]
        now = {result.name: result.last_settings for result in before}
        space: dict[str, Any] = {"trial": tune.grid_search(names)}
        for setting in plan.perturbed:
            space[setting] = tune.sample_from(partial(_looked_up, now, setting))
        begun = min(_generation(plan, result) for result in before if result.name in names)
        bundles = _bundles(plan, trials[0], connection.ray.cluster_resources())
        trainable = tune.with_parameters(SweepTrial, plan=plan, begun=begun)
        tuner = tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory(bundles)),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="score",
                mode="min" if settings.minimise else "max",
                scheduler=_population(plan) if settings.is_population else None,
                max_concurrent_trials=None if settings.is_population else (settings.concurrent or None),
                reuse_actors=True,
                trial_name_creator=lambda trial: str(trial.config["trial"]),
                trial_dirname_creator=lambda trial: str(trial.config["trial"]),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(working),
                failure_config=tune.FailureConfig(max_failures=settings.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_COPIES),
                callbacks=[telling(plan, names, console)],
                verbose=0,
            ),
        )
        grid = tuner.fit()
        ended = [grid[i] for i in range(len(grid))]
        crashes = {Path(one.path).name: _last_line(one.error) for one in ended if one.error is not None}
        shutil.rmtree(working, ignore_errors=True)
    return crashes


def _looked_up(now: Mapping[str, Settings], setting: str, config: Mapping[str, Any]) -> Value:
    """What a setting of the trial is as Tune begins with it."""
    return now[config["trial"]][setting]


def _population(plan: Plan) -> Any:
    """Ray Tune's scheduler of population based training, seeded, for what the plan changes."""
    from r2ac.launch.sweeps.population import population

    # Tune's scheduler draws from the generators of the whole process.
    random.seed(plan.settings.sweep_seed)
    np.random.seed(plan.settings.sweep_seed % 2**32)
    return population(plan.perturbed, plan.bounds, plan.settings.quantile)


def _generation(plan: Plan, result: Result) -> int:
    """Comparisons that a member has behind it."""
    return generation_of(result.env_steps, Record.read(plan.sweep_dir / result.name), plan.perturb_every)


def _cpus(trial: TrialPlan) -> int:
    """The learner's threads, and a core for each rollout actor."""
    return trial.config.learner_threads + trial.config.num_actors


def _bundles(plan: Plan, trial: TrialPlan, resources: dict[str, float]) -> list[dict[str, float]]:
    """What Ray sets aside for a trial: the first bundle is its learner's, the others its rollout actors'.

    Raises:
        ConfigError: where the device cannot be dealt out.
    """
    settings, config = plan.settings, trial.config
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


def _last_line(error: Exception) -> str:
    """What an error of Ray says at its end: it brings along the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Tune writes and logs for programs that are Tune's own: our table, and run directories, say it."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _terminating_like_ctrl_c() -> Iterator[None]:
    """SIGTERM does within what SIGINT does: Tune stops every trial in order."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
