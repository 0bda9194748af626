"""Publishes the learner's weights for the agents that act."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runtime.process import CLOSE_SECONDS, end_thread
from r2ac.launch.settings.policy_lag import UNDER_WAY
from r2ac.learner import Learner


class WeightsPublisher:
    """Publishes the learner's weights after an update. On a GPU they are copied to pinned memory behind the update, and
    a thread of its own waits for them and calls ``publish``: the learner goes on at once, but for the first time, where
    ``UNDER_WAY`` publications have not ended, and with ``wait``."""

    def __init__(self, learner: Learner, publish: Callable[[Weights], None], wait: bool) -> None:
        self._learner, self._publish = learner, publish
        # Views of the parameters, which stay where they lie in memory.
        self._parameters = [parameter.detach().view(-1) for parameter in learner.agent.parameters()]
        self._thread: threading.Thread | None = None
        self._is_first = True
        if learner.device.type == "cuda" and not wait:
            size = sum(parameter.numel() for parameter in self._parameters)
            # Last in, first out: an error comes before what else is there.
            self._free: queue.LifoQueue[Tensor | BaseException] = queue.LifoQueue()
            for _ in range(UNDER_WAY):
                self._free.put(torch.empty(size, pin_memory=True))
            self._copied: queue.Queue[tuple[int, Tensor, torch.cuda.Event] | None] = queue.Queue()
            self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
            self._thread.start()

    def __call__(self) -> None:
        """Publish the weights as they are after what is enqueued by now. Raises what an earlier publication raised."""
        version = self._learner.updates
        if self._thread is None or self._is_first:
            self._is_first = False
            self._publish(Weights(version, torch.cat(self._parameters).cpu().numpy()))
            return
        pinned, event = self._free.get(), torch.cuda.Event(blocking=True)
        if isinstance(pinned, BaseException):
            self._free.put(pinned)
            raise pinned
        pinned.copy_(torch.cat(self._parameters), non_blocking=True)
        event.record()
        self._copied.put((version, pinned, event))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Publish what is under way, and end the thread."""
        if self._thread is not None:
            self._copied.put(None)
            end_thread(self._thread, seconds)

    def _run(self) -> None:
        try:
            while (item := self._copied.get()) is not None:
                version, pinned, event = item
                event.synchronize()
                self._publish(Weights(version, pinned.numpy().copy()))
                self._free.put(pinned)
        except BaseException as error:  # raised by the next publication
            self._free.put(error)
