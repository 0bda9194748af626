"""Scans over the steps of a rollout for element-wise cells (whose Jacobian is one number a unit and step)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GATES = 2
"""K of the eLSTM: gate 0 is the forget gate f, gate 1 the candidate z."""


@dataclass(frozen=True)
class CellScan:
    """What the forward scan of the eLSTM leaves behind; every tensor is [T, B, N]."""

    cell: Tensor
    """c_t."""
    previous: Tensor
    """c_{t-1} as the step saw it: zero where the step begins an episode."""
    forget: Tensor
    """f_t."""
    candidate: Tensor
    """z_t."""


@dataclass(frozen=True)
class Linearisation:
    """The cell's derivatives along a trajectory, all that RTRL and BPTT need to know of a cell."""

    jacobian: Tensor
    """a_t = dc_t/dc_{t-1}, [T, B, N]; zero where the step begins an episode."""
    immediate: Tensor
    """u_t^k = dc_t/dp_t^k, the derivative by the pre-activation of gate k, [T, B, K, N]."""


def elstm_step(preactivation: Tensor, recurrent_weight: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the eLSTM cell: f = sigmoid(p_f + w_f c'), z = tanh(p_z + w_z c'), c = f c' + (1 - f) z.

    Args:
        preactivation: W x + b of both gates, [B, K, N].
        recurrent_weight: w_f and w_z, [K, N].
        previous: c', [B, N], already zero where an episode begins.

    Returns:
        c, f and z, each [B, N].
    """
    gates = torch.addcmul(preactivation, recurrent_weight, previous.unsqueeze(-2))
    forget, candidate = torch.sigmoid(gates[..., 0, :]), torch.tanh(gates[..., 1, :])
    return torch.lerp(candidate, previous, forget), forget, candidate


def elstm_scan(preactivation: Tensor, recurrent_weight: Tensor, cell: Tensor, is_first: Tensor) -> CellScan:
    """The eLSTM's cell states over a rollout (Irie et al. 2024, section 3.2).

    Args:
        preactivation: W x_t + b of both gates, [T, B, K, N].
        recurrent_weight: w_f and w_z, [K, N].
        cell: the cell state before the rollout, [B, N].
        is_first: [T, B] bool; the cell is zeroed *before* such a step.

    Returns:
        The trajectory, in the dtype of ``preactivation``.
    """
    steps = []
    for t, first in enumerate(is_first):
        # Not by a product: a reset forgets a cell that is not finite, too.
        previous = cell.masked_fill(first.unsqueeze(-1), 0)
        cell, forget, candidate = elstm_step(preactivation[t], recurrent_weight, previous)
        steps.append((cell, previous, forget, candidate))
    return CellScan(*(torch.stack(tensors) for tensors in zip(*steps, strict=True)))


def elstm_linearisation(scan: CellScan, recurrent_weight: Tensor, is_first: Tensor) -> Linearisation:
    """Jacobian and immediate terms of the eLSTM along a trajectory.

        fh = (c' - z) f (1 - f)      zh = (1 - f) (1 - z^2)      a = f + w_z zh + w_f fh

    The immediate terms are u^0 = fh and u^1 = zh. (The rule printed in the first version of the paper lacks the
    ``w_z zh`` of a.) Shapes as in :class:`CellScan` and :class:`Linearisation`; ``recurrent_weight`` is [K, N].
    """
    keep = 1 - scan.forget
    immediate = torch.stack(
        ((scan.previous - scan.candidate) * scan.forget * keep, keep * (1 - scan.candidate.square())), dim=-2
    )
    jacobian = torch.addcmul(scan.forget, immediate[..., 0, :], recurrent_weight[0])
    jacobian.addcmul_(immediate[..., 1, :], recurrent_weight[1])
    return Linearisation(jacobian.masked_fill_(is_first.unsqueeze(-1), 0), immediate)


def backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """The gradient by every cell state of a rollout: d_t = e_t + a_{t+1} d_{t+1}, with d_T = e_T.

    Args:
        direct: e_t, the loss's direct gradient by c_t (not through later cells), [T, B, N].
        jacobian: a_t, [T, B, N], zero where the step begins an episode.

    Returns:
        d_t, [T, B, N].
    """
    total = direct.clone()
    for t in range(direct.shape[0] - 2, -1, -1):
        total[t].addcmul_(jacobian[t + 1], total[t + 1])
    return total


def decay_products(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the Jacobians: over the whole rollout, and over what follows each step.

    Args:
        jacobian: a_t, [T, B, N].

    Returns:
        prod_t a_t, [B, N], and prod_{s>t} a_s, [T, B, N] (one at the last step). No division, so that zeros
        (episodes that begin) are exact.
    """
    after = torch.ones_like(jacobian)
    for t in range(jacobian.shape[0] - 2, -1, -1):
        torch.mul(after[t + 1], jacobian[t + 1], out=after[t])
    return after[0] * jacobian[0], after
