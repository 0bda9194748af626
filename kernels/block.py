"""Cells whose Jacobian is a 2x2 block per unit: complex diagonals (LRU, diagonal S5) and rotations (RTU).

A unit's state is a pair c = (c_0, c_1), of a complex number the real and the imaginary part. The equations of
:mod:`r2ac.kernels.scan` and :mod:`r2ac.kernels.sensitivity` hold with a matrix A_t = dc_t/dc_{t-1} in the place of
the number a_t; as matrices do not commute, their order now matters. A parameter's sensitivity is a pair, too. A cell
has to give A_t [T, B, 2, 2, N], zero where the step begins an episode, and for each gate k the pair
u_t^k = dc_t/dp_t^k, [T, B, 2, K, N]. This is the readable form, in any real dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor


def magnitude(jacobian: Tensor) -> Tensor:
    """By what factor Jacobians scale a change of a unit, [B, N]: |a| of numbers [B, N]; of blocks [B, 2, 2, N] the root
    of |det A|, which multiplies as |a| does."""
    if jacobian.dim() == 2:
        return jacobian.abs()
    return (jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]).abs().sqrt()


def block_backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """The gradient by every cell state of a rollout: d_t = e_t + A_{t+1}^T d_{t+1}, with d_T = e_T.

    Takes e_t, [T, B, 2, N], and A_t, [T, B, 2, 2, N]; returns d_t, [T, B, 2, N]. The loss's gradient by the state
    before the rollout is A_1^T d_1.
    """
    total = direct.clone()
    for t in range(direct.shape[0] - 2, -1, -1):
        total[t] += torch.einsum("bijn,bin->bjn", jacobian[t + 1], total[t + 1])
    return total


def block_decay_products(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the Jacobians, the later one on the left: of the whole rollout, and of what follows each step.

    Of A_t, [T, B, 2, 2, N], these are A_T ... A_1, [B, 2, 2, N], and A_T ... A_{t+1}, [T, B, 2, 2, N] (one at the last
    step).
    """
    after = torch.empty_like(jacobian)
    after[-1] = torch.eye(2, dtype=jacobian.dtype, device=jacobian.device).unsqueeze(-1)
    for t in range(jacobian.shape[0] - 2, -1, -1):
        after[t] = _product(after[t + 1], jacobian[t + 1])
    return _product(after[0], jacobian[0]), after


def block_sensitivity_pass_(
    matrix: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, weighted: Tensor, inputs: Tensor
) -> Tensor:
    """:func:`r2ac.kernels.sensitivity.sensitivity_pass_` for any cell with 2x2 blocks.

        term = sum over streams of (A_1^T d_1) . S_0      S_T = (A_T ... A_1) S_0 + sum_t (A_T ... A_{t+1}) u_t (x) x_t

    Args:
        matrix: S of the input weights of all R streams, [R, 2, K, N, D]; the rows ``streams`` go from S_0 to S_T.
        streams, fresh, inputs: as there.
        boundary: A_1^T d_1, [B, 2, N].
        decay: A_T ... A_1, [B, 2, 2, N].
        weighted: (A_T ... A_{t+1}) u_t, [T, B, 2, K, N].
    """
    term = inputs.new_zeros(matrix.shape[2:])
    for b, stream in enumerate(streams.tolist()):
        before = matrix[stream].to(inputs.dtype).masked_fill(fresh[b], 0)
        term += torch.einsum("in,iknd->knd", boundary[b], before)
        gained = (weighted[:, b].flatten(1).t() @ inputs[:, b]).view_as(before)
        matrix[stream] = gained + torch.einsum("ijn,jknd->iknd", decay[b], before)
    return term


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product of every unit, [B, 2, 2, N]."""
    return torch.einsum("bijn,bjmn->bimn", left, right)
