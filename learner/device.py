"""How batches come to the learner's device, and how updates run there without gaps between their kernels."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

Arrays = Mapping[str, np.ndarray]
Tensors = dict[str, Tensor]


def use_matmul_precision(precision: str) -> None:
    """Let products and convolutions of float32 on a GPU be computed in float32 ("highest") or in TF32 ("high"), in all
    of this process; the sensitivity pass obeys the same switch."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"


class DeviceFeed:
    """Brings the arrays of batches to a device, first in, first out: :meth:`stage` may run on another thread than
    :meth:`take`.

    On a GPU they go through pinned memory and a stream of their own, so that a batch is copied while the update before
    it still runs, and end in tensors that are the same for every batch of the same shapes, as a CUDA graph wants. The
    host waits only where it is some batches ahead, and for arrays that are in pinned memory already: they may be
    written again as soon as they are staged. On a CPU arrays become tensors as they are.
    """

    SLOTS = 3
    """Batches under way on a GPU: one is staged, one waits, one is taken."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self._slots: list[_Slot] = []
        self._staged: deque[Tensors | _Slot] = deque()

    def __call__(self, arrays: Arrays) -> Tensors:
        """The arrays as tensors on the device. On a GPU they are valid until the next call."""
        self.stage(arrays)
        return self.take()

    def stage(self, arrays: Arrays) -> None:
        """Begin to bring a batch there. On a GPU no more than ``SLOTS`` may be staged beyond those taken."""
        if self._device.type != "cuda":
            tensors = {name: _as_tensor(array) for name, array in arrays.items()}
            is_here = self._device.type == "cpu"
            self._staged.append(tensors if is_here else {name: t.to(self._device) for name, t in tensors.items()})
            return
        with torch.cuda.device(self._device):
            shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
            if shapes != self._shapes:
                self._shapes = shapes
                self._stream = torch.cuda.Stream(self._device)
                inputs = {
                    name: torch.empty(array.shape, dtype=_as_tensor(array).dtype, device=self._device)
                    for name, array in arrays.items()
                }
                self._slots = [_Slot(inputs) for _ in range(self.SLOTS)]
                # The memory of the new tensors may have been another's, whose kernels are still to run.
                self._stream.wait_stream(torch.cuda.current_stream(self._device))
            slot = self._slots.pop(0)
            self._slots.append(slot)
            slot.fill(arrays, self._stream)
        self._staged.append(slot)

    def take(self) -> Tensors:
        """The batch that was staged first, for what is enqueued now. On a GPU the tensors are valid until the next
        call."""
        staged = self._staged.popleft()
        return staged.hand_over(torch.cuda.current_stream(self._device)) if isinstance(staged, _Slot) else staged


class _Slot:
    """One batch under way, in pinned memory and staged on the GPU, to ``inputs``, where updates read their batches."""

    def __init__(self, inputs: Tensors) -> None:
        self._inputs = inputs
        self.staged = {name: torch.empty_like(tensor) for name, tensor in inputs.items()}
        self._pinned: Tensors = {}
        # One that the host sleeps for: beside the learner, rollout actors want the cores.
        self._copied = torch.cuda.Event(blocking=True)
        self._taken = torch.cuda.Event()

    def fill(self, arrays: Arrays, stream: torch.cuda.Stream) -> None:
        """Copy the batch to the GPU on ``stream``, through pinned memory where it is not there."""
        self._copied.synchronize()  # by an earlier batch: pinned memory must not change under a copy
        tensors = {name: _as_tensor(array) for name, array in arrays.items()}
        own = {name for name, tensor in tensors.items() if not tensor.is_pinned()}
        for name in own:
            if name not in self._pinned:
                self._pinned[name] = torch.empty_like(tensors[name], pin_memory=True)
            self._pinned[name].copy_(tensors[name])
        with torch.cuda.stream(stream):
            stream.wait_event(self._taken)
            for name, tensor in tensors.items():
                self.staged[name].copy_(self._pinned[name] if name in own else tensor, non_blocking=True)
            self._copied.record(stream)
        if len(own) < len(tensors):
            self._copied.synchronize()

    def hand_over(self, stream: torch.cuda.Stream) -> Tensors:
        """Copy the batch to where the update reads it, on the update's ``stream``."""
        stream.wait_event(self._copied)
        for name, staged in self.staged.items():
            self._inputs[name].copy_(staged, non_blocking=True)
        self._taken.record(stream)
        return self._inputs


def _as_tensor(array: np.ndarray) -> Tensor:
    """Without a copy, unless the array may not be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


class CaptureFailed(RuntimeError):
    """A step could not be captured as a CUDA graph; the message says how to do without."""


class CapturedStep:
    """Runs steps as one CUDA graph: their kernels follow one another without a launch from Python between them.

    The first steps run as they are, then one is captured and from then on replayed. A step must read the host's
    numbers from tensors alone, and wait for the device nowhere.
    """

    WARM_UP = 3
    """Steps before the capture: libraries choose their kernels and set up their memory in the first."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # One stream for warm-up and capture: each stream keeps its own memory.
        self._stream = torch.cuda.Stream(device)
        self._inputs: Tensors | None = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Tensors = {}

    @property
    def replays(self) -> bool:
        """Whether steps are replayed by now."""
        return self._graph is not None

    def __call__(self, step: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        """One ``step(inputs)``; the same step and the same dictionary each time, or the capture begins again.

        Raises:
            CaptureFailed: if the step cannot be captured. The device is then in no state to go on.
        """
        if inputs is not self._inputs:
            self._inputs, self._calls, self._graph = inputs, 0, None
        self._calls += 1
        with torch.cuda.device(self._device):
            if self._calls <= self.WARM_UP:
                return self._warm_up(step, inputs)
            if self._graph is None:
                self._graph = self._capture(step, inputs)
            self._graph.replay()
        return self._outputs

    def _warm_up(self, step: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        """A step on the capture's stream: autograd remembers the stream of its nodes."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = step(inputs)
        current.wait_stream(self._stream)
        return outputs

    def _capture(self, step: Callable[[Tensors], Tensors], inputs: Tensors) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # What is collected during a capture may own another graph, whose end would spoil it.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            # Other threads go on with their copies.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = step(inputs)
        except RuntimeError as error:
            sentence = f"the update cannot be captured as a CUDA graph ({error}); --no-cuda-graph does without one"
            raise CaptureFailed(sentence) from error
        finally:
            if collects:
                gc.enable()
        return graph
