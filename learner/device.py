"""How batches come to the learner's device, and how updates run there without gaps between their kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

Arrays = Mapping[str, np.ndarray]
Tensors = dict[str, Tensor]


class DeviceFeed:
    """Brings the arrays of a batch to a device.

    On a GPU they go through pinned memory and a stream of their own, so that a batch is copied while the update before
    it still runs, and end in tensors that are the same for every batch of the same shapes, as a CUDA graph wants. The
    host waits only where it is two batches ahead. On a CPU arrays become tensors as they are.

    Args:
        device: where the tensors are to be.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self._slots: list[_Slot] = []
        self._inputs: Tensors = {}

    def __call__(self, arrays: Arrays) -> Tensors:
        """The arrays as tensors on the device. On a GPU they are valid until the next call."""
        if self._device.type != "cuda":
            return {name: _as_tensor(array).to(self._device) for name, array in arrays.items()}
        shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if shapes != self._shapes:
            self._shapes = shapes
            self._stream = torch.cuda.Stream(self._device)
            self._slots = [_Slot(arrays, self._device) for _ in range(2)]
            self._inputs = {name: torch.empty_like(staged) for name, staged in self._slots[0].staged.items()}
        slot = self._slots.pop(0)
        self._slots.append(slot)
        slot.fill(arrays, self._stream)
        update_stream = torch.cuda.current_stream(self._device)
        slot.hand_over(self._inputs, update_stream)
        return self._inputs


class _Slot:
    """One batch under way: in pinned memory, and staged on the GPU."""

    def __init__(self, arrays: Arrays, device: torch.device) -> None:
        like = {name: _as_tensor(array) for name, array in arrays.items()}
        self.pinned = {name: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for name, t in like.items()}
        self.staged = {name: torch.empty(t.shape, dtype=t.dtype, device=device) for name, t in like.items()}
        self._copied = torch.cuda.Event()
        self._taken = torch.cuda.Event()

    def fill(self, arrays: Arrays, stream: torch.cuda.Stream) -> None:
        """Write the batch to pinned memory and copy it to the GPU on ``stream``."""
        self._copied.synchronize()  # by the batch before the last: pinned memory must not change under a copy
        for name, array in arrays.items():
            self.pinned[name].copy_(_as_tensor(array))
        with torch.cuda.stream(stream):
            stream.wait_event(self._taken)
            for name, pinned in self.pinned.items():
                self.staged[name].copy_(pinned, non_blocking=True)
            self._copied.record(stream)

    def hand_over(self, inputs: Tensors, stream: torch.cuda.Stream) -> None:
        """Copy the batch to where the update reads it, on the update's ``stream``."""
        stream.wait_event(self._copied)
        for name, staged in self.staged.items():
            inputs[name].copy_(staged, non_blocking=True)
        self._taken.record(stream)


def _as_tensor(array: np.ndarray) -> Tensor:
    """Without a copy, unless the array may not be written to."""
    return torch.from_numpy(np.require(array, requirements="W"))


class CapturedStep:
    """A step that runs as one CUDA graph: its kernels follow one another without a launch from Python between them.

    The first steps run as they are, then one is captured and from then on replayed. A step must read the host's
    numbers from tensors alone, and wait for the device nowhere.

    Args:
        step: called with the tensors of a batch; its results are overwritten by the next call.
        captured: false to run every step as it is, which is all that other devices than GPUs can do.
    """

    WARM_UP = 3
    """Steps before the capture: libraries choose their kernels and set up their memory in the first."""

    def __init__(self, step: Callable[[Tensors], Tensors], captured: bool) -> None:
        self._step = step
        self._captured = captured
        self._inputs: Tensors | None = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Tensors = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        """One step with ``inputs``; the same dictionary each time, or the capture begins again."""
        if not self._captured:
            return self._step(inputs)
        if inputs is not self._inputs:
            self._inputs, self._calls, self._graph = inputs, 0, None
        self._calls += 1
        if self._calls <= self.WARM_UP:
            return self._warm_up(inputs)
        if self._graph is None:
            try:
                self._capture(inputs)
            except RuntimeError as error:
                warnings.warn(f"updates run without a CUDA graph, because its capture failed: {error}", stacklevel=2)
                self._captured = False
                return self._step(inputs)
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _warm_up(self, inputs: Tensors) -> Tensors:
        """A step beside the default stream, as the capture's will be: autograd remembers the stream of its nodes."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            outputs = self._step(inputs)
        current.wait_stream(stream)
        return outputs

    def _capture(self, inputs: Tensors) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outputs = self._step(inputs)
        self._graph = graph
