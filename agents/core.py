"""What a core is: the part of an agent that remembers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import get_args

import torch
from torch import Tensor, nn

from r2ac.agents.config import TimeScales
from r2ac.kernels import Notes, Traces

START_SCALE = 0.1
"""Standard deviation of a core's weights at the start, unless another is asked for (Irie et al. 2024)."""


@dataclass(frozen=True)
class Carry:
    """What a core hands from one rollout to the next."""

    state: Tensor
    """The core's state, [B, S]."""
    traces: tuple[Traces, ...] = ()
    """Derivatives of the state by the recurrent parameters, one for each layer or kind of cell of the core; none unless
    the gradient is RTRL's."""
    notes: tuple[Notes, ...] = ()
    """Beside traces with ``streams``, one for each: where the backward pass notes what it found."""

    def of_streams(self, streams: Tensor, fresh: Tensor | None = None) -> Carry:
        """The same, whose traces are those of all streams: the batch has ``streams``, [B] int64, all different, and of
        these S counts as zero where ``fresh``, [B] bool. The backward pass advances them where they are kept."""
        of_batch = tuple(Traces(each.weight, each.vectors, streams, fresh, each.advance) for each in self.traces)
        return Carry(self.state, of_batch, self.notes)

    def select(self, index: Tensor) -> Carry:
        """That of some streams of the batch, [b] int64, without notes; its traces have ``streams``."""

        def of(traces: Traces) -> Traces:
            assert traces.streams is not None
            return replace(
                traces,
                streams=traces.streams[index],
                fresh=None if traces.fresh is None else traces.fresh[index],
            )

        return Carry(self.state[index], tuple(map(of, self.traces)))


class Core(nn.Module, ABC):
    """What every core has. To add one, write a subclass and give it a line in the table of ``r2ac.agents.cores``; where
    RTRL cannot train it, also one in ``FIXED_GRADIENTS`` of ``r2ac.agents.config``."""

    input_size: int
    """D."""
    hidden_size: int
    """Units (N)."""
    output_size: int
    """Numbers of h (H)."""
    state_size: int
    """Numbers that the core remembers of each stream (S)."""
    uses_rtrl: bool = False
    """Whether it is trained by RTRL: its carry then has traces."""

    @property
    def recurrent_parameters(self) -> tuple[nn.Parameter, ...]:
        """Those that traces are kept of, in the order of their gradients in the notes."""
        return ()

    @abstractmethod
    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        """The carry of ``batch_size`` streams before their first step: zeros, on the parameters' device and dtype
        unless others are named."""

    @abstractmethod
    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        """:meth:`forward` with the states after each step, [T, B, S], detached, between h and the carry."""

    @abstractmethod
    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """One step, with gradients by its arguments and the parameters and without traces: x [B, D], state [B, S],
        is_first [B] bool -> h [B, H], state. `torch.func` can transform it."""

    @abstractmethod
    def truncated_states(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """The states after each step of a rollout, [T, B, S], whose gradients end at ``state`` before it, [B, S]."""

    @abstractmethod
    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """By what factor a small change of the state is scaled in the step that :meth:`step` makes, [B, S]."""

    @torch.no_grad()
    def step(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`transition` without gradients, for those who act."""
        return self.transition(x, state, is_first)

    @torch.no_grad()
    def advance(self, x: Tensor, carry: Carry, is_first: Tensor) -> Carry:
        """The carry after a rollout from which nothing is learned; arguments are those of :meth:`forward`. Traces that
        it holds by ``streams`` are advanced in place."""
        return Carry(self.truncated_states(x, carry.state, is_first)[-1])

    def boundary_by_stream(self, by_state: Tensor, carry: Carry) -> tuple[Tensor, ...]:
        """What the gradient by the recurrent parameters gains from before ``carry``, stream by stream: [B, ...] each,
        where the gradient by the state is ``by_state``, [B, S]."""
        return ()

    def initial_through(self, streams: int) -> tuple[Tensor, ...]:
        """V of :func:`r2ac.kernels.sensitivity.horizon_pass_` before the first step of so many streams: zeros, [R, N]
        for each of the carry's traces."""
        vectors = [traces.vectors for traces in self.initial_carry(1).traces]
        return tuple(each.new_zeros(streams, each.shape[-1]) for each in vectors)

    def with_notes(self, carry: Carry, through: Sequence[Tensor], parts: bool = True) -> Carry:
        """The carry, whose traces have ``streams``, with notes of V of all streams, [R, N] for each of the traces from
        :meth:`initial_through`, and, if wanted, of the gradient's parts."""
        return carry

    def forward(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """Run over a rollout.

        Args:
            x: inputs, [T, B, D].
            carry: the carry before the rollout; not changed, but for traces that it holds by ``streams``.
            is_first: [T, B] bool, true where a step begins an episode: the carry is zeroed *before* that step.

        Returns:
            h, [T, B, H], which carries gradients, and the carry after step T, detached.

        Raises:
            ValueError: for shapes that do not fit together, a carry without traces under RTRL, or one with ``streams``
                where no backward pass can follow.
        """
        h, _, carry = self.unroll(x, carry, is_first)
        return h, carry


@torch.no_grad()
def draw_time_scales(like: Tensor, longest: float, time_scales: TimeScales) -> Tensor | None:
    """Time scales in [1, longest], in steps, as many as ``like`` has numbers; None where ``longest`` is 0.

    Raises:
        ValueError: for ``longest`` other than 0 and below 2, an unknown spread, or log-uniform where ``longest`` is 0.
    """
    if longest != 0 and longest < 2:
        raise ValueError(f"chrono_steps must be 0 or at least 2, not {longest}")
    if time_scales not in get_args(TimeScales):
        raise ValueError(f"time_scales must be one of {', '.join(get_args(TimeScales))}, not {time_scales!r}")
    if longest == 0:
        if time_scales != "uniform":
            raise ValueError(f"time_scales is {time_scales}, but chrono_steps is 0: there are none to spread")
        return None
    steps = torch.empty_like(like)
    return steps.uniform_(1, longest) if time_scales == "uniform" else steps.uniform_(0, log(longest)).exp_()
