"""Names for the parts of a computation, as a profiler shows them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.autograd import profiler

_NOTHING = nullcontext()


def scope(name: str) -> AbstractContextManager[Any]:
    """``with scope("core"):`` gives a part its name in the trace of a running ``torch.profiler``; without one it does
    nothing."""
    # The flag that PyTorch itself asks: record_function alone takes as long as a small operation.
    return profiler.record_function(name) if profiler._is_profiler_enabled else _NOTHING
