"""Finds how many rollout actors, streams and threads make a training fast on this machine, by trying."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from r2ac.launch.cluster.connect import ConnectionFailed
from r2ac.launch.rollouts.rollout_actor import WAITING
from r2ac.launch.runs.loading import learner_device
from r2ac.launch.runtime.process import available_cores, set_up_process
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.train.learn import make_learner, observation_spec, share_of
from r2ac.launch.train.sources import open_rollouts
from r2ac.learner import CapturedStep, use_matmul_precision

# On a GPU some updates run as they are, and the next is captured.
_WARM_UP_UPDATES = CapturedStep.WARM_UP + 2
_WORTH_TRYING_MORE = 1.02
"""A change that makes a training faster by less than this is in the noise."""


@dataclass(frozen=True)
class BenchTrial:
    """A training of some seconds, with the shares of the time in which its learner waited for rollouts and its rollout
    actors for orders (None where nothing was counted)."""

    config: TrainConfig[Any]
    steps_per_second: float
    learner_wait: float
    actor_wait: float | None

    def flags(self) -> str:
        """The settings that were tried, as flags of ``r2ac train``."""
        names = ("num_actors", "streams_per_actor", "learner_threads")
        return " ".join(f"--{name.replace('_', '-')} {getattr(self.config, name)}" for name in names)


def measure(config: TrainConfig[Any], seconds: float) -> BenchTrial:
    """Train for ``seconds`` after the first updates; nothing is written. Raises ConfigError and ConnectionFailed."""
    config.check()
    device = learner_device(config.device)
    set_up_process(share_of(config).learner_threads)
    use_matmul_precision(config.learner.matmul_precision)
    spec = observation_spec(config)
    learner, _ = make_learner(config, spec, device)
    with ExitStack() as stack:
        rollouts = open_rollouts(config, spec, learner, {}, stack)
        source, batches = rollouts.source, rollouts.batches

        def learn() -> None:
            rollouts.publish()
            batch = batches.next_batch(lambda: False)
            assert batch is not None
            learner.update(batch.rollout)

        for _ in range(_WARM_UP_UPDATES):
            learn()
        learner.check()
        began, steps, waited = time.monotonic(), learner.env_steps, batches.waited
        before = source.counts.actor_seconds.copy()
        while time.monotonic() - began < seconds:
            learn()
        learner.check()
        elapsed = time.monotonic() - began
        spent = source.counts.actor_seconds - before
    actor_wait = spent[WAITING] / spent.total() if config.num_actors and spent.total() else None
    return BenchTrial(config, (learner.env_steps - steps) / elapsed, (batches.waited - waited) / elapsed, actor_wait)


def search(
    config: TrainConfig[Any],
    budget: float,
    seconds: float,
    measure: Callable[[TrainConfig[Any], float], BenchTrial] = measure,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[BenchTrial]:
    """Trials of ``seconds`` each, until nothing is left to try or the next would end after ``budget`` seconds in all:
    the settings as they are, other numbers of actors, then with the best of them of streams and of threads of the
    learner."""
    began = clock()
    tried: dict[tuple[int, int, int], BenchTrial] = {}
    best: BenchTrial | None = None
    longest = 0.0
    for changes in (_other_actors, _other_streams, _other_threads):
        for candidate in changes(best.config if best is not None else config):
            key = candidate.num_actors, candidate.streams_per_actor, candidate.learner_threads
            if key in tried:
                continue
            started = clock()
            if tried and started - began + longest > budget:
                return
            try:
                trial = tried[key] = measure(replace(candidate, **candidate.in_step), seconds)
            except (ConfigError, ConnectionFailed) as error:
                if not tried:
                    raise
                if isinstance(error, ConnectionFailed):
                    return  # Ray did not start this time; what was measured before stands
                continue  # what does not go together with other flags, or does not fit into memory
            longest = max(longest, clock() - started)
            if best is None or trial.steps_per_second > _WORTH_TRYING_MORE * best.steps_per_second:
                best = trial
            yield trial


def fastest(trials: list[BenchTrial]) -> BenchTrial:
    """The first of those that are as fast as the fastest but for the noise."""
    most = max(trial.steps_per_second for trial in trials)
    return next(trial for trial in trials if _WORTH_TRYING_MORE * trial.steps_per_second >= most)


def _other_actors(config: TrainConfig[Any]) -> Iterator[TrainConfig[Any]]:
    """As it is, and with one actor for some of the cores; there are always streams enough for a batch."""
    cores = available_cores()
    yield _with_threads(config)
    for actors in (*sorted({1, cores // 2, cores - 1, cores} - {0}, reverse=True), 0):
        streams = max(config.streams_per_actor, -(-config.batch_size // max(actors, 1)))
        yield _with_threads(replace(config, num_actors=actors, streams_per_actor=streams))


def _other_streams(config: TrainConfig[Any]) -> Iterator[TrainConfig[Any]]:
    for streams in (2 * config.streams_per_actor, config.streams_per_actor // 2):
        if streams * max(config.num_actors, 1) >= max(config.batch_size, len(config.tasks)):
            yield replace(config, streams_per_actor=streams)


def _other_threads(config: TrainConfig[Any]) -> Iterator[TrainConfig[Any]]:
    for threads in (1, available_cores()):
        yield replace(config, learner_threads=threads)


def _with_threads(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """The learner's threads as a number, so that flags say what was tried."""
    return replace(config, learner_threads=share_of(config).learner_threads)
