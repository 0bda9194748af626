"""One of several learners, as a Ray actor."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.runs.loading import choose_device
from r2ac.launch.runs.mirror import Mirror
from r2ac.launch.runtime.process import available_cores
from r2ac.launch.runtime.progress import TrainingStatus
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.callback import TrainCallback
from r2ac.launch.train.learn import Front, learn
from r2ac.launch.train.loop import Summary
from r2ac.launch.train.memory_budget import MemoryBudget
from r2ac.launch.train.rendezvous import FileRendezvous, TcpRendezvous, serve, use_network_of
from r2ac.launch.train.resume import check_goes_on, open_interrupted
from r2ac.learner import Collective, ProcessGroup, SingleLearner


@dataclass(frozen=True)
class Place:
    """What a training's first learner does on behalf of the process that started it."""

    path: Path | str
    """Of the run, absolute; or its URL."""
    goes_on: bool
    """Whether the run is there already."""
    again: bool
    """Whether the training was started again after a failure."""


@dataclass(frozen=True)
class Status:
    """How far a training has come."""

    training: TrainingStatus = field(default_factory=TrainingStatus)
    budget: MemoryBudget | None = None
    """Of the first learner, once it is known."""


def share_of(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """The settings of each of several learners: its part of the actors, of the batch and of the cores."""
    count = config.num_learners
    threads = config.learner_threads or max(1, (available_cores() - config.busy_cores) // count)
    return replace(
        config,
        num_actors=config.num_actors // count,
        batch_size=config.batch_size // count,
        learner_threads=threads,
        inference_workers=max(1, config.inference_workers // count),
    )


class LearnerProcess:
    """A learner that shares a training with others. While :meth:`train` runs on one thread, the other methods answer.

    SIGTERM, which whoever takes a node away may send to its processes, is taken as :meth:`stop`: all learners save and
    end, at the same update.

    Args:
        rank: its number.
        config: of the whole training, with the device as torch calls it there.
    """

    def __init__(self, rank: int, config: TrainConfig[Any]) -> None:
        self._rank, self._config = rank, config
        self._stop = threading.Event()
        self._status = Status()
        # The main thread, which alone may say so, makes this object.
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop.set())

    def host(self) -> tuple[str, str]:
        """The Ray node that this process is on, and its address."""
        import ray

        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def serve(self) -> tuple[str, int]:
        """Open a meeting place for the learners here; returns its address and port."""
        host = self.host()[1]
        self._store = serve(host, self._config.num_learners)
        return host, self._store.port

    def train(self, rendezvous: FileRendezvous | TcpRendezvous | None, place: Place | None) -> Summary | None:
        """This learner's part of the training.

        Args:
            rendezvous: where the others are; None where there are none.
            place: for the first learner.

        Raises:
            As :func:`r2ac.launch.train.learn.learn`.
        """
        config, stop = self._config, self._stop
        with ExitStack() as stack:
            front = self._front(place, stack) if place is not None else None
            return learn(config, share_of(config), self._join(rendezvous), front, stop.is_set, lambda: None)

    def stop(self) -> None:
        """Ask the training to stop."""
        self._stop.set()

    def status(self) -> Status:
        """How far it has come; asked of the first learner."""
        return self._status

    def _join(self, rendezvous: FileRendezvous | TcpRendezvous | None) -> Collective:
        if rendezvous is None:
            return SingleLearner()
        use_network_of(rendezvous.address)
        store = getattr(self, "_store", None) or rendezvous.join(self._config.num_learners)
        return ProcessGroup(store, self._rank, self._config.num_learners, choose_device(self._config.device))

    def _front(self, place: Place, stack: ExitStack) -> Front:
        mirror, path = None, place.path
        if isinstance(path, str):
            mirror = stack.enter_context(Mirror(path, Console(), not place.goes_on, patient=place.again))
            path = mirror.path
        resumed = open_interrupted(path, print if place.again else None) if place.goes_on else None
        if resumed is not None:
            check_goes_on(self._config, resumed)
        return Front(path, resumed, self._take_status, self._tell_budget, TrainCallback(), mirror, place.again)

    def _take_status(self, training: TrainingStatus) -> None:
        self._status = replace(self._status, training=training)

    def _tell_budget(self, budget: MemoryBudget) -> None:
        self._status = replace(self._status, budget=budget)
