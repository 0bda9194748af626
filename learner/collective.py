"""Learners that share one training: each has some of the streams, all have the same weights.

Losses are summed over steps and streams, and so are gradients over learners: K learners with B / K rollouts each make
the update that one learner makes with all B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from r2ac.learner.vectors import copy_vector_, to_vector

Value = TypeVar("Value")
PATIENCE = timedelta(minutes=30)
"""How long a learner waits for the slowest of the others, such as one whose environments are still starting."""


class CollectiveBroken(RuntimeError):
    """The other learners cannot be reached, or did not come to the same point in time."""


class Collective(Protocol):
    """What learners exchange. All of them make the same calls in the same order.

    Raises, in each method:
        CollectiveBroken: where another learner has ended or did not answer in time.
    """

    rank: int
    """The number of this learner; learner 0, the first, decides and writes."""
    size: int
    """How many there are."""

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the learners, the same to the bit at all of them. All
        tensors have one dtype, and are on one device; a GPU is not waited for."""

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether any learner has it."""

    def gather(self, value: Value) -> list[Value]:
        """At the first learner the values of all, in the order of their numbers; nothing at the others."""

    def share(self, value: Value) -> Value:
        """The first learner's value, at all of them."""


class SingleLearner:
    """One learner alone."""

    rank, size = 0, 1

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        pass

    def any(self, *flags: bool) -> tuple[bool, ...]:
        return flags

    def gather(self, value: Value) -> list[Value]:
        return [value]

    def share(self, value: Value) -> Value:
        return value


class ProcessGroup:
    """Learners in processes of their own, connected by torch.distributed: tensors on GPUs through NCCL, all else
    through gloo. What :meth:`gather` and :meth:`share` bring is pickled: it comes from learners of this run alone.
    ``patience`` is how long one waits for the others.
    """

    def __init__(
        self, store: dist.Store, rank: int, size: int, device: torch.device, patience: timedelta = PATIENCE
    ) -> None:
        self.rank, self.size = rank, size
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with _raises_collective_broken():
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        # One message: what each costs beside its bytes is more than most of the tensors take.
        summed = to_vector(tensors)
        with _raises_collective_broken():
            dist.all_reduce(summed)
        copy_vector_(tensors, summed)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        found = torch.tensor(flags, dtype=torch.uint8)
        with _raises_collective_broken():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(map(bool, found.tolist()))

    def gather(self, value: Value) -> list[Value]:
        values: list[Value] = [value] * self.size if self.rank == 0 else []
        with _raises_collective_broken():
            dist.gather_object(value, values or None)
        return values

    def share(self, value: Value) -> Value:
        values = [value]
        with _raises_collective_broken():
            dist.broadcast_object_list(values)
        return values[0]


@contextmanager
def _raises_collective_broken() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch raises nothing narrower where a connection ends or a time is over
        # What torch says, without the place in its source and its advice.
        reason = re.sub(r"^\[\S+\]\s*", "", str(error).strip()).partition("\n")[0].partition(". ")[0]
        raise CollectiveBroken(f"the other learners cannot be reached: {reason}") from error
