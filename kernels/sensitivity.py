"""Sensitivities of an element-wise cell: the jump over a rollout and the boundary contraction.

Within a rollout the parameters stand still, so that step-by-step RTRL can be rearranged: its exact gradient is
TBPTT's gradient plus one boundary term that reads the sensitivities once, and the sensitivities cross the whole
rollout in one batched matrix product (after Schmidhuber 1992, "A fixed size storage O(n^3) time complexity learning
algorithm for fully recurrent continually running networks").
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from r2ac.kernels.scan import Linearisation, decay_products


@dataclass(frozen=True)
class Sensitivities:
    """S = dc/dθ of every stream and recurrent parameter; K gates, N units, D inputs."""

    input_weight: Tensor
    """dc_n / dW_{k,n,d}, [B, K, N, D]."""
    recurrent_weight: Tensor
    """dc_n / dw_{k,n}, [B, K, N]."""
    bias: Tensor
    """dc_n / db_{k,n}, [B, K, N]."""

    @staticmethod
    def zeros(
        batch: int,
        gates: int,
        hidden: int,
        inputs: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sensitivities:
        """The sensitivities of ``batch`` streams that have seen nothing yet."""
        matrix = torch.zeros(batch, gates, hidden, inputs, device=device, dtype=dtype)
        vectors = torch.zeros(2, batch, gates, hidden, device=device, dtype=dtype)
        return Sensitivities(matrix, vectors[0], vectors[1])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three arrays in the order of the fields."""
        return self.input_weight, self.recurrent_weight, self.bias

    def nbytes(self) -> int:
        """Bytes that the three arrays hold."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


def jump(before: Sensitivities, linear: Linearisation, inputs: Tensor, previous: Tensor) -> Sensitivities:
    """The sensitivities after a rollout from those before it.

        S_T = (prod_t a_t) S_0 + sum_t (prod_{s>t} a_s) u_t (x) v_t

    with v_t = x_t for the input weights, c_{t-1} for the recurrent weights and 1 for the biases.

    Args:
        before: S_0; not changed.
        linear: the cell's derivatives along the rollout.
        inputs: x_t, [T, B, D].
        previous: c_{t-1} as each step saw it, [T, B, N].

    Returns:
        S_T, new tensors.
    """
    decay, after = decay_products(linear.jacobian)
    decay, weighted = decay.unsqueeze(-2), linear.immediate * after.unsqueeze(-2)
    # [B, K N, T] @ [B, T, D]
    gained = torch.bmm(weighted.flatten(-2).permute(1, 2, 0), inputs.transpose(0, 1))
    return Sensitivities(
        gained.view_as(before.input_weight).addcmul_(before.input_weight, decay.unsqueeze(-1)),
        *_jump_of_vectors(before.recurrent_weight, before.bias, decay, weighted, previous),
    )


def boundary_contraction(boundary: Tensor, before: Sensitivities) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradient gains from everything before the rollout: sum over streams of (a_1 d_1) S_0.

    Args:
        boundary: a_1 d_1, the loss's gradient by the cell state before the rollout, [B, N].
        before: S_0.

    Returns:
        The gradient's boundary term for the input weights [K, N, D], recurrent weights [K, N] and biases [K, N].
    """
    # Stream by stream the sum stays in the cache and each S is read once; as one einsum it would be copied first.
    matrix = torch.zeros_like(before.input_weight[0])
    for weight, sensitivity in zip(boundary, before.input_weight, strict=True):
        matrix.addcmul_(sensitivity, weight.unsqueeze(-1))
    return matrix, *_contraction_of_vectors(boundary, before.recurrent_weight, before.bias)


def sensitivity_pass_(
    kept: Sensitivities, streams: Tensor, boundary: Tensor, linear: Linearisation, inputs: Tensor, previous: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Boundary contraction and jump in one visit, in place: S of each stream is read once and written once.

    The same as :func:`boundary_contraction` of the rows ``streams`` of ``kept``, followed by their :func:`jump`.

    Args:
        kept: sensitivities of all streams; those of the batch go from S_0 to S_T.
        streams: the row of each stream of the batch, [B] int64, all different.
        boundary: a_1 d_1, [B, N].
        linear: the cell's derivatives along the rollout.
        inputs: x_t, [T, B, D].
        previous: c_{t-1} as each step saw it, [T, B, N].

    Returns:
        The boundary terms, as :func:`boundary_contraction` gives them.
    """
    decay, after = decay_products(linear.jacobian)
    weighted = linear.immediate * after.unsqueeze(-2)
    matrix = torch.zeros_like(kept.input_weight[0])
    for b, stream in enumerate(streams.tolist()):
        sensitivity = kept.input_weight[stream]
        matrix.addcmul_(sensitivity, boundary[b].unsqueeze(-1))
        flat = sensitivity.mul_(decay[b].unsqueeze(-1)).view(-1, sensitivity.shape[-1])
        flat.addmm_(weighted[:, b].flatten(-2).t(), inputs[:, b])
    recurrent, bias = kept.recurrent_weight[streams], kept.bias[streams]
    terms = _contraction_of_vectors(boundary, recurrent, bias)
    after_vectors = _jump_of_vectors(recurrent, bias, decay.unsqueeze(-2), weighted, previous)
    kept.recurrent_weight[streams], kept.bias[streams] = after_vectors
    return matrix, *terms


def _jump_of_vectors(
    recurrent: Tensor, bias: Tensor, decay: Tensor, weighted: Tensor, previous: Tensor
) -> tuple[Tensor, Tensor]:
    """The jump of the two vectors' sensitivities [B, K, N]; decay [B, 1, N], weighted [T, B, K, N]."""
    gained = (weighted * previous.unsqueeze(-2)).sum(0)
    return torch.addcmul(gained, decay, recurrent), torch.addcmul(weighted.sum(0), decay, bias)


def _contraction_of_vectors(boundary: Tensor, recurrent: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The boundary terms of the two vectors, [K, N] each."""
    return torch.einsum("bn,bkn->kn", boundary, recurrent), torch.einsum("bn,bkn->kn", boundary, bias)


def rollout_gradient(
    total: Tensor, linear: Linearisation, inputs: Tensor, previous: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient inside the rollout, which is TBPTT's: sum_t (d_t u_t) (x) v_t, with v_t as in :func:`jump`.

    Args:
        total: d_t of the backward scan, [T, B, N].
        linear: the cell's derivatives along the rollout.
        inputs: x_t, [T, B, D].
        previous: c_{t-1} as each step saw it, [T, B, N].

    Returns:
        Gradients by the input weights [K, N, D], the recurrent weights [K, N] and the pre-activations [T, B, K, N]
        (whose sum over T and B is the gradient by the biases).
    """
    preactivation = linear.immediate * total.unsqueeze(-2)
    gates, hidden = preactivation.shape[-2:]
    input_weight = preactivation.flatten(0, 1).flatten(-2).t() @ inputs.flatten(0, 1)
    recurrent_weight = (preactivation * previous.unsqueeze(-2)).sum((0, 1))
    return input_weight.view(gates, hidden, -1), recurrent_weight, preactivation
