"""Sensitivities of an element-wise cell: the jump over a rollout and the boundary contraction.

Within a rollout the parameters stand still, so that step-by-step RTRL can be rearranged: its exact gradient is
TBPTT's gradient plus one boundary term that reads the sensitivities once, and the sensitivities cross the whole
rollout in one batched matrix product (after Schmidhuber 1992, "A fixed size storage O(n^3) time complexity learning
algorithm for fully recurrent continually running networks").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        matrix = _zero_rows((batch, gates, hidden, inputs), device, dtype)
        vectors = torch.zeros(2, batch, gates, hidden, device=device, dtype=dtype)
        return Sensitivities(matrix, vectors[0], vectors[1])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three arrays in the order of the fields."""
        return self.input_weight, self.recurrent_weight, self.bias

    def stored_as(self, dtype: torch.dtype) -> Sensitivities:
        """The same with the input weights' sensitivities, nearly all of the memory, stored in another dtype."""
        matrix = _zero_rows(self.input_weight.shape, self.input_weight.device, dtype)
        return Sensitivities(matrix.copy_(self.input_weight), self.recurrent_weight, self.bias)

    def nbytes(self, device: torch.device | None = None) -> int:
        """Bytes that the three arrays take, with what lies between their rows.

        Args:
            device: the device that is asked about, where it is not their own.
        """
        matrix, *vectors = self.tensors()
        inputs = matrix.shape[-1]
        rows = matrix.shape[:-1].numel() * row_stride(inputs, device or matrix.device)
        return rows * matrix.itemsize + sum(vector.nbytes for vector in vectors)


def row_stride(inputs: int, device: torch.device) -> int:
    """Numbers from one row of S, of D numbers, to the next: on a GPU the next multiple of 8.

    Every row then begins at an address that loads of 128 bits can have, also in bfloat16.
    """
    return -(-inputs // 8) * 8 if device.type == "cuda" else inputs


def _zero_rows(shape: Sequence[int], device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """Zeros [..., D] for S, with rows :func:`row_stride` apart."""
    *outer, inputs = shape
    stride = row_stride(inputs, torch.get_default_device() if device is None else device)
    return torch.zeros(*outer, stride, device=device, dtype=dtype)[..., :inputs]


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
    if boundary.is_cuda:
        matrix = torch.einsum("bn,bknd->knd", boundary, before.input_weight)
    else:
        # Stream by stream the sum stays in the cache and each S is read once; as one einsum it would be copied first.
        matrix = torch.zeros_like(before.input_weight[0])
        for weight, sensitivity in zip(boundary, before.input_weight, strict=True):
            matrix.addcmul_(sensitivity, weight.unsqueeze(-1))
    return matrix, *_contraction_of_vectors(boundary, before.recurrent_weight, before.bias)


def sensitivity_pass_(
    matrix: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    weighted: Tensor,
    inputs: Tensor,
) -> Tensor:
    """Boundary contraction and jump of the input weights in one visit, in place, for any diagonal cell.

        term = sum over streams of (a_1 d_1) S_0      S_T = (prod_t a_t) S_0 + sum_t (prod_{s>t} a_s) u_t (x) x_t

    S of each stream is read once and written once, where it is kept. A cell is known by its a and u alone.

    Args:
        matrix: S of the input weights of all R streams, [R, K, N, D]; the rows ``streams`` go from S_0 to S_T.
        streams: the row of each stream of the batch, [B] int64, all different.
        fresh: [B] bool; S_0 of such a stream is zero, whatever is kept (even what is not finite).
        boundary: a_1 d_1, [B, N].
        decay: prod_t a_t, [B, N].
        weighted: (prod_{s>t} a_s) u_t, [T, B, K, N].
        inputs: x_t, [T, B, D].

    Returns:
        The boundary term of the gradient, [K, N, D], in the dtype of ``inputs``.
    """
    term = inputs.new_zeros(matrix.shape[1:])
    for b, stream in enumerate(streams.tolist()):
        before = matrix[stream].to(inputs.dtype).masked_fill(fresh[b], 0)
        term.addcmul_(before, boundary[b].unsqueeze(-1))
        gained = weighted[:, b].flatten(-2).t() @ inputs[:, b]
        matrix[stream] = torch.addcmul(gained.view_as(before), before, decay[b].unsqueeze(-1))
    return term


def vector_pass_(
    recurrent: Tensor,
    biases: Tensor,
    streams: Tensor,
    fresh: Tensor,
    boundary: Tensor,
    decay: Tensor,
    gained: Tensor,
) -> Tensor:
    """The same for the recurrent weights and the biases, whose sensitivities are small.

    Args:
        recurrent, biases: S of the two vectors, [R, K, N] each; changed in place.
        streams, fresh, boundary, decay: as in :func:`sensitivity_pass_`.
        gained: sum_t weighted_t c_{t-1} and sum_t weighted_t, [2, B, K, N].

    Returns:
        The boundary terms of the two vectors, [2, K, N].
    """
    terms = []
    for sensitivity, gain in zip((recurrent, biases), gained, strict=True):
        before = sensitivity[streams].masked_fill(fresh[:, None, None], 0)
        terms.append((boundary.unsqueeze(1) * before).sum(0))
        sensitivity[streams] = torch.addcmul(gain, decay.unsqueeze(1), before)
    return torch.stack(terms)


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
