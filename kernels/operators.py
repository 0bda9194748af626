"""The kernels as PyTorch operators: opaque to ``torch.compile``, with shapes for it; they have no gradients.

Each is called as its readable reference, whose signature is the operator's, and runs on the kernel of its tensors'
device. An operator costs more than a small kernel does, and its first call imports ``torch.compile``: where
:func:`needs_operators` says no, kernels are called without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler

from r2ac.kernels import block, scan, sensitivity
from r2ac.kernels.choice import kernels_for


def _operator(reference: Callable[..., Tensor], writes: Sequence[str], shape: Callable[..., Tensor]) -> Any:
    """``r2ac::name``, of the reference's name.

    Args:
        writes: the arguments that it changes.
        shape: an empty tensor like the result, from the arguments.
    """
    name = reference.__name__

    def run(*arguments: Tensor) -> Tensor:
        # The last has the dtype of the arithmetic: S may be stored in another.
        return getattr(kernels_for(arguments[-1]), name)(*arguments)

    schema = torch.library.infer_schema(reference, mutates_args=writes)
    operator = torch.library.custom_op(f"r2ac::{name}", run, mutates_args=writes, schema=schema)
    operator.register_fake(shape)
    return operator


def is_traced(tensor: Tensor) -> bool:
    """Whether a compiler, a tracer or a tensor subclass is to see PyTorch's operations."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0
    return traced or type(tensor) is not Tensor


def needs_operators(tensor: Tensor) -> bool:
    """Whether one of these, or a profiler, is to see an operator."""
    return is_traced(tensor) or profiler._is_profiler_enabled


backward_scan_operator = _operator(scan.backward_scan, (), lambda direct, jacobian: torch.empty_like(direct))
sensitivity_pass_ = _operator(
    sensitivity.sensitivity_pass_, ("matrix",), lambda matrix, *others: others[-1].new_empty(matrix.shape[1:])
)
vector_pass_ = _operator(
    sensitivity.vector_pass_, ("vectors",), lambda vectors, *others: others[-1].new_empty(vectors.shape[-2:])
)
block_sensitivity_pass_ = _operator(
    block.block_sensitivity_pass_, ("matrix",), lambda matrix, *others: others[-1].new_empty(matrix.shape[2:])
)


@torch.no_grad()
def backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """d_t = e_t + a_{t+1} d_{t+1} for tensors [T, ...], without a gradient: see
    :func:`r2ac.kernels.scan.backward_scan`."""
    compute = backward_scan_operator if needs_operators(direct) else kernels_for(direct).backward_scan
    return compute(direct, jacobian)
