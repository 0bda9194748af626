"""What RTRL adds to the gradient, measured beside the updates.

With the parameters of the recurrence as one vector, RTRL's gradient is

    g = inside + boundary      inside = sum_t (d_t u_t) (x) v_t      boundary = (a_1 d_1) . S_0

TBPTT's gradient and what comes from before the rollout (docs/rtrl.md, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r2ac.agents import Carry, Core
from r2ac.learner.collective import Collective, SingleLearner
from r2ac.learner.metrics import Means

_NORMS = ("rtrl/boundary_norm", "rtrl/inside_norm", "rtrl/cosine")
_HORIZON, _CREDIT = "rtrl/credit_horizon", "credit"


@dataclass(frozen=True)
class GradientParts:
    """The two parts of a gradient by the recurrent parameters, one vector each: W, w and b, flattened."""

    boundary: Tensor
    """[P], what comes from before the rollout."""
    inside: Tensor
    """[P], TBPTT's gradient."""
    by_state: tuple[Tensor, ...]
    """a_1 d_1, the loss's gradient by the state before the rollout, [B, (2,) N] of each of the carry's traces."""


def gradient_parts(core: Core, carry: Carry) -> GradientParts:
    """The parts of the gradient that the core's parameters have after the backward pass of one rollout, not yet
    clipped; ``carry`` is what the rollout began with, from ``core.with_notes``."""
    boundary = torch.cat([note.boundary for note in carry.notes if note.boundary is not None])
    by_state = tuple(note.by_state for note in carry.notes if note.by_state is not None)
    total = torch.cat([weight.grad.flatten() for weight in core.recurrent_parameters if weight.grad is not None])
    return GradientParts(boundary, total.sub_(boundary), by_state)


def norms_and_cosine(parts: GradientParts) -> tuple[Tensor, Tensor, Tensor]:
    """|boundary|, |inside|, and the cosine of the angle between the two: 0 where one of them is zero."""
    boundary, inside = torch.linalg.vector_norm(parts.boundary), torch.linalg.vector_norm(parts.inside)
    size = (boundary * inside).clamp_min(torch.finfo(boundary.dtype).tiny)
    return boundary, inside, torch.dot(parts.boundary, parts.inside) / size


def credit_distance(by_state: Sequence[Tensor], through: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Credit that leaves a rollout at its start, times the steps that it travels on, and that credit.

        sum |l| T / ln(1 + T / V)      sum |l|      V = T sum_{j>=1} prod_{i<=j} |D_i|

    with l = dL/dc_0, [B, (2,) N] of each kind of unit, of pairs its length, V [B, N] of all units, and |D_i| the
    :func:`r2ac.kernels.magnitude` of prod_t a_t over the i-th rollout before. V is the integral, rollout by rollout, of
    the share of the credit that is still there; T / ln(1 + T / V) is the same integral step by step where the share
    falls evenly. If every a_t is a, that is -1/ln|a|, whatever T is.
    """
    credit = torch.cat([each.abs() if each.dim() == 2 else each.norm(dim=1) for each in by_state], dim=1)
    length = steps / torch.log1p(steps / through)
    return torch.dot(credit.flatten(), length.flatten()), credit.sum()


def is_measured(update: int, every: int) -> bool:
    """Whether the update of this number is among the measured ones, one in ``every``: a rotation by the golden section,
    which has no period, so that no rhythm of episodes goes unnoticed."""
    return update * 0x9E3779B1 % 2**32 * every < 2**32


class RTRLMetrics(Means):
    """Measures the two parts of the gradients, without the host and without a change to them.

    ``rtrl/boundary_norm``, ``rtrl/inside_norm`` and ``rtrl/cosine`` (of the angle between the two; 0 where one is zero)
    are means over the measured updates, of gradients that are not yet clipped.

    ``rtrl/credit_horizon`` is how many steps the credit that leaves a rollout at its start travels on, back in time, in
    the mean over streams and units, each weighted by its credit |dL/dc_0|, c_0 being the states before the rollout: the
    ratio of the two sums of :func:`credit_distance` over the measured updates. An episode's beginning lets nothing
    through (a_t = 0): the horizon ends at the rollout that holds it, however slowly units forget. Streams that begin
    afresh have no past and do not count; where no credit left a rollout, there is no such metric.

    One update in ``every`` is measured, see :func:`is_measured`; 1 measures all, as a CUDA graph must, which has no
    branches. The batches of a collective are measured as one.
    """

    def __init__(self, core: Core, num_streams: int, every: int, collective: Collective | None = None) -> None:
        self._core, self._every, self._collective = core, every, collective or SingleLearner()
        self._through = core.initial_through(num_streams)
        super().__init__((*_NORMS, _HORIZON, _CREDIT), self._through[0].device)

    def begin(self, carry: Carry, update: int) -> Carry:
        """The carry, as the store of carries gave it, with room for what the backward pass of this update notes."""
        return self._core.with_notes(carry, self._through, parts=is_measured(update, self._every))

    def measure(self, carry: Carry, steps: int) -> Tensor | None:
        """What :meth:`add` is to count, None where nothing is measured; called after the backward pass of T ``steps``,
        before all that changes gradients, with the carry of :meth:`begin`."""
        before = [notes.before for notes in carry.notes if notes.before is not None]
        if not before:
            return None
        parts, fresh = gradient_parts(self._core, carry), carry.traces[0].fresh
        by_state = parts.by_state
        if fresh is not None:
            by_state = tuple(each.masked_fill(fresh.view(-1, *(1,) * (each.dim() - 1)), 0) for each in by_state)
        way = torch.stack(credit_distance(by_state, torch.cat(before, dim=1), steps))
        self._collective.sum_((parts.boundary, parts.inside, way))
        return torch.cat((torch.stack(norms_and_cosine(parts)), way)).double()

    def take(self) -> dict[str, float]:
        """The metrics of the measured good updates since the last call, empty where there was none; waits for the
        device."""
        means = super().take()
        credit, way = means.pop(_CREDIT, 0.0), means.pop(_HORIZON, 0.0)
        return means | {_HORIZON: way / credit} if credit else means
