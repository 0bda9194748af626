"""What sees every operator, and fails at those that would make a host wait for its GPU."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_OF_THE_HOST = "prim", "profiler"
"""Namespaces of operators that ask for a tensor's device, or tell a profiler."""
_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class HostWaits(AssertionError):
    """An operator that a GPU's host would wait for; the message names it and the line that called it."""


class Spy(TorchDispatchMode):
    """Counts operators, and kernels that are launched by :class:`Launch`.

    Raises, where an operator runs:
        HostWaits: if its tensors are of several devices, or it gives the host a number.
    """

    _at_work: "Spy | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        """How often each was called: all but views and allocations, which a GPU knows nothing of."""

    def __enter__(self) -> "Spy":
        Spy._at_work = self
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        Spy._at_work = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            outcome = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise HostWaits(f"{func} reads numbers on the host: {_caller()}") from error
        _check_devices(str(func), tree_leaves((args, kwargs, outcome)))
        launched = func.namespace not in _OF_THE_HOST and func.overloadpacket.__name__ not in _ALLOCATIONS
        if launched and not func.is_view:
            self.calls[str(func)] += 1
        return outcome


class Launch:
    """Takes the place of a Triton kernel: notes that it is launched, and checks what with.

    Args:
        name: of the kernel.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
        assert all(isinstance(size, int) and size > 0 for size in grid), (self._name, grid)
        return self._launch

    def _launch(self, *arguments: Any, **constants: Any) -> None:
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        assert tensors
        if not all(tensor.is_cuda for tensor in tensors):
            raise HostWaits(f"{self._name} gets a tensor of the CPU: {_caller()}")
        if Spy._at_work is not None:
            Spy._at_work.calls[self._name] += 1


def _check_devices(name: str, values: Sequence[Any]) -> None:
    devices = {value.device.type for value in values if isinstance(value, Tensor)}
    if len(devices) > 1:
        # From the CPU it is pageable memory: a copy from pinned memory is the feed's, before the update.
        what = "copies between host and device" if "copy" in name else "mixes devices"
        raise HostWaits(f"{name} {what}: {_caller()}")


def _caller() -> str:
    """The innermost line that is not PyTorch's, or that there is none, as where autograd calls its own operators."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and name.partition(".")[0] not in ("torch", "contextlib"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "autograd's own backward pass"
