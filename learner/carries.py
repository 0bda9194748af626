"""The carry of every stream, kept where the learner is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Carry, Core


class CarryStore:
    """States and sensitivities of all streams on the learner's device, indexed by stream.

    Rollout actors ship only the state of a rollout's start. A stream's carry is taken up where its last rollout
    ended; where the sequence number shows a gap (a lost rollout, a restarted actor), or where its last update was
    skipped, the stream begins again at the shipped state with zero sensitivities, and ``resets`` counts it.

    :meth:`gaps` and :meth:`advance`, before the updates and in their order, work on the host; :meth:`fetch` and
    :meth:`store`, within one, only enqueue work on the device: nothing waits for it, and a CUDA graph can hold them.

    Args:
        core: the core whose carries are kept.
        num_streams: streams are numbered from 0 to ``num_streams - 1``.
        sensitivity_dtype: how the sensitivities of the input weights, nearly all of the memory, are stored; None for
            the core's own dtype. Arithmetic is in the core's dtype whatever this is.
    """

    def __init__(self, core: Core, num_streams: int, sensitivity_dtype: torch.dtype | None = None) -> None:
        self._carry = core.initial_carry(num_streams)
        if sensitivity_dtype is not None:
            stored = tuple(traces.stored_as(sensitivity_dtype) for traces in self._carry.traces)
            self._carry = Carry(self._carry.state, stored)
        self.next_sequence = np.zeros(num_streams, dtype=np.int64)
        """The sequence number that each stream's next rollout must have, [num_streams]."""
        # Streams fetched and not yet stored: an update that failed may have left their sensitivities half advanced.
        self._spoilt = torch.zeros(num_streams, dtype=torch.bool, device=self._carry.state.device)
        self._resets = torch.zeros((), dtype=torch.int64, device=self._carry.state.device)

    @property
    def resets(self) -> int:
        """Streams that began again because of a gap or a skipped update, since the start; waits for the device."""
        return int(self._resets)

    @resets.setter
    def resets(self, count: int) -> None:
        self._resets.fill_(count)

    def gaps(self, stream: np.ndarray, sequence: np.ndarray) -> np.ndarray:
        """[B] bool, true where a rollout does not follow the stream's last one, by streams and their numbers, [B].

        Raises:
            ValueError: for streams that are unknown or come twice.
        """
        self._check(stream)
        return sequence != self.next_sequence[stream]

    def advance(self, stream: np.ndarray, sequence: np.ndarray) -> None:
        """Note that these rollouts are the next to be learned from."""
        self.next_sequence[stream] = sequence + 1

    def fetch(self, streams: Tensor, gap: Tensor, first_state: Tensor) -> Carry:
        """The carries with which the rollouts of ``streams``, [B] int64, all different, begin. The sensitivities are
        not copied: the backward pass of the core advances them where they are kept.

        Args:
            gap: [B] bool, from :meth:`gaps`.
            first_state: the states that the actor held before the rollouts, [B, S]; used where a stream begins again.
        """
        state, fresh = self.before(streams, gap, first_state)
        # An index assignment would bring the number from the host, and wait.
        self._spoilt.index_fill_(0, streams, True)
        self._resets += fresh.sum()
        return self._of_batch(streams, state, fresh)

    def before(self, streams: Tensor, gap: Tensor, first_state: Tensor) -> tuple[Tensor, Tensor]:
        """The states with which :meth:`fetch` would let rollouts begin, [B, S], and which of their streams begin again,
        [B] bool; nothing changes."""
        # Advanced indexing takes some times as long as these.
        fresh = gap | self._spoilt.index_select(0, streams)
        state = self._carry.state.index_select(0, streams)
        return torch.where(fresh.unsqueeze(-1), first_state.to(state.dtype), state), fresh

    def store(self, streams: Tensor, carry: Carry, kept: Tensor) -> None:
        """Keep the states after the rollouts of a batch; their sensitivities have been advanced already. Where ``kept``
        (bool, a scalar or [B]) is false, the update was skipped: the streams begin again at their next rollout."""
        self._carry.state.index_copy_(0, streams, carry.state)
        self._spoilt.index_copy_(0, streams, (~kept).expand(len(streams)))

    def take_across(
        self, core: Core, x: Tensor, is_first: Tensor, streams: Tensor, fresh: Tensor, first_state: Tensor
    ) -> None:
        """Take carries across rollouts from which nothing is learned, by the inputs x, [T, B, D], and is_first, [T, B].
        The streams that are ``fresh``, [B] bool, begin at ``first_state`` with zero sensitivities."""
        kept = self._carry.state
        state = torch.where(fresh.unsqueeze(-1), first_state, kept[streams])
        kept[streams] = core.advance(x, self._of_batch(streams, state, fresh), is_first).state

    def nbytes(self, device: torch.device | None = None) -> int:
        """Bytes that the carries hold, or would hold on another device."""
        return self._carry.state.nbytes + sum(traces.nbytes(device) for traces in self._carry.traces)

    def _of_batch(self, streams: Tensor, state: Tensor, fresh: Tensor) -> Carry:
        return Carry(state, self._carry.traces).of_streams(streams, fresh)

    def _check(self, stream: np.ndarray) -> None:
        known, numbers = len(self.next_sequence), stream.tolist()
        if numbers and not (min(numbers) >= 0 and max(numbers) < known):
            raise ValueError(f"streams must lie in 0 to {known - 1}, not {numbers}")
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"a stream may come only once in a batch, not {numbers}")
