"""The feed and captured updates on a simulated GPU: every batch arrives whole, whatever order the streams run in, and
leaving out any of the waits in ``learner/device.py`` is found."""

from __future__ import annotations

import inspect
import queue
import sys
import threading
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from r2ac.learner import device
from tests.learner.simulated_gpu import Order, SimulatedGPU, Tensor, in_random_order, newest_first, oldest_first

GPU: Any = SimpleNamespace(type="cuda")
ORDERS: dict[str, Order] = {
    "oldest first": oldest_first,
    "newest first": newest_first,
    **{f"seed {seed}": in_random_order(seed) for seed in range(4)},
}
# Rollouts of two lengths: the feed makes its tensors anew, in memory that others have left, and captures begin again.
LENGTHS = [7] * 12 + [5] * 2 + [7] * 2 + [5] * 2 + [7] * 12
RING = 3
"""Pinned batches that are used again and again, as those of the learner's rollouts are."""


def device_module(monkeypatch: pytest.MonkeyPatch, gpu: SimulatedGPU, line: str = "", instead: str = "pass") -> Any:
    """learner/device.py on the simulated GPU, with a line of it changed."""
    source = inspect.getsource(device)
    if line:
        assert source.count(line) == 1, f"learner/device.py has no such line any more: {line}"
        source = source.replace(line, instead)
    module = ModuleType("changed_device")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "changed_device.py", "exec"), module.__dict__)
    module.__dict__["torch"] = gpu
    # Nothing here owns a graph of a real GPU; collecting takes longer than all else.
    module.__dict__["gc"] = SimpleNamespace(collect=int, isenabled=lambda: False, disable=int)
    return module


def wrong_batches(gpu: SimulatedGPU, module: Any, pinned: bool) -> list[int]:
    """Numbers of the batches that an update did not see whole. They are staged on a thread, as far ahead as they may
    be, and the first updates run one by one, the others as a graph."""
    feed, run = module.DeviceFeed(GPU), module.CapturedStep(GPU)
    staged: queue.Queue[Any] = queue.Queue(maxsize=module.DeviceFeed.SLOTS - 2)
    ring = [{name: gpu.pinned_array((max(LENGTHS),), np.int64) for name in "ab"} for _ in range(RING)]
    wrong: list[int] = []

    def stage() -> None:
        try:
            for number, length in enumerate(LENGTHS):
                arrays = {name: array[:length] for name, array in ring[number % RING].items()} if pinned else {}
                arrays |= {name: np.empty(length, np.int64) for name in "abc" if name not in arrays}
                for array in arrays.values():
                    array[:] = number
                feed.stage(arrays)
                staged.put(None)
        except BaseException as error:
            staged.put(error)

    def step(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: gpu.empty_like(tensor).copy_(tensor) for name, tensor in inputs.items()}

    thread = threading.Thread(target=stage, daemon=True)
    thread.start()
    for number in range(len(LENGTHS)):
        batch = staged.get(timeout=60)
        if isinstance(batch, BaseException):
            raise batch
        outputs = run(step, feed.take())

        def look(number: int = number, seen: Sequence[np.ndarray] = [each.array for each in outputs.values()]) -> None:
            if any((array != number).any() for array in seen):
                wrong.append(number)

        gpu.enqueue(look)
    thread.join()
    gpu.synchronize()
    return wrong


@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_update_sees_its_batch_whole(monkeypatch: pytest.MonkeyPatch, order: str, pinned: bool) -> None:
    gpu = SimulatedGPU(ORDERS[order])
    assert wrong_batches(gpu, device_module(monkeypatch, gpu), pinned) == []


PLANTED = {
    "pinned memory is written while it is copied": ("self._copied.synchronize()  # by an earlier batch", "pass  #"),
    "a ring's memory is given back while it is copied": ("if len(own) < len(tensors):", "if False:"),
    "a batch is staged before the last one was taken": ("stream.wait_event(self._taken)", "pass"),
    "a batch is taken before it is staged": ("stream.wait_event(self._copied)", "pass"),
    "a batch is staged in memory that an update still reads": (
        "self._stream.wait_stream(torch.cuda.current_stream(self._device))",
        "pass",
    ),
    "the first updates run before their batch is taken": ("self._stream.wait_stream(current)", "pass"),
    "what follows the first updates does not wait for them": ("current.wait_stream(self._stream)", "pass"),
}


@pytest.mark.parametrize("race", PLANTED)
def test_a_wait_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch, race: str) -> None:
    found = []
    for pinned in (False, True):
        for order in (oldest_first, newest_first):
            gpu = SimulatedGPU(order)
            found += wrong_batches(gpu, device_module(monkeypatch, gpu, *PLANTED[race]), pinned)
    assert found


def test_a_graph_begins_again_with_other_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGPU(oldest_first)
    run = device_module(monkeypatch, gpu).CapturedStep(GPU)
    calls = []
    for inputs in ({"a": 1}, {"a": 2}):
        for number in range(6):
            run(lambda inputs: calls.append(inputs["a"]), inputs)
            assert run.replays == (number >= run.WARM_UP)
    assert calls == 4 * [1] + 4 * [2], "three to warm up, and one that is captured"


def test_a_step_that_cannot_be_captured_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGPU(oldest_first)
    module = device_module(monkeypatch, gpu)
    run, inputs = module.CapturedStep(GPU), {}

    def step(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if getattr(gpu._thread, "graph", None) is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return {}

    for _ in range(run.WARM_UP):
        run(step, inputs)
    with pytest.raises(module.CaptureFailed, match=r"operation not permitted .*--no-cuda-graph does without one"):
        run(step, inputs)
