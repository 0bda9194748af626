"""What a cell is, and how to add one.

A cell is a recurrence in which units do not meet: the state c_t of a unit, one number or a pair of numbers, follows
from the unit's own gates, numbers and state before,

    c_t = step(p_t, own, c_{t-1})      p_t^k = W^k x_t + b^k      k = 1 ... K

To add one, write a file beside this one with a subclass of :class:`Cell` that defines `gates`, `own` and `step` (and
`parts = 2` where a unit's state is a pair), and give it a line in the table of ``r2ac.kernels.cells``. That is all:
its derivatives come from autograd of `step`, and with them exact RTRL, TBPTT, the core `r2ac.agents.Recurrent`, a name
for ``--core``, and the tests, which run for every entry of the table. Where c_t = a c_{t-1} + b, give a and b in the
place of `step`: see `r2ac.kernels.cells.linear`. Where they pay, write the derivatives out in `linearise`, and name
kernels of its own in ``fused`` in `r2ac.kernels.choice`.

A cell whose parameters are shared by units, such as Mamba's B and C, does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor


class Linearisation(NamedTuple):
    """A cell's derivatives along a trajectory: all that RTRL and BPTT need to know of it. "(2,)" is there for pairs."""

    jacobian: Tensor
    """a_t = dc_t/dc_{t-1}, [..., N], or as a block [..., 2, 2, N]."""
    by_gates: Tensor
    """u_t^k = dc_t/dp_t^k, [..., (2,) K, N]."""
    by_own: Tensor
    """v_t^l = dc_t/d own_l, [..., (2,) L, N]."""


class Cell(Protocol):
    """An element-wise recurrent cell; it has no state and no parameters, which are its arguments."""

    gates: int
    """K, the gates that read the input."""
    own: Mapping[str, int]
    """The unit's own parameters beside the gates' biases, such as recurrent weights or decays, by name, and how many
    numbers of a unit each has; L numbers together, in this order."""
    parts: Literal[1, 2] = 1
    """Numbers of a unit's state."""

    output_gate: bool = False
    """Whether a core of this cell gates its output, unless the core is asked for the other."""
    recurrent_weight_is_decay: bool = False
    """Whether `set_time_scales` chooses the own parameter "recurrent_weight"."""

    @property
    def numbers(self) -> int:
        """L."""
        return sum(self.own.values())

    @property
    def pair(self) -> tuple[int, ...]:
        """The axis that shapes have for the parts of a state: none, or (2,)."""
        return (2,) if self.parts == 2 else ()

    def step(self, gates: Tensor, own: Tensor, previous: Tensor) -> Tensor:
        """One step, for any leading axes: the reference, and what actors run.

        Args:
            gates: p, the pre-activations with their biases, [..., K, N].
            own: [..., L, N].
            previous: c_{t-1}, zero where an episode begins, [..., (2,) N].

        Returns:
            c_t, as ``previous``.
        """
        ...

    def linearise(self, gates: Tensor, own: Tensor, previous: Tensor) -> Linearisation:
        """The derivatives of `step` at these arguments; here by autograd, for all steps of a rollout at once: as units
        do not meet, the derivative of their sum by one unit's argument is that unit's own."""
        own = own.expand(*gates.shape[:-2], *own.shape[-2:])
        # Not by torch.autograd, which records nothing inside an operator.
        after, pull = torch.func.vjp(self.step, gates, own, previous)  # type: ignore[misc]
        if self.parts == 1:
            by_gates, by_own, jacobian = pull(torch.ones_like(after))
        else:
            parts = torch.eye(2, dtype=after.dtype, device=after.device).unsqueeze(-1).expand(2, 2, after.shape[-1])
            halves = [pull(part.expand_as(after)) for part in parts]
            by_gates, by_own, jacobian = (torch.stack(each, -3) for each in zip(*halves, strict=True))
        return Linearisation(jacobian, by_gates, by_own)

    def initialise(self, own: Mapping[str, Tensor]) -> None:
        """Draw the first values of the own parameters, in place; the core draws W, and biases are zero."""
        for parameter in own.values():
            torch.nn.init.normal_(parameter, std=0.1)

    def set_time_scales(self, own: Mapping[str, Tensor], bias: Tensor, steps: Tensor) -> None:
        """Choose own parameters and biases, in place, so that without input a unit's state decays to about 1/e of its
        value within the given number of steps. Called only where ``chrono_steps`` is not 0; by default does nothing.

        Args:
            own: the own parameters, by name.
            bias: [K, N].
            steps: [N], at least 1.
        """
