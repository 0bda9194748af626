"""Inference anywhere in a Ray cluster: the worker, and the policy of an actor that calls it through Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2ac.agents import ActionSpec
from r2ac.launch.rollouts.inference.acting_agent import ActingAgent, InferenceConfig, InferenceStatistics
from r2ac.launch.rollouts.inference.policies import InferenceLost, Policy, StepInput
from r2ac.launch.rollouts.transport.shared_weights import Weights


@dataclass(frozen=True)
class ActRequest:
    """Asks for the logits of a group of streams."""

    streams: slice
    """Among all streams."""
    step: StepInput
    is_new: bool
    """Whether the actor has just begun these streams."""
    begins_rollout: bool


@dataclass(frozen=True)
class ActResponse:
    """Answers an :class:`ActRequest`."""

    logits: np.ndarray
    """[B, A]."""
    version: int
    """Of the weights."""
    first_state: np.ndarray | None
    """[B, N] before the step, where the request begins a rollout."""


class RayPolicy(Policy):
    """Asks a `RayInferenceWorker` anywhere in the cluster, by calls through Ray that carry observations. Several groups
    of streams, each with its ``columns``, hide how long a call takes. ``first_stream`` is the number of the actor's
    first stream among all streams. :meth:`answer` raises InferenceLost if the worker is gone."""

    def __init__(self, worker: Any, actions: ActionSpec, columns: Sequence[slice], first_stream: int) -> None:
        super().__init__(actions, columns)
        self._worker, self._first_stream = worker, first_stream
        self._new = set(range(len(columns)))
        self._asked: dict[int, Any] = {}

    def ask(self, group: int, t: int) -> None:
        columns = self.columns[group]
        streams = slice(self._first_stream + columns.start, self._first_stream + columns.stop)
        request = ActRequest(streams, StepInput.of(self.rollout, t, columns), group in self._new, t == 0)
        self._new.discard(group)
        self._asked[group] = self._worker.act.remote(request)

    def answer(self, group: int, t: int) -> None:
        import ray

        try:
            response: ActResponse = ray.get(self._asked.pop(group))
        except ray.exceptions.RayError as error:
            raise InferenceLost(f"the inference worker is gone: {type(error).__name__}") from error
        rollout, columns = self.rollout, self.columns[group]
        rollout.behaviour_logits[t, columns] = response.logits
        if response.first_state is not None:
            rollout.first_state[columns] = response.first_state
            rollout.weights_version[columns] = response.version
        self.draw(group, t)


class RayInferenceWorker:
    """Computes the logits of all requests that wait, in one batch; keeps the states of all streams on its device. A Ray
    actor whose methods run on an event loop, so that requests arrive while others are computed."""

    def __init__(self, config: InferenceConfig) -> None:
        self._agent = ActingAgent(config)
        self._weights: Weights | None = None
        self._waiting: list[tuple[ActRequest, asyncio.Future[ActResponse]]] = []
        self._computing: asyncio.Task[None] | None = None
        self._failure: str | None = None

    async def failure(self) -> str | None:
        """The error that ended it; None while it answers."""
        return self._failure

    async def statistics(self) -> InferenceStatistics:
        return self._agent.statistics()

    async def load(self, weights: Weights) -> None:
        """Act with these weights from now on; before the first, requests wait."""
        self._weights = weights
        self._begin()

    async def act(self, request: ActRequest) -> ActResponse:
        """Raises RuntimeError with what the computation raised."""
        if self._failure is not None:
            raise RuntimeError(self._failure)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._begin()
        return await future

    def _begin(self) -> None:
        idle = self._computing is None or self._computing.done()
        if idle and self._weights is not None and self._waiting:
            self._computing = asyncio.create_task(self._compute())

    async def _compute(self) -> None:
        """Until no request waits. More of them arrive meanwhile, and newer weights."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            assert self._weights is not None
            try:
                responses = await asyncio.to_thread(self._respond, self._weights, [request for request, _ in batch])
            except Exception as error:  # raised by all requests, and reported by `failure`
                self._failure = repr(error)
                for _, future in batch + self._waiting:
                    future.set_exception(RuntimeError(self._failure))
                self._waiting.clear()
                return
            for (_, future), response in zip(batch, responses, strict=True):
                future.set_result(response)

    def _respond(self, weights: Weights, requests: Sequence[ActRequest]) -> list[ActResponse]:
        agent = self._agent
        agent.load(weights)
        for request in requests:
            if request.is_new:
                # An actor that takes the place of another begins new episodes.
                agent.forget(request.streams)
        results = agent.act([request.streams for request in requests], [request.step for request in requests])
        return [
            ActResponse(logits, agent.version, cells.cpu().numpy() if request.begins_rollout else None)
            for request, (logits, cells) in zip(requests, results, strict=True)
        ]
