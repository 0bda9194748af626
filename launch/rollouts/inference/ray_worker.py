"""The inference worker for rollout actors anywhere in a Ray cluster: they ask it by calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from r2ac.launch.rollouts.inference.acting_agent import ActingAgent, InferenceConfig, InferenceStatistics
from r2ac.launch.rollouts.inference.policies import ActRequest, ActResponse, Weights

_Waiting = tuple[ActRequest, "asyncio.Future[ActResponse]"]


class RayInferenceWorker:
    """Computes logits for whoever asks, all that have asked together; keeps the cells of all streams on its device.

    An actor of Ray whose methods run on an event loop, so that questions arrive while others are computed. It answers
    :class:`~r2ac.launch.rollouts.inference.policies.RayPolicy`. Newer weights are taken up between two batches, so that
    a rollout may be of several versions, of which it has the oldest: V-trace needs the logits, which are those of the
    weights that acted.

    Args:
        config: what to compute.
    """

    def __init__(self, config: InferenceConfig) -> None:
        self._agent = ActingAgent(config)
        self._weights: Weights | None = None
        self._waiting: list[_Waiting] = []
        self._computing: asyncio.Task[None] | None = None
        self._failure: str | None = None

    async def failure(self) -> str | None:
        """Why it answers no more; None while it does."""
        return self._failure

    async def statistics(self) -> InferenceStatistics:
        """What it has done so far."""
        return self._agent.statistics()

    async def load(self, weights: Weights) -> None:
        """Act with these from now on; nobody is answered before the first."""
        self._weights = weights
        self._begin()

    async def act(self, question: ActRequest) -> ActResponse:
        """Logits for a group of streams. Raises what the computation raised."""
        if self._failure is not None:
            raise RuntimeError(self._failure)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        self._begin()
        return await future

    def _begin(self) -> None:
        idle = self._computing is None or self._computing.done()
        if idle and self._weights is not None and self._waiting:
            self._computing = asyncio.create_task(self._compute())

    async def _compute(self) -> None:
        """Until nobody waits. More questions arrive meanwhile, and newer weights."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            assert self._weights is not None
            try:
                answers = await asyncio.to_thread(self._answers, self._weights, [question for question, _ in batch])
            except Exception as error:  # told to all who ask, and to who asks why
                self._failure = repr(error)
                for _, future in batch + self._waiting:
                    future.set_exception(RuntimeError(self._failure))
                self._waiting.clear()
                return
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)

    def _answers(self, weights: Weights, questions: Sequence[ActRequest]) -> list[ActResponse]:
        agent = self._agent
        agent.load(weights)
        for question in questions:
            if question.is_new:
                # An actor that takes the place of another begins new episodes.
                agent.forget(question.streams)
        logits, cells = agent.act([question.streams for question in questions], [each.seen for each in questions])
        answers, start = [], 0
        for question in questions:
            stop = start + question.streams.stop - question.streams.start
            first_state = cells[start:stop].cpu().numpy() if question.begins_rollout else None
            answers.append(ActResponse(logits[start:stop], agent.version, first_state))
            start = stop
        return answers
