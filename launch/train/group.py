"""Several learners of one training, as the process sees them that starts them."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.cluster.connect import ConnectionFailed, connect, grows
from r2ac.launch.runtime.errors import LearnersLost, last_line
from r2ac.launch.runtime.progress import TrainingProgress
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.runtime.supervisor import restarts
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.group_member import LearnerProcess, Place, Status
from r2ac.launch.train.loop import Summary
from r2ac.launch.train.rendezvous import FileRendezvous, TcpRendezvous
from r2ac.launch.train.summary import RUN_FAILURES, print_start, print_summary, resume_command
from r2ac.learner import CollectiveBroken

_POLL_SECONDS = 0.2
_PLACE_SECONDS, _GROW_SECONDS = 60, 1800
"""How long room is waited for: where there is enough but taken, and where the cluster gets nodes by itself."""
_SAVE_SECONDS, _END_SECONDS = 120, 5
"""How long the others may take to end after one has: where a checkpoint is saved, and after the first has died."""


def train_in_group(config: TrainConfig[Any], console: Console, place: Place) -> int:
    """As :func:`r2ac.launch.train.train.train`, with ``num_learners`` learners in Ray processes."""
    with ExitStack() as stack:
        signals = StopSignals()
        stack.push(signals.__exit__)
        stall_seconds = config.stall_seconds
        progress = stack.enter_context(TrainingProgress(config.total_steps, console, stall_seconds=stall_seconds))
        group = LearnerGroup(config, stack, console)
        signals.install()

        def show(status: Status) -> None:
            if status.training.updates:
                progress.update(status.training)

        summary = group.train(place, console, show, signals.stop_requested)
    print_summary(console, config.task, summary, signals.received)
    return 128 + signals.received if signals.received else 0


class LearnerGroup:
    """Learners in Ray processes, each in its place in the cluster; all of them end with the group.

    Args:
        config: checked settings.
        stack: ends them.
        console: where it is told that there is no room yet.

    Raises:
        ConnectionFailed: where there is no cluster, or no room in it.
    """

    def __init__(self, config: TrainConfig[Any], stack: ExitStack, console: Console) -> None:
        self._stack, self._count, self._console = stack, config.num_learners, console
        self._config = config
        cpus = max(1, config.learner_threads)
        # Locally there is a place for each actor; a cluster need only have those that fill a batch.
        local = config.ray_address == "local"
        # Several learners need all: one with more actors than it needs would else leave another without any.
        all_needed = local or self._count > 1
        actors = config.num_actors if all_needed else math.ceil(config.batch_size / config.streams_per_actor)
        connection = connect(config.ray_address, actors + self._count * cpus)
        stack.callback(connection.close)
        self._ray = connection.ray
        gpus = self._ray.cluster_resources().get("GPU", 0)
        self._device = ("cuda" if gpus else "cpu") if config.device == "auto" else config.device
        if config.device == "auto" and not gpus and not local and grows(self._ray):
            console.print("the cluster has no GPU yet: learners take CPUs (--device cuda waits for GPUs)")
        bundle = {"CPU": cpus, **({"GPU": 1} if self._device == "cuda" else {})}
        bundles = self._reserve(bundle, may_grow=not local and grows(self._ray))
        learner = self._ray.remote(LearnerProcess)
        on_device = replace(config, device=self._device)
        self._learners = [
            # One thread trains, and one answers.
            learner.options(
                num_cpus=cpus,
                num_gpus=bundle.get("GPU", 0),
                max_concurrency=2,
                scheduling_strategy=bundles(rank),
            ).remote(rank, on_device)
            for rank in range(self._count)
        ]
        stack.callback(self._kill)

    def train(
        self,
        place: Place,
        console: Console,
        show: Callable[[Status], None],
        stop_requested: Callable[[], bool],
    ) -> Summary:
        """Let all of them train until the end, or until asked to stop.

        Raises:
            LearnersLost: where one of them died.
            As :func:`r2ac.launch.train.train.train`: what one of them raised.
        """
        first, *others = self._learners
        try:
            meetings = self._meetings()
            running = [first.train.remote(meetings[0], place)]
            running += [each.train.remote(meeting, None) for each, meeting in zip(others, meetings[1:], strict=True)]
        except self._ray.exceptions.RayError as error:
            raise LearnersLost(f"the {self._count} learners could not be started: {last_line(error)}") from error
        pending, failures, until = list(running), dict[int, Exception](), math.inf
        told_budget = told_stop = False
        while pending and time.monotonic() < until:
            ready, pending = self._ray.wait(pending, timeout=_POLL_SECONDS)
            for ended in ready:
                failure = self._failure(ended)
                if failure is not None:
                    rank = running.index(ended)
                    failures[rank] = failure
                    saves = rank > 0 or isinstance(_cause(failure), RUN_FAILURES)
                    patience = _SAVE_SECONDS if saves else _END_SECONDS
                    until = min(until, time.monotonic() + patience)
            if stop_requested() and not told_stop:
                told_stop = True
                for each in self._learners:
                    each.stop.remote()
            status = self._status()
            if status.budget is not None and not told_budget:
                told_budget = True
                who = f"each of {self._count} learners, with its actors," if self._count > 1 else "the run"
                print_start(console, self._config, status.budget, who)
            show(status)
        if failures:
            raise self._verdict(failures, place.path)
        summary: Summary = self._ray.get(running[0])
        if summary.env_steps < self._config.total_steps and not stop_requested():
            raise LearnersLost(
                f"a learner was asked by SIGTERM to end, as where its node is taken away; all saved what they had "
                f"learned by step {summary.env_steps:,}{_remedy(place.path)}"
            )
        return summary

    def _reserve(self, bundle: dict[str, int], may_grow: bool) -> Callable[[int], Any]:
        """Room for the learners, close together; gives the place of each."""
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        def amounts(resources: dict[str, float]) -> str:
            return ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))

        there = self._ray.cluster_resources()
        fits = all(there.get(name, 0) >= self._count * amount for name, amount in bundle.items())
        group = placement_group([bundle] * self._count, strategy="PACK")
        self._stack.callback(remove_placement_group, group)
        if may_grow and not group.wait(_POLL_SECONDS):
            self._console.print(f"waiting for the room of {self._count} learners in the cluster", soft_wrap=True)
        if not group.wait(_GROW_SECONDS if may_grow else _PLACE_SECONDS if fits else 0):
            each = " and ".join(f"{amount} {name}" for name, amount in bundle.items())
            remedy = "; --device cpu does without GPUs" if "GPU" in bundle else ""
            raise ConnectionFailed(
                f"--num-learners is {self._count}, each with {each}, but the Ray cluster has "
                f"{amounts(there)}, of which {amounts(self._ray.available_resources())} are free{remedy}"
            )
        return lambda rank: PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)

    def _meetings(self) -> list[FileRendezvous | TcpRendezvous | None]:
        """Where each of the learners finds the others."""
        if self._count == 1:
            return [None]
        hosts = self._ray.get([each.host.remote() for each in self._learners])
        if {node for node, _ in hosts} == {self._ray.get_runtime_context().get_node_id()}:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="r2ac-", ignore_cleanup_errors=True))
            return [FileRendezvous(Path(folder) / "learners")] * self._count
        host, port = self._ray.get(self._learners[0].serve.remote())
        return [TcpRendezvous(host, port, address) for _, address in hosts]

    def _status(self) -> Status:
        try:
            status: Status = self._ray.get(self._learners[0].status.remote(), timeout=10)
        except (self._ray.exceptions.RayError, self._ray.exceptions.GetTimeoutError):
            return Status()  # what became of it is told where its training ends
        return status

    def _failure(self, ended: Any) -> Exception | None:
        try:
            self._ray.get(ended)
        except self._ray.exceptions.RayError as error:
            return error
        return None

    def _verdict(self, failures: dict[int, Exception], path: Path | str) -> Exception:
        """What all failed for. Those that lost their peers did so because another one failed."""
        for failure in failures.values():
            cause = _cause(failure)
            if cause is not None and not isinstance(cause, CollectiveBroken):
                cause.__cause__ = failure
                return cause
        rank, failure = next(
            ((rank, failure) for rank, failure in failures.items() if _cause(failure) is None),
            next(iter(failures.items())),
        )
        ended = "died" if _cause(failure) is None else "lost the others"
        # Ray's reason goes on with all that may have been behind it.
        reason = last_line(failure).partition(". ")[0]
        lost = LearnersLost(
            f"learner {rank} of {self._count} {ended} ({reason}), so that all were ended{_remedy(path)}"
        )
        lost.__cause__ = failure
        return lost

    def _kill(self) -> None:
        for each in self._learners:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(each)


def _remedy(path: Path | str) -> str:
    """What the user can do; nothing where the training is started again by itself."""
    return f"; {resume_command(path)} goes on" if restarts() is None else ""


def _cause(failure: Exception) -> Exception | None:
    """What a learner raised; None where it died."""
    return getattr(failure, "cause", None)
