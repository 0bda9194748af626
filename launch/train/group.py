"""Several learners of one training, as the process sees them that starts them."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from r2ac.launch.cluster.connect import ConnectionFailed, connect, grows
from r2ac.launch.runtime.errors import LearnersLost, last_line
from r2ac.launch.runtime.progress import TrainingStatus
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.runtime.supervisor import restarts
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.train.group_member import LearnerProcess
from r2ac.launch.train.memory_budget import MemoryBudget
from r2ac.launch.train.rendezvous import FileRendezvous, TcpRendezvous
from r2ac.launch.train.run_context import TrainCallback
from r2ac.launch.train.summary import RUN_FAILURES, Summary, resume_command
from r2ac.learner import CollectiveBroken

_POLL_SECONDS = 0.2
_PLACE_SECONDS, _GROW_SECONDS = 60, 1800
"""How long room is waited for: where there is enough but taken, and where the cluster gets nodes by itself."""
_SAVE_SECONDS, _END_SECONDS = 120, 5
"""How long the others may take to end after one has: where a checkpoint is saved, and after the first has died."""


class LearnerGroup:
    """``num_learners`` learners in Ray processes, which end with ``stack``. Raises ConnectionFailed without room."""

    def __init__(self, config: TrainConfig[Any], stack: ExitStack, console: Console) -> None:
        self._config, self._count, self._stack = config, config.num_learners, stack
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
        device = ("cuda" if gpus else "cpu") if config.device == "auto" else config.device
        may_grow = not local and grows(self._ray)
        if config.device == "auto" and not gpus and may_grow:
            console.print("the cluster has no GPU yet: learners take CPUs (--device cuda waits for GPUs)")
        bundle = {"CPU": cpus, **({"GPU": 1} if device == "cuda" else {})}
        places = self._reserve(bundle, may_grow, console)
        # One thread trains, and one answers.
        learner = self._ray.remote(num_cpus=cpus, num_gpus=bundle.get("GPU", 0), max_concurrency=2)(LearnerProcess)
        self._learners = [
            learner.options(scheduling_strategy=place).remote(rank, replace(config, device=device))
            for rank, place in enumerate(places)
        ]
        stack.callback(self._kill)

    def train(self, place: Path | str, new: bool | None, callback: TrainCallback, signals: StopSignals) -> Summary:
        """Let all of them train; the first opens the run. Raises LearnersLost, and what one of them raised."""
        place = place.absolute() if isinstance(place, Path) else place
        first, *others = self._learners
        try:
            meetings = self._meetings()
            running = [first.train.remote(meetings[0], place, new, bool(restarts()))]
            running += [each.train.remote(meeting) for each, meeting in zip(others, meetings[1:], strict=True)]
        except self._ray.exceptions.RayError as error:
            raise LearnersLost(f"the {self._count} learners could not be started: {last_line(error)}") from error
        pending, failures, until = list(running), dict[int, Exception](), math.inf
        shown_budget = told_stop = False
        while pending and time.monotonic() < until:
            ready, pending = self._ray.wait(pending, timeout=_POLL_SECONDS)
            for ended in ready:
                try:
                    self._ray.get(ended)
                except self._ray.exceptions.RayError as error:
                    rank = running.index(ended)
                    failures[rank] = error
                    saves = rank > 0 or isinstance(_cause(error), RUN_FAILURES)
                    until = min(until, time.monotonic() + (_SAVE_SECONDS if saves else _END_SECONDS))
            if signals.stop_requested() and not told_stop:
                told_stop = True
                for each in self._learners:
                    each.stop.remote()
            status, budget = self._status()
            if budget is not None and not shown_budget:
                shown_budget = True
                callback.show_budget(budget)
            if status.updates:
                callback.show_status(status)
        if failures:
            raise self._verdict(failures, place)
        summary: Summary = self._ray.get(running[0])
        if summary.env_steps < self._config.total_steps and not signals.stop_requested():
            raise LearnersLost(
                f"a learner was asked by SIGTERM to end, as where its node is taken away; all saved what they had "
                f"learned by step {summary.env_steps:,}{_remedy(place)}"
            )
        return summary

    def _reserve(self, bundle: dict[str, int], may_grow: bool, console: Console) -> list[Any]:
        """Room for the learners, close together; returns the place of each."""
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        def amounts(resources: dict[str, float]) -> str:
            return ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))

        there = self._ray.cluster_resources()
        fits = all(there.get(name, 0) >= self._count * amount for name, amount in bundle.items())
        group = placement_group([bundle] * self._count, strategy="PACK")
        self._stack.callback(remove_placement_group, group)
        if may_grow and not group.wait(_POLL_SECONDS):
            console.print(f"waiting for the room of {self._count} learners in the cluster", soft_wrap=True)
        if not group.wait(_GROW_SECONDS if may_grow else _PLACE_SECONDS if fits else 0):
            each = " and ".join(f"{amount} {name}" for name, amount in bundle.items())
            remedy = "; --device cpu does without GPUs" if "GPU" in bundle else ""
            raise ConnectionFailed(
                f"--num-learners is {self._count}, each with {each}, but the Ray cluster has "
                f"{amounts(there)}, of which {amounts(self._ray.available_resources())} are free{remedy}"
            )
        return [PlacementGroupSchedulingStrategy(group, rank) for rank in range(self._count)]

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

    def _status(self) -> tuple[TrainingStatus, MemoryBudget | None]:
        status: tuple[TrainingStatus, MemoryBudget | None] = (TrainingStatus(), None)
        # What became of a learner that does not answer is said where its training ends.
        with suppress(self._ray.exceptions.RayError, self._ray.exceptions.GetTimeoutError):
            status = self._ray.get(self._learners[0].status.remote(), timeout=10)
        return status

    def _verdict(self, failures: dict[int, Exception], place: Path | str) -> Exception:
        """What all failed for. Those that lost their peers did so because another one failed."""
        for failure in failures.values():
            cause = _cause(failure)
            if cause is not None and not isinstance(cause, CollectiveBroken):
                cause.__cause__ = failure
                return cause
        died = {rank: failure for rank, failure in failures.items() if _cause(failure) is None}
        rank, failure = next(iter((died or failures).items()))
        # Ray's reason goes on with all that may have been behind it.
        reason = last_line(failure).partition(". ")[0]
        lost = LearnersLost(
            f"learner {rank} of {self._count} {'died' if died else 'lost the others'} ({reason}), so that all were "
            f"ended{_remedy(place)}"
        )
        lost.__cause__ = failure
        return lost

    def _kill(self) -> None:
        for each in self._learners:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(each)


def _remedy(place: Path | str) -> str:
    """What the user can do; nothing where the training is started again by itself."""
    return f"; {resume_command(place)} goes on" if restarts() is None else ""


def _cause(failure: Exception) -> Exception | None:
    """What a learner raised; None where it died."""
    return getattr(failure, "cause", None)
