"""The one place where the implementation of a kernel is chosen: by the device and dtype of the tensors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from r2ac.kernels import block, scan, sensitivity
from r2ac.kernels.cells import CELLS
from r2ac.kernels.scan import ReverseScan


class UnknownKernels(ValueError):
    """``R2AC_KERNELS`` names no implementation that can be asked for."""


class Scans(NamedTuple):
    """A cell's scans over a rollout."""

    forward: Callable[..., Tensor]
    """Called as :func:`r2ac.kernels.scan.forward_scan`, but for the cell."""
    reverse: Callable[..., ReverseScan]
    """Called as :func:`r2ac.kernels.scan.reverse_scan`, but for the cell and its scan."""


@dataclass(frozen=True)
class Kernels:
    """One implementation of everything that is worth a kernel; each function computes what the readable one of its name
    does, in :mod:`r2ac.kernels.scan`, :mod:`r2ac.kernels.sensitivity` or :mod:`r2ac.kernels.block`."""

    name: str
    backward_scan: Callable[[Tensor, Tensor], Tensor]
    linear_forward_scan: Callable[..., Tensor]
    linear_reverse_scan: Callable[..., ReverseScan]
    sensitivity_pass_: Callable[..., Tensor]
    vector_pass_: Callable[..., Tensor]
    block_sensitivity_pass_: Callable[..., Tensor]
    fused: Mapping[str, Scans] = field(default_factory=dict)
    """The scans of cells that have kernels of their own, by the cell's name."""

    def scans(self, cell: str) -> Scans:
        """The scans of a cell: its own kernels, or else those of any cell."""
        if cell in self.fused:
            return self.fused[cell]
        known = CELLS[cell]
        return Scans(
            partial(scan.forward_scan, known, linear_scan=self.linear_forward_scan),
            partial(scan.reverse_scan, known, linear_scan=self.linear_reverse_scan),
        )


REFERENCE = Kernels(
    "reference",
    scan.backward_scan,
    scan.linear_forward_scan,
    scan.linear_reverse_scan,
    sensitivity.sensitivity_pass_,
    sensitivity.vector_pass_,
    block.block_sensitivity_pass_,
)
"""Plain PyTorch: readable, for every device and dtype."""


def kernels_for(tensor: Tensor) -> Kernels:
    """The kernels for tensors like this one.

    float32 on an NVIDIA GPU takes Triton; float32 and float64 on a CPU take compiled C++; everything else, and a
    machine without what these two need, takes the reference, with a warning. ``R2AC_KERNELS=reference`` in the
    environment takes the reference always.

    Raises:
        UnknownKernels: if ``R2AC_KERNELS`` has another value.
    """
    asked = os.environ.get("R2AC_KERNELS", "")
    if asked not in ("", REFERENCE.name):
        raise UnknownKernels(
            f"R2AC_KERNELS is {asked!r}: it must be 'reference', or unset for the fastest kernels of the device"
        )
    if asked:
        return REFERENCE
    if tensor.device.type == "cuda" and tensor.dtype == torch.float32:
        return _triton() or REFERENCE
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        return _native() or REFERENCE
    return REFERENCE


@cache
def _triton() -> Kernels | None:
    reason = _missing_for_triton()
    if reason is not None:
        warnings.warn(f"the recurrence runs in plain PyTorch, many launches a step: {reason}", stacklevel=2)
        return None
    from r2ac.kernels import triton_linear, triton_scan, triton_sensitivity

    fused = {"elstm": Scans(triton_scan.elstm_forward, triton_scan.elstm_backward)}
    return _from_modules("triton", triton_scan, triton_linear, triton_sensitivity, fused)


def _missing_for_triton() -> str | None:
    """What keeps Triton from launching a kernel, in one sentence; None where nothing does.

    At the first launch Triton compiles C code of its own, against Python's header files, with the compiler of CC, or
    else gcc or clang.
    """
    if find_spec("triton") is None or torch.version.cuda is None:
        return "Triton is missing"
    compiler = os.environ.get("CC", shutil.which("gcc") or shutil.which("clang") or "")
    if not compiler:
        return "Triton needs a C compiler, and there is none (CC, gcc, clang); install gcc"
    command = [compiler, "-fsyntax-only", f"-I{sysconfig.get_path('include', 'posix_prefix')}", "-x", "c", "-"]
    try:
        done = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
    except OSError as error:
        return f"Triton needs a C compiler, and {compiler} cannot be run: {error.strerror}; install gcc, or set CC"
    if done.returncode != 0:
        return f"Triton needs Python's header files, and {compiler} does not find Python.h; install python3-dev"
    return None


@cache
def _native() -> Kernels | None:
    from r2ac.kernels import native, native_library

    reason = native_library.missing_reason()
    if reason is not None:
        warnings.warn(f"the recurrence runs in plain PyTorch, two to three times slower: {reason}", stacklevel=2)
        return None
    fused = {
        cell: Scans(partial(native.cell_forward, cell), partial(native.cell_backward, cell))
        for cell in native_library.CELLS_WITH_SCANS
    }
    return _from_modules("native", native, native, native, fused)


def _from_modules(name: str, scans: Any, linear_scans: Any, passes: Any, fused: Mapping[str, Scans]) -> Kernels:
    return Kernels(
        name,
        scans.backward_scan,
        linear_scans.linear_forward_scan,
        linear_scans.linear_reverse_scan,
        passes.sensitivity_pass_,
        passes.vector_pass_,
        passes.block_sensitivity_pass_,
        fused,
    )
