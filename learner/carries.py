"""The carry of every stream, kept where the learner is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import ELSTM, Carry, FeedForward


class CarryStore:
    """Cell states and sensitivities of all streams on the learner's device, indexed by stream.

    Rollout actors ship only the cell state of a rollout's start. A stream's carry is taken up where its last rollout
    ended; where the sequence number shows a gap (a lost rollout, a restarted actor, a skipped update) the stream
    begins again at the shipped cell with zero sensitivities, and ``resets`` counts it.

    Args:
        core: the recurrent core whose carries are kept.
        num_streams: streams are numbered from 0 to ``num_streams - 1``.
    """

    def __init__(self, core: ELSTM | FeedForward, num_streams: int) -> None:
        self._carry = core.initial_carry(num_streams)
        self.next_sequence = np.zeros(num_streams, dtype=np.int64)
        """The sequence number that each stream's next rollout must have, [num_streams]."""
        self.resets = 0
        """Streams that began again because of a gap, since the start."""
        self._underway = np.zeros(num_streams, dtype=bool)

    def fetch(self, stream: np.ndarray, sequence: np.ndarray, first_cell: Tensor) -> Carry:
        """The carries with which the rollouts ``sequence`` [B] of the streams ``stream`` [B] begin.

        The sensitivities are not copied: the backward pass of the core advances them where they are kept.

        Args:
            stream: [B] int64, all different.
            sequence: [B] int64.
            first_cell: the cells that the actor held before the rollouts, [B, N]; used where there is a gap.

        Raises:
            ValueError: for streams that are unknown or come twice.
        """
        self._check(stream)
        index = self._index(stream)
        cell = self._carry.cell[index]
        # A rollout that was fetched and never stored may have advanced the sensitivities, or spoilt them.
        gap = (sequence != self.next_sequence[stream]) | self._underway[stream]
        self._underway[stream] = True
        if gap.any():
            self.resets += int(gap.sum())
            cell = torch.where(torch.from_numpy(gap).to(cell.device)[:, None], first_cell.to(cell), cell)
            for tensor in self._sensitivities():
                tensor[self._index(stream[gap])] = 0
        return Carry(cell, self._carry.sensitivities, None if self._carry.sensitivities is None else index)

    def store(self, stream: np.ndarray, sequence: np.ndarray, carry: Carry) -> None:
        """Keep the cells after the rollouts ``sequence`` [B] of the streams ``stream`` [B].

        Their sensitivities have been advanced already. Streams that were fetched but are not stored, because their
        update was skipped, begin again at their next rollout.
        """
        self._carry.cell[self._index(stream)] = carry.cell
        self.next_sequence[stream] = sequence + 1
        self._underway[stream] = False

    def nbytes(self) -> int:
        """Bytes that the carries hold."""
        return self._carry.cell.nbytes + sum(tensor.nbytes for tensor in self._sensitivities())

    def _index(self, stream: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(stream)).to(self._carry.cell.device)

    def _sensitivities(self) -> tuple[Tensor, ...]:
        return () if self._carry.sensitivities is None else self._carry.sensitivities.tensors()

    def _check(self, stream: np.ndarray) -> None:
        known = len(self.next_sequence)
        if stream.size and not (stream.min() >= 0 and stream.max() < known):
            raise ValueError(f"streams must lie in 0 to {known - 1}, not {stream.tolist()}")
        if len(np.unique(stream)) != stream.size:
            raise ValueError(f"a stream may come only once in a batch, not {stream.tolist()}")
