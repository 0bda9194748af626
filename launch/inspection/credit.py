"""How far back the gradient reaches: the exact gradient beside those that stop some rollouts ago.

Unrolling docs/rtrl.md, equation (2), over the rollouts 1, 2, ... before the present one splits the boundary term:

    boundary = c_1 + c_2 + ...      c_j = sum_t (l_j A_t u_t) (x) v_t  over rollout j      A_t = prod_{s>t} a_s

with l_1 = dL/dc_0, the loss's gradient by the states before the present rollout, and l_{j+1} = l_j prod_t a_t over
rollout j. TBPTT that reaches k rollouts further back than the present one has the gradient g_k = inside + c_1 + ... +
c_k; g_0 is that of ordinary TBPTT, and the exact gradient g is that of all k.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent, Carry, Core
from r2ac.learner.algorithms import ALGORITHMS
from r2ac.learner.config import LearnerConfig
from r2ac.learner.rollout import Rollout
from r2ac.learner.rtrl_metrics import GradientParts, credit_distance, gradient_parts, norms_and_cosine


@dataclass(frozen=True)
class Truncation:
    """The gradient that stops some rollouts ago; means over the measured rollouts."""

    rollouts: int
    """k, the rollouts before the present one that it reaches through; 0 is TBPTT as it is."""
    steps: int
    """The same in steps before the present rollout."""
    error: float
    """|g - g_k| / |g|."""
    share: float
    """<g - g_k, g> / |g|^2, the share of the exact gradient, along itself, that comes from further back; parts that
    oppose each other make it negative or larger than 1."""


@dataclass(frozen=True)
class Reach:
    """What a stream of rollouts says about the gradient by the recurrent parameters; means over the measured ones."""

    measured: int
    boundary_norm: float
    """|boundary|, what RTRL adds."""
    inside_norm: float
    """|inside|, TBPTT's gradient."""
    cosine: float
    """Of the angle between the two; 0 where one is zero."""
    credit_horizon: float
    """In steps, as :class:`r2ac.learner.rtrl_metrics.RTRLMetrics` defines it."""
    truncations: tuple[Truncation, ...]
    """By rising k."""
    jacobians: np.ndarray
    """``core.retention`` over the measured rollouts, where the step begins no episode, float32 [steps, S]."""


@dataclass(frozen=True)
class _Past:
    """A rollout that lies behind: its inputs and the state before it."""

    core: Core
    inputs: Tensor
    state: Tensor
    is_first: Tensor

    def credit(self, by_last_state: Tensor) -> tuple[Tensor, Tensor]:
        """c_j, flattened like a gradient, and l_{j+1}, [B, S], where l_j is ``by_last_state``."""
        state = self.state.detach().requires_grad_()
        last = self.core.truncated_states(self.inputs, state, self.is_first)[-1]
        *found, by_state = torch.autograd.grad(last, (*self.core.recurrent_parameters, state), by_last_state)
        return torch.cat([gradient.flatten() for gradient in found]), by_state

    @torch.no_grad()
    def retention(self) -> Tensor:
        """By what factors the steps scale a change of the state, [steps, S], where they begin no episode."""
        states = self.core.truncated_states(self.inputs, self.state, self.is_first)
        before = torch.cat((self.state.unsqueeze(0), states[:-1]))
        kept = ~self.is_first
        return self.core.retention(self.inputs[kept], before[kept], self.is_first[kept])


def truncation_points(warm_up: int) -> list[int]:
    """k = 0, 1, 2, 4, ... up to the number of rollouts that surely lie behind."""
    return [0, *(2**i for i in range(warm_up.bit_length()))]


def measure_reach(agent: Agent, config: LearnerConfig, rollouts: Iterable[Rollout[np.ndarray]], warm_up: int) -> Reach:
    """Carry sensitivities over consecutive rollouts, learn nothing, and take the gradients apart.

    The weights of ``agent``, whose core must be one for RTRL, stay, and so the exact gradient is that of the present
    weights; what lies outside the recurrence gets no gradient any more. ``config`` is that of the losses. ``rollouts``
    are all of the same streams, in order, and of one length T; ``warm_up`` (at least 1) of them come before the first
    that is measured. The deepest truncation is the largest power of two that is no larger. Raises ValueError for no
    rollout beyond the warm-up, or a core that is not trained by RTRL.
    """
    core = agent.core
    if not core.uses_rtrl:
        raise ValueError("the reach of the gradient is measured on a recurrent core with gradient rtrl")
    if warm_up < 1:
        raise ValueError(f"warm_up must be at least 1, not {warm_up}")
    agent.requires_grad_(False)
    for weight in core.recurrent_parameters:
        weight.requires_grad_()
    points = truncation_points(warm_up)
    past: deque[_Past] = deque(maxlen=points[-1])
    carry: Carry | None = None
    steps, found = 0, _Findings(points)
    for number, rollout in enumerate(rollouts):
        batch = _on_device(rollout, core.recurrent_parameters[0])
        if carry is None:
            carry = core.initial_carry(batch.batch_size)
            through = core.initial_through(batch.batch_size)
        carry = _begin(core, carry, batch.first_state, through)
        output = agent(carry=carry, **batch.inputs())
        agent.zero_grad()
        ALGORITHMS[config.algorithm].losses(output, batch, config).backward()
        steps, is_first = rollout.length, batch.is_first[: rollout.length]
        present = _Past(core, output.core_input, carry.state, is_first)
        if number >= warm_up:
            before = torch.cat([notes.before for notes in carry.notes if notes.before is not None], dim=1)
            found.add(gradient_parts(core, carry), past, before, present.retention())
        past.appendleft(present)
    return found.means(steps)


class _Findings:
    def __init__(self, points: Sequence[int]) -> None:
        self._points = points
        self._rows: list[list[float]] = []
        self._way = self._credit = 0.0
        self._jacobians: list[np.ndarray] = []

    def add(self, parts: GradientParts, past: Sequence[_Past], through: Tensor, jacobians: Tensor) -> None:
        """``past``: the newest first; ``through``: V of :func:`r2ac.learner.rtrl_metrics.credit_distance`."""
        exact = parts.inside + parts.boundary
        size = exact.norm()
        missing, by_state = parts.boundary.clone(), torch.cat([each.flatten(1) for each in parts.by_state], dim=1)
        row = [*norms_and_cosine(parts)]
        tiny = torch.finfo(size.dtype).tiny
        for k in range(self._points[-1] + 1):
            if k > 0:
                credit, by_state = past[k - 1].credit(by_state)
                missing = missing - credit
            if k in self._points:
                row += [missing.norm() / size.clamp_min(tiny), missing.dot(exact) / size.square().clamp_min(tiny)]
        self._rows.append(torch.stack(row).tolist())
        way, amount = credit_distance(parts.by_state, through, len(past[0].inputs))
        self._way, self._credit = self._way + float(way), self._credit + float(amount)
        self._jacobians.append(jacobians.float().cpu().numpy())

    def means(self, steps: int) -> Reach:
        if not self._rows:
            raise ValueError("there is no rollout beyond the warm-up")
        boundary, inside, cosine, *pairs = np.mean(self._rows, axis=0).tolist()
        truncations = [
            Truncation(k, k * steps, error, share)
            for k, error, share in zip(self._points, pairs[::2], pairs[1::2], strict=True)
        ]
        return Reach(
            measured=len(self._rows),
            boundary_norm=boundary,
            inside_norm=inside,
            cosine=cosine,
            credit_horizon=self._way / self._credit if self._credit else 0.0,
            truncations=tuple(truncations),
            jacobians=np.concatenate(self._jacobians),
        )


def _begin(core: Core, carry: Carry, state: Tensor, through: Sequence[Tensor]) -> Carry:
    """The carry of the next rollout, whose sensitivities the backward pass advances in place."""
    streams = torch.arange(len(state), device=state.device)
    begun = replace(carry, state=state).of_streams(streams, torch.zeros_like(streams, dtype=torch.bool))
    return core.with_notes(begun, through)


def _on_device(rollout: Rollout[np.ndarray], like: Tensor) -> Rollout[Tensor]:
    tensors = {name: torch.from_numpy(array).to(like.device) for name, array in rollout.arrays().items()}
    return Rollout(**{**tensors, "first_state": tensors["first_state"].to(like.dtype)})
