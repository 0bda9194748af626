"""Many tensors as one vector: what is done to all of them is then a few operations, not some for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def to_vector(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all numbers, one tensor after another, in the widest of their dtypes."""
    return torch.cat([tensor.flatten() for tensor in tensors])


@torch.no_grad()
def copy_vector_(tensors: Sequence[Tensor], vector: Tensor) -> None:
    """Write the numbers of a vector, as :func:`to_vector` orders them, into the tensors, each where it lies."""
    parts = vector.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
