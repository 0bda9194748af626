"""The inference workers of a run, as Ray processes on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from r2ac.launch.rollouts.inference_worker import InferenceConfig, InferenceWorker
from r2ac.launch.rollouts.weights_board import BoardHandle

_START_SECONDS, _ANSWER_SECONDS = 300, 30


class InferenceFailed(RuntimeError):
    """An inference worker ended with an error, or died again and again."""


class InferencePool:
    """Starts inference workers and replaces those that died.

    Args:
        ray: the module, connected.
        config: of each worker; devices without a number are dealt out in turn where there are several.
        workers: how many; rollout actor i asks worker i mod ``workers``.
        board: where they find the weights.
        folder: for their sockets, which nobody but this user enters.

    Raises:
        InferenceFailed: if one cannot start.
    """

    restarts_in_a_row = 3
    """A worker that dies so often before a rollout came of it ends the run."""

    def __init__(self, ray: Any, config: InferenceConfig, workers: int, board: BoardHandle, folder: Path) -> None:
        self._ray, self._config, self._board, self._folder = ray, config, board, folder
        self._failures = [0] * workers
        self._starts = 0
        self._addresses = [""] * workers
        self._workers: list[Any] = [None] * workers
        for index in range(workers):
            self._start(index)
        for index in range(workers):
            self._await(index)

    def address(self, actor: int) -> str:
        """Of the worker that the rollout actor of this number asks."""
        return self._addresses[actor % len(self._workers)]

    def served(self, actor: int) -> None:
        """A rollout of this actor came: its worker does its work."""
        self._failures[actor % len(self._workers)] = 0

    def revive(self, actor: int) -> bool:
        """Replace the worker that this rollout actor asks where it does not answer; returns whether it was replaced.

        Raises:
            InferenceFailed: if it was replaced too often, or cannot start.
        """
        index = actor % len(self._workers)
        reason = "it does not answer"
        try:
            failure = self._ray.get(self._workers[index].failure.remote(), timeout=_ANSWER_SECONDS)
            if failure is None:
                return False
            reason = failure
        except self._ray.exceptions.RayError as error:
            reason = last_line(error)
        self._failures[index] += 1
        if self._failures[index] > self.restarts_in_a_row:
            raise InferenceFailed(f"inference worker {index} died {self._failures[index]} times in a row: {reason}")
        self._ray.kill(self._workers[index])
        self._start(index)
        self._await(index)
        return True

    def _start(self, index: int) -> None:
        device = self._config.device
        if device == "cuda":
            import torch

            device = f"cuda:{index % max(1, torch.cuda.device_count())}"
        self._starts += 1
        self._addresses[index] = str(self._folder / f"inference-{self._starts}")
        options = self._ray.remote(InferenceWorker).options(num_cpus=0)
        self._workers[index] = options.remote(replace(self._config, device=device), self._board, self._addresses[index])

    def _await(self, index: int) -> None:
        """Until it listens."""
        try:
            self._ray.get(self._workers[index].failure.remote(), timeout=_START_SECONDS)
        except self._ray.exceptions.RayError as error:
            raise InferenceFailed(f"inference worker {index} could not be started: {last_line(error)}") from error


def last_line(error: BaseException) -> str:
    """What an error of Ray says at its end: it brings along the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
