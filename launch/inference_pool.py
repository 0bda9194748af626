"""The inference workers of a run, as Ray processes on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from r2ac.launch.inference_worker import InferenceConfig, InferenceStatistics, InferenceWorker
from r2ac.launch.weights_board import BoardHandle


class InferenceFailed(RuntimeError):
    """An inference worker ended with an error, or died again and again."""


class InferencePool:
    """Starts inference workers and replaces those that died.

    Args:
        ray: the module, connected.
        config: of each worker; devices without a number are dealt out in turn where there are several.
        workers: how many; rollout actor i asks worker i mod ``workers``.
        board: where they find the weights.
    """

    restarts_in_a_row = 3
    """A worker that dies so often before it was seen to serve ends the run."""

    def __init__(self, ray: Any, config: InferenceConfig, workers: int, board: BoardHandle) -> None:
        self._ray, self._config, self._board = ray, config, board
        self._failures = [0] * workers
        self.restarts = 0
        """Workers that died and were replaced."""
        self._workers = [self._start(index) for index in range(workers)]
        self._addresses = [self._where(index) for index in range(workers)]

    def address(self, actor: int) -> str:
        """Of the worker that the rollout actor of this number asks."""
        return self._addresses[actor % len(self._workers)]

    def revive(self, actor: int) -> None:
        """Replace the worker that this rollout actor asks, where it does not answer.

        Raises:
            InferenceFailed: if it was replaced too often.
        """
        index = actor % len(self._workers)
        try:
            if self._ray.get(self._workers[index].is_serving.remote()):
                self._failures[index] = 0
                return
        except self._ray.exceptions.RayError:
            pass
        self._failures[index] += 1
        if self._failures[index] > self.restarts_in_a_row:
            raise InferenceFailed(f"inference worker {index} died {self._failures[index]} times in a row")
        self._ray.kill(self._workers[index])
        self._workers[index] = self._start(index)
        self._addresses[index] = self._where(index)
        self.restarts += 1

    def statistics(self) -> list[InferenceStatistics]:
        """Of each worker."""
        return list(self._ray.get([worker.statistics.remote() for worker in self._workers]))

    def _start(self, index: int) -> Any:
        device = self._config.device
        if device == "cuda":
            import torch

            device = f"cuda:{index % max(1, torch.cuda.device_count())}"
        options = self._ray.remote(InferenceWorker).options(num_cpus=0)
        return options.remote(replace(self._config, device=device), self._board)

    def _where(self, index: int) -> str:
        try:
            return str(self._ray.get(self._workers[index].where.remote()))
        except self._ray.exceptions.RayTaskError as error:
            raise InferenceFailed(f"inference worker {index} failed: {error.cause!r}") from error
        except self._ray.exceptions.RayActorError as error:
            raise InferenceFailed(f"inference worker {index} could not be started: {error}") from error
