"""The two scans of the eLSTM over a rollout as the fast paths compute them; this is their readable reference.

Of the forward scan only the cell states are kept. The backward scan computes the gates again from them, which is
cheaper than to write and read what can be had from bytes that are there anyway.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from r2ac.kernels.scan import CellScan, backward_scan, decay_products, elstm_linearisation, elstm_scan


class BackwardScan(NamedTuple):
    """What one reverse loop over a rollout leaves behind; the last three are empty where no jump was asked for."""

    by_projection: Tensor
    """d_t u_t, the loss's gradient by the pre-activations, [T, B, K, N]."""
    by_vectors: Tensor
    """The gradient inside the rollout by the recurrent weights and by the biases, [2, K, N]."""
    boundary: Tensor
    """a_1 d_1, the loss's gradient by the cell state before the rollout, [B, N]."""
    decay: Tensor
    """prod_t a_t, [B, N]."""
    weighted: Tensor
    """(prod_{s>t} a_s) u_t, what step t adds to the sensitivities at the rollout's end, [T, B, K, N]."""
    gained: Tensor
    """sum_t weighted_t c_{t-1} and sum_t weighted_t, the gain of the two vectors' sensitivities, [2, B, K, N]."""


def elstm_forward(projection: Tensor, recurrent_weight: Tensor, bias: Tensor, cell: Tensor, is_first: Tensor) -> Tensor:
    """The eLSTM's cell states over a rollout (Irie et al. 2024, section 3.2).

        f = sigmoid(p_0 + w_0 c')      z = tanh(p_1 + w_1 c')      c = f c' + (1 - f) z      p = W x + b

    Args:
        projection: W x_t of both gates, without the bias, [T, B, K, N].
        recurrent_weight: w_f and w_z, [K, N].
        bias: b_f and b_z, [K, N].
        cell: the cell state before the rollout, [B, N].
        is_first: [T, B] bool; the cell is zeroed *before* such a step, even one that is not finite.

    Returns:
        c_t, [T, B, N], in the dtype of ``projection``.
    """
    return elstm_scan(projection + bias, recurrent_weight, cell, is_first).cell


def elstm_backward(
    direct: Tensor,
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    cells: Tensor,
    cell: Tensor,
    is_first: Tensor,
    jump: bool,
) -> BackwardScan:
    """All that gradient and sensitivities need of the rollout, in one reverse scan.

        fh = (c' - z) f (1 - f)      zh = (1 - f) (1 - z^2)      a = f + w_z zh + w_f fh,  0 where is_first
        d_t = e_t + a_{t+1} d_{t+1}

    Args:
        direct: e_t, the loss's direct gradient by c_t, [T, B, N].
        projection, recurrent_weight, bias, cell, is_first: as :func:`elstm_forward` got them.
        cells: what it returned.
        jump: also compute what the sensitivities' jump needs (RTRL; TBPTT does without).
    """
    scan = _replay(projection + bias, recurrent_weight, cells, cell, is_first)
    linear = elstm_linearisation(scan, recurrent_weight, is_first)
    total = backward_scan(direct, linear.jacobian)
    by_projection = linear.immediate * total.unsqueeze(-2)
    by_recurrent_weight = (by_projection * scan.previous.unsqueeze(-2)).sum((0, 1))
    by_vectors = torch.stack((by_recurrent_weight, by_projection.sum((0, 1))))
    boundary = linear.jacobian[0] * total[0]
    if not jump:
        return BackwardScan(by_projection, by_vectors, boundary, *(direct.new_empty(0) for _ in range(3)))
    decay, after = decay_products(linear.jacobian)
    weighted = linear.immediate * after.unsqueeze(-2)
    gained = torch.stack(((weighted * scan.previous.unsqueeze(-2)).sum(0), weighted.sum(0)))
    return BackwardScan(by_projection, by_vectors, boundary, decay, weighted, gained)


def _replay(preactivation: Tensor, recurrent_weight: Tensor, cells: Tensor, cell: Tensor, is_first: Tensor) -> CellScan:
    """The gates of a rollout whose cell states are known: no step waits for another."""
    previous = torch.cat((cell.unsqueeze(0), cells[:-1])).masked_fill(is_first.unsqueeze(-1), 0)
    gates = torch.addcmul(preactivation, recurrent_weight, previous.unsqueeze(-2))
    return CellScan(cells, previous, torch.sigmoid(gates[..., 0, :]), torch.tanh(gates[..., 1, :]))
