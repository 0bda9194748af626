"""States and sensitivities that the present parameters make of the rollouts that lie behind.

What a stream carries sums derivatives that were taken at the parameters of each moment (docs/rtrl.md, section 7). Here
they are computed again from its last K rollouts: the core's inputs by the present encoder, beginning at the state that
the stream had before the oldest of them, with zero sensitivities. So they are exact where an episode began within the K
rollouts; of a longer past the credit is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from r2ac.agents import Agent
from r2ac.learner.carries import CarryStore
from r2ac.learner.rollout import Rollout

KEPT = ("observation", "reward", "is_first", "instruction", "first_state", "stream")
"""The fields of a rollout that a history has."""


@dataclass(frozen=True)
class _PastBatch:
    """A batch that lies behind."""

    fields: dict[str, Tensor]
    """Those of `KEPT` that the rollouts have, by name."""
    fresh: Tensor
    """The streams that began again with it, [B] bool."""


class History:
    """The last rollouts of the streams, on the learner's device.

    Args:
        rollouts: of each stream (K); in the mean, where batches hold some of the streams.
        num_streams: of the learner.
    """

    def __init__(self, rollouts: int, num_streams: int) -> None:
        self._kept, self._num_streams = rollouts * num_streams, num_streams
        self._past: deque[_PastBatch] = deque()

    def add(self, batch: Rollout[Tensor], state: Tensor, fresh: Tensor) -> None:
        """Keep a copy of a batch whose streams began at ``state``, [B, S]; those that are ``fresh``, [B] bool, are cut
        off from their past."""
        held = batch.batch_size + sum(len(past.fresh) for past in self._past)
        while self._past and held - len(self._past[0].fresh) >= self._kept:
            held -= len(self._past.popleft().fresh)
        fields = {name: array.clone() for name, array in batch.arrays().items() if name in KEPT}
        self._past.append(_PastBatch({**fields, "first_state": state}, fresh))

    @torch.no_grad()
    def recompute(self, agent: Agent, carries: CarryStore) -> None:
        """Give the streams of these rollouts the carries that the agent, as it is now, makes of them. Nothing here
        waits for the device."""
        begun: Tensor | None = None
        for past in self._past:
            fields = past.fields
            stream, is_first = fields["stream"], fields["is_first"][:-1]
            if begun is None:
                begun = torch.zeros(self._num_streams, dtype=torch.bool, device=stream.device)
            x = agent.core_input(fields["observation"][:-1], fields["reward"][:-1], is_first, _words(fields))
            carries.take_across(agent.core, x, is_first, stream, past.fresh | ~begun[stream], fields["first_state"])
            begun.index_fill_(0, stream, True)


def _words(fields: dict[str, Tensor]) -> Tensor | None:
    """The instructions of the steps, None where the task has none."""
    return fields["instruction"][:-1] if "instruction" in fields else None
