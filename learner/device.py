"""How batches come to the learner's device, and how updates run there without gaps between their kernels."""

from __future__ import annotations

import gc
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
    """Brings the arrays of a batch to a device.

    On a GPU they go through pinned memory and a stream of their own, so that a batch is copied while the update before
    it still runs, and end in tensors that are the same for every batch of the same shapes, as a CUDA graph wants. The
    host waits only where it is some batches ahead. On a CPU arrays become tensors as they are.

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
            # The memory of the new tensors may have been another's, whose kernels are still to run.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
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
        # One that the host sleeps for: beside the learner, rollout actors want the cores.
        self._copied = torch.cuda.Event(blocking=True)
        self._taken = torch.cuda.Event()

    def fill(self, arrays: Arrays, stream: torch.cuda.Stream) -> None:
        """Write the batch to pinned memory and copy it to the GPU on ``stream``."""
        self._copied.synchronize()  # by the batch before the last: pinned memory must not change under a copy
        for name, array in arrays.items():
            np.copyto(self.pinned[name].numpy(), array)
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


class CaptureFailed(RuntimeError):
    """A step could not be captured as a CUDA graph; the message says how to do without."""


class CapturedStep:
    """Runs steps as one CUDA graph: their kernels follow one another without a launch from Python between them.

    The first steps run as they are, then one is captured and from then on replayed. A step must read the host's
    numbers from tensors alone, and wait for the device nowhere.

    Args:
        device: where the steps run.
        captured: false to run every step as it is, which is all that other devices than GPUs can do.
    """

    WARM_UP = 3
    """Steps before the capture: libraries choose their kernels and set up their memory in the first."""

    def __init__(self, device: torch.device, captured: bool) -> None:
        self._device = device
        self._captured = captured
        # One stream for warm-up and capture: each stream keeps its own memory.
        self._stream = torch.cuda.Stream(device) if captured else None
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
        if not self._captured:
            return step(inputs)
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
        assert self._stream is not None
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
            with torch.cuda.graph(graph, stream=self._stream):
                self._outputs = step(inputs)
        except RuntimeError as error:
            sentence = f"the update cannot be captured as a CUDA graph ({error}); --no-cuda-graph does without one"
            raise CaptureFailed(sentence) from error
        finally:
            if collects:
                gc.enable()
        return graph
