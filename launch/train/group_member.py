"""One of several learners, as a Ray actor."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.runs.loading import choose_device
from r2ac.launch.runtime.progress import TrainingStatus
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.learn import learn
from r2ac.launch.train.memory_budget import MemoryBudget
from r2ac.launch.train.rendezvous import FileRendezvous, TcpRendezvous, serve, use_network_of
from r2ac.launch.train.run_context import TrainCallback, open_run
from r2ac.launch.train.summary import Summary
from r2ac.learner import Collective, ProcessGroup, SingleLearner


class LearnerProcess:
    """A learner that shares a training with others. While :meth:`train` runs on one thread, the other methods answer.
    SIGTERM, as where a node is taken away, is taken as :meth:`stop`: all learners save and end at the same update."""

    def __init__(self, rank: int, config: TrainConfig[Any]) -> None:
        self._rank, self._config = rank, config
        self._stop = threading.Event()
        self._status = TrainingStatus()
        self._budget: MemoryBudget | None = None
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

    def train(
        self,
        rendezvous: FileRendezvous | TcpRendezvous | None,
        place: Path | str | None = None,
        new: bool | None = None,
        restarted: bool = False,
    ) -> Summary | None:
        """This learner's part of the training, which finds the others at ``rendezvous``, None where there are none; the
        first opens the run, as `open_run`, at ``place``, an absolute path or a URL. Raises as `learn`."""
        config = self._config
        callback = TrainCallback(
            show_status=partial(setattr, self, "_status"), show_budget=partial(setattr, self, "_budget")
        )
        with ExitStack() as stack:
            run = None
            if place is not None:
                run = stack.enter_context(open_run(place, new, config, Console(emoji=False), callback, restarted))
            collective: Collective = SingleLearner()
            if rendezvous is not None:
                use_network_of(rendezvous.address)
                store = getattr(self, "_store", None) or rendezvous.join(config.num_learners)
                device = choose_device(config.device)
                collective = ProcessGroup(store, self._rank, config.num_learners, device)
            return learn(config, collective, run, StopSignals(also=self._stop.is_set))

    def stop(self) -> None:
        """Ask the training to stop."""
        self._stop.set()

    def status(self) -> tuple[TrainingStatus, MemoryBudget | None]:
        """How far the training has come, and the memory of this learner once it is known."""
        return self._status, self._budget
