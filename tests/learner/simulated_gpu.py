"""A simulated GPU: streams are queues whose work runs when somebody waits for it, in an order that a test chooses.

Copies read their source when they run, as on a GPU, and device memory that is freed is handed out again at once: what
is written or freed too early gives wrong numbers, in every run and not by chance. ``SimulatedGPU`` takes the place of
the module ``torch`` in code that brings memory to a device and back, which may run on several threads.
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch

Order = Callable[[Sequence["Stream"]], "Stream"]
"""Of the streams that can go on, in the order in which they were made, chooses the one that does."""


def oldest_first(streams: Sequence[Stream]) -> Stream:
    """What was made last is as late as it can be: the feed's copies, behind the updates."""
    return streams[0]


def newest_first(streams: Sequence[Stream]) -> Stream:
    """What was made first is as late as it can be: the updates, behind the feed's copies."""
    return streams[-1]


def in_random_order(seed: int) -> Order:
    """Any stream, from a seed."""
    return Random(seed).choice


@dataclass(frozen=True)
class _Work:
    run: Callable[[], object]
    is_ready: Callable[[], bool] = lambda: True


class Stream:
    """As ``torch.cuda.Stream``: work in a row."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        self._gpu = gpu
        self.queue: deque[_Work] = deque()
        gpu.streams.append(self)

    def wait_event(self, event: Event) -> None:
        """What is enqueued from now on runs after what the event was last recorded behind."""
        recorded = event.recorded
        self._gpu.enqueue(lambda: None, self, lambda: event.reached >= recorded)

    def wait_stream(self, other: Stream) -> None:
        """What is enqueued from now on runs after all that is in the other stream now."""
        event = Event(self._gpu)
        event.record(other)
        self.wait_event(event)


class Event:
    """As ``torch.cuda.Event``."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        self._gpu = gpu
        self.recorded = self.reached = 0

    def record(self, stream: Stream | None = None) -> None:
        """Behind what is in the stream now."""
        self.recorded += 1
        number = self.recorded

        def reach() -> None:
            self.reached = max(self.reached, number)

        self._gpu.enqueue(reach, stream)

    def synchronize(self) -> None:
        """Wait until the stream has come to where this was last recorded."""
        recorded = self.recorded
        self._gpu.run_until(lambda: self.reached >= recorded)


class Tensor:
    """As much of a tensor as is copied: on the device, or on the host in pinned memory or in any other."""

    def __init__(self, gpu: SimulatedGPU, array: np.ndarray, place: str) -> None:
        self.gpu, self.array, self.place = gpu, array, place
        self.shape, self.dtype = array.shape, array.dtype

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Tensor:
        """Where code has the real torch join tensors of the simulated GPU."""
        assert function is torch.cat, f"{function} is not simulated"
        (tensors,) = args
        gpu: SimulatedGPU = tensors[0].gpu
        return gpu.cat(tensors)

    def is_pinned(self) -> bool:
        """As torch's."""
        return self.place == "pinned"

    def to(self, device: Any) -> Tensor:
        """On the device."""
        return self.gpu.empty(self.shape, dtype=self.dtype, device=device).copy_(self)

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:
        """At once between two places of the host; else on the current stream. Waited for as torch does."""
        target, read = self.array, source.array
        if "device" not in (self.place, source.place):
            np.copyto(target, read)
            return self
        if source.place == "pageable":
            # The driver has copied it elsewhere before the call returns.
            read = read.copy()
        self.gpu.enqueue(lambda: np.copyto(target, read))
        on_device = self.place == source.place
        if not on_device and ("pageable" in (self.place, source.place) or not non_blocking):
            self.gpu.synchronize()
        return self

    def detach(self) -> Tensor:
        """The same."""
        return self

    def view(self, shape: int) -> Tensor:
        """The same memory in another shape."""
        return Tensor(self.gpu, self.array.reshape(shape), self.place)

    def numel(self) -> int:
        """As torch's."""
        return self.array.size

    def cpu(self) -> Tensor:
        """A copy on the host, waited for."""
        return Tensor(self.gpu, np.empty_like(self.array), "pageable").copy_(self)

    def numpy(self) -> np.ndarray:
        """The memory itself."""
        assert self.place != "device"
        return self.array


class Graph:
    """As ``torch.cuda.CUDAGraph``: work that was recorded instead of run."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        self._gpu = gpu
        self.work: list[_Work] = []

    def replay(self) -> None:
        """Enqueue all of it on the current stream."""
        for work in self.work:
            self._gpu.enqueue(work.run, None, work.is_ready)


class SimulatedGPU:
    """The GPU, and the module ``torch`` as code sees it that uses it.

    Args:
        order: chooses the stream whose next work runs.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self.streams: list[Stream] = []
        self._changed = threading.Condition(threading.RLock())
        self._hangs = False
        self._thread = threading.local()
        self._free: defaultdict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
        self._pinned: list[np.ndarray] = []
        self._default = Stream(self)
        self.cuda = _Cuda(self)

    def enqueue(
        self, run: Callable[[], object], stream: Stream | None = None, is_ready: Callable[[], bool] = lambda: True
    ) -> None:
        """Let it run in its turn; on the current stream of this thread where no other is named."""
        graph: Graph | None = getattr(self._thread, "graph", None)
        work = _Work(run, is_ready)
        if graph is not None:
            graph.work.append(work)
            return
        with self._changed:
            (stream or self.current_stream()).queue.append(work)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Run what is enqueued, one piece after another, until then; a GPU that hangs does nothing."""
        with self._changed:
            while not done():
                if self._hangs:
                    self._changed.wait()
                    continue
                ready = [stream for stream in self.streams if stream.queue and stream.queue[0].is_ready()]
                assert ready, "streams wait for one another"
                self._order(ready).queue.popleft().run()

    def synchronize(self) -> None:
        """Wait for the current stream."""
        event = Event(self)
        event.record()
        event.synchronize()

    def hang(self, hangs: bool = True) -> None:
        """Run nothing any more, as where a kernel waits for a process that is dead; or go on."""
        with self._changed:
            self._hangs = hangs
            self._changed.notify_all()

    def current_stream(self, device: Any = None) -> Stream:
        """Of this thread."""
        stream: Stream = getattr(self._thread, "stream", self._default)
        return stream

    @contextmanager
    def on_stream(self, stream: Stream) -> Iterator[None]:
        """Make it the current one."""
        before = self.current_stream()
        self._thread.stream = stream
        try:
            yield
        finally:
            self._thread.stream = before

    @contextmanager
    def capture(self, graph: Graph, **_: Any) -> Iterator[None]:
        """Record what this thread enqueues."""
        self._thread.graph = graph
        try:
            yield
        finally:
            self._thread.graph = None

    def empty(self, shape: Any, dtype: Any = np.float32, device: Any = None, pin_memory: bool = False) -> Tensor:
        """On the device where one is named: memory that was freed on this stream, where there is some."""
        if device is None:
            return Tensor(self, np.empty(shape, dtype), "pinned" if pin_memory else "pageable")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = self._free[id(self.current_stream()), size]
        block = free.pop() if free else np.full(size, 0xAB, np.uint8)
        tensor = Tensor(self, block.view(dtype).reshape(shape), "device")
        weakref.finalize(tensor, free.append, block).atexit = False
        return tensor

    def empty_like(self, tensor: Tensor, pin_memory: bool = False) -> Tensor:
        """In the same place, but for pinned memory."""
        device = None if pin_memory or tensor.place != "device" else "cuda"
        return self.empty(tensor.shape, tensor.dtype, device, pin_memory)

    def pinned_array(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An array in pinned memory, which :meth:`from_numpy` knows again."""
        self._pinned.append(np.zeros(tuple(shape), dtype))
        return self._pinned[-1]

    def from_numpy(self, array: np.ndarray) -> Tensor:
        """The same memory."""
        is_pinned = any(np.shares_memory(array, pinned) for pinned in self._pinned)
        return Tensor(self, array, "pinned" if is_pinned else "pageable")

    def cat(self, tensors: Sequence[Tensor]) -> Tensor:
        """Of device tensors, computed there."""
        joined = self.empty(sum(tensor.numel() for tensor in tensors), tensors[0].dtype, "cuda")
        target, parts = joined.array, [tensor.array for tensor in tensors]
        self.enqueue(lambda: np.concatenate(parts, out=target))
        return joined


class _Cuda:
    """As the module ``torch.cuda``."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        self._gpu = gpu
        self.current_stream, self.stream, self.graph = gpu.current_stream, gpu.on_stream, gpu.capture

    def Stream(self, device: Any = None) -> Stream:  # noqa: N802
        return Stream(self._gpu)

    def Event(self, blocking: bool = False) -> Event:  # noqa: N802
        return Event(self._gpu)

    def CUDAGraph(self) -> Graph:  # noqa: N802
        return Graph(self._gpu)

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        yield
