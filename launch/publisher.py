"""How the learner's weights get to those who act."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from r2ac.launch.policies import Weights
from r2ac.learner import Learner

_BUFFERS = 2


class WeightsPublisher:
    """Hands the weights over after an update. On a GPU they are copied to pinned memory behind the update, and a thread
    of its own waits for them: the learner goes on at once, but for where two publications are still under way.

    Args:
        learner: whose weights are published.
        publish: takes them, on any thread.
    """

    def __init__(self, learner: Learner, publish: Callable[[Weights], None]) -> None:
        self._learner, self._publish = learner, publish
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        if learner.device.type == "cuda":
            size = self._vector().numel()
            self._free: queue.Queue[Tensor] = queue.Queue()
            for _ in range(_BUFFERS):
                self._free.put(torch.empty(size, pin_memory=True))
            self._copied: queue.Queue[tuple[int, Tensor, torch.cuda.Event] | None] = queue.Queue()
            self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
            self._thread.start()

    def __call__(self) -> None:
        """Publish the weights as they are after what is enqueued by now. Raises what an earlier publication raised."""
        version = self._learner.updates
        if self._thread is None:
            self._publish(Weights(version, self._vector().numpy()))
            return
        if self._failure is not None:
            raise self._failure
        pinned, event = self._free.get(), torch.cuda.Event(blocking=True)
        pinned.copy_(self._vector(), non_blocking=True)
        event.record()
        self._copied.put((version, pinned, event))

    def close(self) -> None:
        """Publish what is under way, and end the thread."""
        if self._thread is not None:
            self._copied.put(None)
            self._thread.join()

    def _vector(self) -> Tensor:
        return parameters_to_vector(self._learner.agent.parameters()).detach()

    def _run(self) -> None:
        while (item := self._copied.get()) is not None:
            version, pinned, event = item
            event.synchronize()
            try:
                self._publish(Weights(version, pinned.numpy().copy()))
            except BaseException as error:  # told to the learner at its next publication
                self._failure = error
            self._free.put(pinned)
