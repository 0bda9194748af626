"""Sensitivities of a cell: what a stream keeps of them, the jump over a rollout and the boundary contraction.

Within a rollout the parameters stand still, so that step-by-step RTRL can be rearranged: its exact gradient is
TBPTT's gradient plus one boundary term that reads the sensitivities once, and the sensitivities cross the whole
rollout in one batched matrix product (after Schmidhuber 1992, "A fixed size storage O(n^3) time complexity learning
algorithm for fully recurrent continually running networks").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2ac.kernels.block import magnitude
from r2ac.kernels.cells import Cell


@dataclass(frozen=True)
class Traces:
    """RTRL's part of a carry: S = dc/dθ for every recurrent parameter θ, and which streams a batch has.

    The vectors are the cell's own parameters and then the biases, L + K numbers of a unit. "(2,)" is there for cells
    whose state is a pair.
    """

    weight: Tensor
    """S of the input weights, dc_n / dW_{k,n,d}, [R, (2,) K, N, D]."""
    vectors: Tensor
    """S of the vectors, [R, (2,) L + K, N]."""
    streams: Tensor | None = None
    """If given, S is that of R streams, and these [B] int64 are the rows of this batch, all different, which the
    backward pass advances in place; without them, S is that of the batch and stays."""
    fresh: Tensor | None = None
    """[B] bool, beside ``streams``: S of these streams counts as zero, even where it is not finite."""
    advance: bool = True
    """Whether the backward pass takes the rows ``streams`` across the rollout; else it reads them and they stay, for a
    further pass over the same rollout."""

    @staticmethod
    def zeros(
        cell: Cell,
        streams: int,
        hidden: int,
        inputs: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Traces:
        """Of ``streams`` streams of a cell with N units and D inputs, before their first step."""
        outer = (streams, *cell.pair)
        weight = zero_rows((*outer, cell.gates, hidden, inputs), device, dtype)
        return Traces(weight, torch.zeros(*outer, cell.numbers + cell.gates, hidden, device=device, dtype=dtype))

    def tensors(self) -> list[Tensor]:
        """S, and where they are given the streams with which of them are fresh."""
        if self.streams is None:
            return [self.weight, self.vectors]
        fresh = self.fresh if self.fresh is not None else torch.zeros_like(self.streams, dtype=torch.bool)
        return [self.weight, self.vectors, self.streams, fresh]

    def stored_as(self, dtype: torch.dtype) -> Traces:
        """The same with the input weights' S, nearly all of the memory, stored in another dtype."""
        weight = zero_rows(self.weight.shape, self.weight.device, dtype)
        return replace(self, weight=weight.copy_(self.weight))

    def nbytes(self, device: torch.device | None = None) -> int:
        """Bytes that S takes, or would take on another device, with what lies between its rows."""
        inputs = self.weight.shape[-1]
        rows = self.weight.shape[:-1].numel() * row_stride(inputs, device or self.weight.device)
        return rows * self.weight.itemsize + self.vectors.nbytes


def row_stride(inputs: int, device: torch.device) -> int:
    """Numbers from one row of S, of D numbers, to the next: on a GPU the next multiple of 8.

    Every row then begins at an address that loads of 128 bits can have, also in bfloat16.
    """
    return -(-inputs // 8) * 8 if device.type == "cuda" else inputs


def zero_rows(shape: Sequence[int], device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """Zeros [..., D] for S, with rows :func:`row_stride` apart."""
    *outer, inputs = shape
    stride = row_stride(inputs, torch.get_default_device() if device is None else device)
    return torch.zeros(*outer, stride, device=device, dtype=dtype)[..., :inputs]


def boundary_terms(boundary: Tensor, traces: Traces) -> tuple[Tensor, Tensor]:
    """What the gradient gains from everything before the rollout: sum over streams of (a_1 d_1) S_0.

    Takes a_1 d_1, [B, (2,) N], and S_0 of the B streams; returns the gradient's terms by the input weights, [K, N, D],
    and by the vectors, [L + K, N].
    """
    of_parts = boundary.flatten(0, -2)
    weight, vectors = traces.weight.flatten(0, -4), traces.vectors.flatten(0, -3)
    of_vectors = torch.einsum("bn,bln->ln", of_parts, vectors)
    if boundary.is_cuda:
        return torch.einsum("bn,bknd->knd", of_parts, weight), of_vectors
    # Stream by stream the sum stays in the cache and each S is read once; as one einsum it would be copied first.
    of_weight = torch.zeros_like(weight[0])
    for by_state, before in zip(of_parts, weight, strict=True):
        of_weight.addcmul_(before, by_state.unsqueeze(-1))
    return of_weight, of_vectors


def boundary_by_stream(boundary: Tensor, traces: Traces) -> tuple[Tensor, Tensor]:
    """:func:`boundary_terms` without the sum: (a_1 d_1) S_0 of each stream, [B, K, N, D] and [B, L + K, N]."""
    weight, vectors = traces.weight, traces.vectors
    if traces.streams is not None:
        weight, vectors = weight[traces.streams].to(boundary.dtype), vectors[traces.streams]
    if traces.fresh is not None:
        weight = weight.masked_fill(traces.fresh.view(-1, *(1,) * (weight.dim() - 1)), 0)
        vectors = vectors.masked_fill(traces.fresh.view(-1, *(1,) * (vectors.dim() - 1)), 0)
    if boundary.dim() == 2:
        return boundary[:, None, :, None] * weight, boundary[:, None] * vectors
    return torch.einsum("bpn,bpknd->bknd", boundary, weight), torch.einsum("bpn,bpln->bln", boundary, vectors)


def sensitivity_pass_(
    matrix: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, weighted: Tensor, inputs: Tensor
) -> Tensor:
    """Boundary contraction and jump of the input weights in one visit, in place, for any diagonal cell.

        term = sum over streams of (a_1 d_1) S_0      S_T = (prod_t a_t) S_0 + sum_t (prod_{s>t} a_s) u_t (x) x_t

    S of each stream is read once and written once, where it is kept. A cell is known by its a and u alone.

    Args:
        matrix: S of the input weights of all R streams, [R, K, N, D]; the rows ``streams`` go from S_0 to S_T.
        streams: the row of each stream of the batch, [B] int64, all different.
        fresh: [B] bool; S_0 of such a stream is zero, even where what is kept is not finite.
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
    vectors: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, gained: Tensor
) -> Tensor:
    """:func:`sensitivity_pass_` for S of the vectors of all R streams, [R, (2,) L + K, N], to which the rollout adds
    ``gained``, [B, (2,) L + K, N]; returns the boundary term of the gradient, [L + K, N].

    ``boundary`` and ``decay`` are [B, N], or for pairs [B, 2, N] and [B, 2, 2, N].
    """
    before = vectors[streams].masked_fill(fresh.view(-1, *(1,) * (vectors.dim() - 1)), 0)
    if boundary.dim() == 2:
        vectors[streams] = torch.addcmul(gained, decay.unsqueeze(1), before)
        return (boundary.unsqueeze(1) * before).sum(0)
    vectors[streams] = torch.einsum("bijn,bjln->biln", decay, before) + gained
    return torch.einsum("bin,biln->ln", boundary, before)


def horizon_pass_(through: Tensor, streams: Tensor, fresh: Tensor, decay: Tensor, steps: int) -> None:
    """How long credit travels on in the past, in place: V <- (V + T) |prod_t a_t|, with V = 0 where ``fresh``.

    Args:
        through: V of all R streams, [R, N]; see :func:`r2ac.learner.rtrl_metrics.credit_distance`.
        streams, fresh: as in :func:`sensitivity_pass_`.
        decay: prod_t a_t, [B, N], or of pairs the blocks, [B, 2, 2, N].
        steps: T.
    """
    before = through.index_select(0, streams).masked_fill_(fresh.unsqueeze(-1), 0)
    through.index_copy_(0, streams, before.add_(steps).mul_(magnitude(decay)))
