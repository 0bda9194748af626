"""Cells that are linear in their state, but for a tanh: a rollout's states are one scan over what its inputs give."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from r2ac.kernels.cells.base import Cell


class LinearCell(Cell):
    """c = a c' + b      or      c = tanh(a c' + b)      where neither a nor b depends on c'

    A cell gives `coefficients` in the place of `step`. Where a unit's state is a pair, a, b and c are complex numbers,
    and tanh is of each part.
    """

    squashed: bool = False
    """Whether c is tanh of a c' + b."""

    @abstractmethod
    def coefficients(self, gates: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of any number of steps at once; arguments as of `step`.

        Returns:
            a, which may lack leading axes that b has, and b, [..., (2,) N].
        """

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        factor, added = self.coefficients(gates, own)
        state = (times(factor, previous) if self.parts == 2 else factor * previous) + added
        return torch.tanh(state) if self.squashed else state


def times(factor: Tensor, state: Tensor) -> Tensor:
    """The product of complex numbers, [..., 2, N]."""
    (real, imaginary), (first, second) = factor.unbind(-2), state.unbind(-2)
    left = torch.addcmul(real * first, imaginary, second, value=-1)
    return torch.stack((left, torch.addcmul(imaginary * first, real, second)), -2)


def polar(radius: Tensor, angle: Tensor) -> Tensor:
    """radius exp(i angle), [..., 2, N]."""
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -2)


def as_block(factor: Tensor) -> Tensor:
    """The matrix that multiplies by a complex number: [..., 2, N] as [..., 2, 2, N]."""
    real, imaginary = factor.unbind(-2)
    return rows((real, -imaginary), (imaginary, real))


def rows(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """What a pair's numbers are by several others, as one tensor: each [..., N], to [..., 2, len(first), N]."""
    return torch.stack((*first, *second), -2).unflatten(-2, (2, len(first)))
