"""Scans over the steps of a rollout, for any cell: forward its states, backward its gradient.

:func:`forward_scan` and :func:`reverse_scan` are the readable references of what the fast paths compute for a cell in
one loop. Of the forward scan only the states are kept; the reverse scan computes all else again from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from r2ac.kernels.block import block_backward_scan, block_decay_products
from r2ac.kernels.cells import Cell, LinearCell, Linearisation
from r2ac.kernels.cells.linear import times


class ReverseScan(NamedTuple):
    """What one reverse loop over a rollout leaves behind; the last three are empty where no jump was asked for.

    The vectors are the cell's own parameters and then the biases, L + K numbers of a unit. "(2,)" is there for pairs.
    """

    by_projection: Tensor
    """d_t u_t, the loss's gradient by the pre-activations, [T, B, K, N]."""
    by_vectors: Tensor
    """The gradient inside the rollout by the vectors, [L + K, N]."""
    boundary: Tensor
    """a_1 d_1, the loss's gradient by the state before the rollout, [B, (2,) N]."""
    decay: Tensor
    """prod_t a_t, [B, N] or [B, 2, 2, N]."""
    weighted: Tensor
    """(prod_{s>t} a_s) u_t, what step t adds to the sensitivities at the rollout's end, [T, B, (2,) K, N]."""
    gained: Tensor
    """The gain of the vectors' sensitivities over the rollout, [B, (2,) L + K, N]."""


def linear_forward_scan(
    factor: Tensor, added: Tensor, state: Tensor, is_first: Tensor, squashed: bool = False
) -> Tensor:
    """c_t = a_t c_{t-1} + b_t; for pairs, as complex numbers.

    Args:
        factor: a_t, [T, B, (2,) N].
        added: b_t, as ``factor``.
        state: the state before the rollout, [B, (2,) N].
        is_first: [T, B] bool; the state is zeroed *before* such a step, even one that is not finite.
        squashed: whether c_t is tanh of that, of both parts of a pair.

    Returns:
        c_t, as ``added``.
    """
    states = []
    for a, b, first in zip(factor, added, is_first, strict=True):
        # Not by a product: a reset forgets a state that is not finite, too.
        state = state.masked_fill(_like(first, state), 0)
        state = (a * state if state.dim() == 2 else times(a, state)) + b
        state = torch.tanh(state) if squashed else state
        states.append(state)
    return torch.stack(states)


def forward_scan(
    cell: Cell,
    projection: Tensor,
    own: Tensor,
    bias: Tensor,
    state: Tensor,
    is_first: Tensor,
    linear_scan: Callable[..., Tensor] = linear_forward_scan,
) -> Tensor:
    """The states of a cell over a rollout.

    Args:
        projection: W x_t of all gates, without the bias, [T, B, K, N].
        own: [L, N].
        bias: [K, N].
        state, is_first: as in :func:`linear_forward_scan`.
        linear_scan: :func:`linear_forward_scan`, or what computes the same.

    Returns:
        c_t, [T, B, (2,) N], in the dtype of ``projection``.
    """
    gates, states = projection + bias, []
    if isinstance(cell, LinearCell):
        factor, added = cell.coefficients(gates, own)
        return linear_scan(factor.expand_as(added), added, state, is_first, cell.squashed)
    for t, first in enumerate(is_first):
        state = cell.step(gates[t], own, state.masked_fill(_like(first, state), 0))
        states.append(state)
    return torch.stack(states)


def linear_reverse_scan(direct: Tensor, linear: Linearisation, is_first: Tensor, jump: bool) -> ReverseScan:
    """All that gradient and sensitivities need of a rollout along which the derivatives are known.

    Args:
        direct: e_t, the loss's direct gradient by c_t (not through later states), [T, B, (2,) N].
        linear: a_t, u_t and v_t; the Jacobian of a step that begins an episode counts as zero.
        is_first: [T, B] bool.
        jump: also compute what the sensitivities' jump needs (RTRL; TBPTT does without).
    """
    jacobian = linear.jacobian.masked_fill(_like(is_first, linear.jacobian), 0)
    by_vectors = torch.cat((linear.by_own, linear.by_gates), -2)
    if direct.dim() == 3:
        total = backward_scan(direct, jacobian)
        boundary = jacobian[0] * total[0]
        inside = [total.unsqueeze(-2) * each for each in (linear.by_gates, by_vectors)]
    else:
        total = block_backward_scan(direct, jacobian)
        boundary = torch.einsum("bijn,bin->bjn", jacobian[0], total[0])
        inside = [torch.einsum("tbin,tbikn->tbkn", total, each) for each in (linear.by_gates, by_vectors)]
    gradient = inside[0], inside[1].sum((0, 1)), boundary
    if not jump:
        return ReverseScan(*gradient, *(direct.new_empty(0) for _ in range(3)))
    if direct.dim() == 3:
        decay, after = decay_products(jacobian)
        weighted, gained = (after.unsqueeze(-2) * each for each in (linear.by_gates, by_vectors))
    else:
        decay, after = block_decay_products(jacobian)
        weighted, gained = (torch.einsum("tbijn,tbjkn->tbikn", after, each) for each in (linear.by_gates, by_vectors))
    return ReverseScan(*gradient, decay, weighted, gained.sum(0))


def reverse_scan(
    cell: Cell,
    direct: Tensor,
    projection: Tensor,
    own: Tensor,
    bias: Tensor,
    states: Tensor,
    state: Tensor,
    is_first: Tensor,
    jump: bool,
    linear_scan: Callable[..., ReverseScan] = linear_reverse_scan,
) -> ReverseScan:
    """All that gradient and sensitivities need of a cell's rollout.

    Args:
        cell, projection, own, bias, state, is_first: as :func:`forward_scan` got them.
        direct, jump: as in :func:`linear_reverse_scan`.
        states: what :func:`forward_scan` returned.
        linear_scan: :func:`linear_reverse_scan`, or what computes the same.
    """
    linear = cell.linearise(projection + bias, own, _states_before(states, state, is_first))
    return linear_scan(direct, linear, is_first, jump)


def linearise_rollout(
    cell: Cell, gates: Tensor, own: Tensor, states: Tensor, state: Tensor, is_first: Tensor
) -> Linearisation:
    """The cell's derivatives at every step of a rollout whose states are known: no step waits for another.

    Where a step begins an episode, its Jacobian is zero. ``gates`` are with their biases; all else as in
    :func:`reverse_scan`.
    """
    linear = cell.linearise(gates, own, _states_before(states, state, is_first))
    return linear._replace(jacobian=linear.jacobian.masked_fill(_like(is_first, linear.jacobian), 0))


def backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """The gradient by every state of a rollout: d_t = e_t + a_{t+1} d_{t+1}, with d_T = e_T.

    Takes e_t, the loss's direct gradient by c_t (not through later states), and a_t, zero where the step begins an
    episode; all are [T, B, N].
    """
    total = direct.clone()
    for t in range(direct.shape[0] - 2, -1, -1):
        total[t].addcmul_(jacobian[t + 1], total[t + 1])
    return total


def decay_products(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Products of a_t, [T, B, N]: over the whole rollout, [B, N], and over what follows each step, [T, B, N] (one at
    the last). Without division, so that zeros (episodes that begin) are exact."""
    after = torch.ones_like(jacobian)
    for t in range(jacobian.shape[0] - 2, -1, -1):
        torch.mul(after[t + 1], jacobian[t + 1], out=after[t])
    return after[0] * jacobian[0], after


def _states_before(states: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
    """c_{t-1} as each step saw it."""
    return torch.cat((state.unsqueeze(0), states[:-1])).masked_fill_(_like(is_first, states), 0)


def _like(first: Tensor, tensor: Tensor) -> Tensor:
    """The booleans with as many axes as ``tensor``."""
    return first.view(*first.shape, *(1,) * (tensor.dim() - first.dim()))
