"""The inference workers of a run: Ray processes on this machine, or anywhere in a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from r2ac.launch.rollouts.inference.acting_agent import InferenceConfig, InferenceStatistics
from r2ac.launch.rollouts.inference.ray_worker import RayInferenceWorker
from r2ac.launch.rollouts.inference.socket_worker import InferenceWorker
from r2ac.launch.rollouts.placement import free_gpus, worker_options
from r2ac.launch.rollouts.transport.shared_memory import MemoryHandle
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runtime.errors import last_line

_START_SECONDS, _ANSWER_SECONDS = 300, 30
_CALLS = 1000
"""Of rollout actors that may wait for a worker at a time, far more than there are."""


class InferenceFailed(RuntimeError):
    """An inference worker ended with an error, or died again and again."""


@dataclass
class Worker:
    """A member of the pool."""

    handle: Any
    """Ray's."""
    contact: Any
    """What a rollout actor needs to ask it: the address of its socket, or the handle."""
    started: Any
    """Ray's reference of its first answer: before that it is starting, or waits for a place in the cluster."""
    version: int = -1
    """Of the weights that it has, where they are sent to it; -1: none."""
    sent: tuple[int, Any] | None = None
    """The version under way to it, and Ray's reference of its answer."""
    is_lost: bool = False
    """Whether it failed to take weights."""


class InferencePool:
    """Starts inference workers and replaces those that died; rollout actor i asks worker i mod ``number``. Raises
    InferenceFailed if one cannot start.

    Args:
        start: starts a worker by its index; returns its handle and contact, as of :class:`Worker`.
        sends_weights: whether it gets the weights through Ray, from here. It may then be anywhere, and may have to
            wait for a place in the cluster; the constructor does not wait for it.
    """

    restarts_in_a_row = 3
    """A worker that dies so often before a rollout came of it ends the run."""

    def __init__(self, ray: Any, number: int, start: Callable[[int], tuple[Any, Any]], sends_weights: bool) -> None:
        self._ray, self._start_worker, self.sends_weights = ray, start, sends_weights
        self._failures = [0] * number
        self._newest: tuple[int, Any] = (-1, None)
        self._lock = threading.Lock()  # weights are published on another thread
        self._workers = [self._start(index) for index in range(number)]
        for index in range(number):
            self._await(index)

    def contact(self, actor: int) -> Any:
        """Of this rollout actor's worker."""
        return self._workers[actor % len(self._workers)].contact

    def pending(self) -> int:
        """Workers that are starting, or wait for a place in the cluster; those on this machine were waited for."""
        started = [worker.started for worker in self._workers]
        return len(self._ray.wait(started, num_returns=len(started), timeout=0)[1])

    def publish(self, weights: Weights) -> None:
        """Send the weights to the workers: stored once, they go once to each node that has workers."""
        with self._lock:
            self._newest = (weights.version, self._ray.put(weights))
            for worker in self._workers:
                self._send(worker)

    def version(self, actor: int) -> int:
        """Of the weights that have arrived at this actor's worker; -1 while it cannot answer."""
        with self._lock:
            worker = self._workers[actor % len(self._workers)]
            self._send(worker)
            return worker.version

    def served(self, actor: int) -> None:
        """Note that a rollout of this actor came: its worker works."""
        self._failures[actor % len(self._workers)] = 0

    def revive_lost(self) -> int:
        """Replace the workers that failed to take weights; returns how many were. Raises InferenceFailed."""
        return sum(self.revive(index) for index, worker in enumerate(self._workers) if worker.is_lost)

    def revive(self, actor: int) -> bool:
        """Replace the worker of this rollout actor if it does not answer or did not take weights; returns whether it
        was replaced. Raises InferenceFailed if it was replaced too often, or cannot start."""
        index = actor % len(self._workers)
        worker = self._workers[index]
        if not self._ray.wait([worker.started], timeout=0)[0]:
            return False
        try:
            reason = self._ray.get(worker.handle.failure.remote(), timeout=_ANSWER_SECONDS)
            if reason is None:
                if not worker.is_lost:
                    return False
                reason = "the weights did not reach it"
        except self._ray.exceptions.RayError as error:
            reason = last_line(error)
        self._failures[index] += 1
        if self._failures[index] > self.restarts_in_a_row:
            raise InferenceFailed(f"inference worker {index} died {self._failures[index]} times in a row: {reason}")
        self._ray.kill(worker.handle)
        with self._lock:
            self._workers[index] = self._start(index)
            self._send(self._workers[index])
        self._await(index)
        return True

    def statistics(self) -> InferenceStatistics:
        """Of all workers that answer, together."""
        known = InferenceStatistics()
        for call in [worker.handle.statistics.remote() for worker in self._workers]:
            with suppress(self._ray.exceptions.RayError):
                known += self._ray.get(call, timeout=_ANSWER_SECONDS)
        return known

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker.handle)

    def _start(self, index: int) -> Worker:
        handle, contact = self._start_worker(index)
        return Worker(handle, contact, handle.failure.remote())

    def _await(self, index: int) -> None:
        """Until it listens, where it is on this machine."""
        if self.sends_weights:
            return
        try:
            self._ray.get(self._workers[index].started, timeout=_START_SECONDS)
        except self._ray.exceptions.RayError as error:
            raise InferenceFailed(f"inference worker {index} could not be started: {last_line(error)}") from error

    def _send(self, worker: Worker) -> None:
        """The newest weights, once those before have arrived: no more than one is under way to a worker."""
        if worker.sent is not None:
            version, answer = worker.sent
            if not self._ray.wait([answer], timeout=0)[0]:
                return
            worker.sent = None
            try:
                self._ray.get(answer)
                worker.version = version
            except self._ray.exceptions.RayError:
                worker.is_lost = True
        if worker.is_lost:
            return
        version, reference = self._newest
        if version > worker.version:
            worker.sent = (version, worker.handle.load.remote(reference))


def pool_beside(ray: Any, config: InferenceConfig, number: int, weights: MemoryHandle, folder: Path) -> InferencePool:
    """Workers on this machine, which read shared ``weights``; devices without a number are dealt out in turn. Their
    sockets lie in ``folder``, which only this user enters."""
    numbers = count(1)
    options = worker_options(ray, True, config.device, number)

    def start(index: int) -> tuple[Any, str]:
        device = config.device
        if device == "cuda":
            import torch

            device = f"cuda:{index % max(1, torch.cuda.device_count())}"
        address = str(folder / f"inference-{next(numbers)}")
        worker = ray.remote(InferenceWorker).options(**options)
        return worker.remote(replace(config, device=device), weights, address), address

    return InferencePool(ray, number, start, sends_weights=False)


def pool_anywhere(ray: Any, config: InferenceConfig, number: int) -> InferencePool:
    """Workers where Ray finds a place for them: on its GPUs, or on CPUs with a device of cpu, or auto without a free
    GPU. Raises ConnectionFailed if the device is cuda, and there is no GPU and will be none."""
    device = config.device
    if device == "auto":
        device = "cuda" if free_gpus(ray) else "cpu"
    options = {**worker_options(ray, False, device, number), "max_concurrency": _CALLS}

    def start(index: int) -> tuple[Any, Any]:
        handle = ray.remote(RayInferenceWorker).options(**options).remote(replace(config, device=device))
        return handle, handle

    return InferencePool(ray, number, start, sends_weights=True)
