"""The kernels of agents that learn online, after each step, on CPUs: what an agent around an eLSTM learns from a step,
and what it normalises by. As in :mod:`r2ac.kernels.native`, bad arguments raise ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from r2ac.kernels.cells.elstm import GATES
from r2ac.kernels.native import call, check_type, different_rows, ready
from r2ac.kernels.sensitivity import Traces

Layers = Sequence[Tensor | None]
"""Weights and biases of an agent around an eLSTM: input weights, [2, N, D], recurrent weights, [2, N], and biases,
[2, N], of the core, then weight and bias each of its output gate, of the read-out's hidden layer (None where there is
none), of the policy and of the value; mean and deviation of the observations and the deviation of the rewards (None
where they are not normalised); and the bounds of normalised rewards and observations, [2]."""


def observe_vectors(values: Tensor, moments: Tensor, mean: Tensor, deviation: Tensor) -> None:
    """Take vectors, [B, K], into their moments, [3, K] float64, and the mean and deviation, [K], that follow; see
    `r2ac.agents.moments`. What is not finite counts as 0."""
    check_type(values)
    shape, (width,) = values.shape, mean.shape
    moments = ready("moments", moments, (3, width), torch.float64)
    row = (ready("mean", mean, (width,), values.dtype), ready("deviation", deviation, (width,), values.dtype))
    given = ready("values", values, (shape[0], width), values.dtype)
    call("observe_vectors", (given, moments, *row), tuple(shape), work=0)


def observe_returns(
    rewards: Tensor,
    begins: Tensor,
    streams: Tensor,
    returns: Tensor,
    discount: float,
    moments: Tensor,
    deviation: Tensor,
) -> None:
    """Advance the discounted ``returns`` of all streams, [R] float32, in the rows ``streams``, [B] int64, by a reward
    each, [B] float32; where ``begins``, [B] bool, they begin again at 0. Then take these rows into the moments, [3]
    float64, and the deviation, a scalar, as `r2ac.learner.returns` does."""
    (batch,) = rewards.shape
    given = (
        ready("deviation", deviation, (), deviation.dtype),
        ready("rewards", rewards, (batch,), torch.float32),
        ready("begins", begins, (batch,), torch.bool),
        different_rows(streams, returns.shape[0], batch),
        _in_place("returns", returns, (), torch.float32),
        torch.tensor(discount, dtype=torch.float64),
        ready("moments", moments, (3,), torch.float64),
    )
    call("observe_returns", given, (batch,), work=0)


def learn(
    layers: Layers,
    skip: bool,
    settings: Tensor,
    action_sizes: Tensor,
    observation: Tensor,
    final_observation: Tensor | None,
    state: Tensor,
    is_first: Tensor,
    reward: Tensor,
    action: Tensor,
    action_mask: Tensor | None,
    truncated: Tensor | None,
    eligibility: Tensor,
    learns_policy: bool,
    traces: Traces | None,
    streams: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """A step of an agent around an eLSTM, and what it learns from it by eligibility traces, which is the update of
    `r2ac.learner.algorithms.stream`: the state after the step, [B, N], and the sums over the streams of 0.5 delta^2,
    |delta|, the entropy and the scale of the step, [4].

    Args:
        settings: discount, discount trace_lambda, the costs of log probability, value and entropy, learning_rate
            step_bound, and the number of learners, [7].
        action_sizes: choices of each part of an action, [A] int64.
        observation: in the step and after it, [2, B, D - 1]; ``final_observation``, [B, D - 1], where a time limit
            ended the episode: ``truncated``, [B] bool.
        state, is_first, reward, action, action_mask: [B, N], before the step; [2, B]; [2, B]; [B, A]; [B, P].
        eligibility: the traces of all streams, [R, P], changed in place in the rows ``streams``, [B] int64, all
            different.
        learns_policy: whether the policy is among the learned parameters, which are else all of the layers'.
        traces: RTRL's sensitivities of all streams, changed in place likewise; None where the gradient is truncated.
        gradient: overwritten with that by the learned parameters, [P].
    """
    inputs, units, _, actions = sizes = _layer_sizes(layers)
    check_type(state)
    batch, dtype, width = streams.shape[0], state.dtype, eligibility.shape[1]
    (parts,), weight, vectors, fresh = action_sizes.shape, None, None, None
    if traces is not None:
        weight = _in_place("traces.weight", traces.weight, (GATES, units, inputs), dtype)
        vectors = _in_place("traces.vectors", traces.vectors, (2 * GATES, units), dtype)
        fresh = _optional("traces.fresh", traces.fresh, (batch,), torch.bool)
    given = (
        ready("observation", observation, (2, batch, inputs - 1), dtype),
        _optional("final_observation", final_observation, (batch, inputs - 1), dtype),
        ready("state", state, (batch, units), dtype),
        ready("is_first", is_first, (2, batch), torch.bool),
        ready("reward", reward, (2, batch), dtype),
        ready("action", action.reshape(batch, -1), (batch, parts), torch.int64),
        _optional("action_mask", action_mask, (batch, actions), torch.bool),
        _optional("truncated", truncated, (batch,), torch.bool),
        different_rows(streams, eligibility.shape[0], batch),
        fresh,
        ready("action_sizes", action_sizes, (parts,), torch.int64),
        ready("settings", settings, (7,), dtype),
    )
    changed = _in_place("eligibility", eligibility, (width,), dtype), weight, vectors
    results = state.new_empty(batch, units), state.new_empty(4), ready("gradient", gradient, (width,), dtype)
    learned = *layers[:7], *(layers[7:9] if learns_policy else ()), *layers[9:11]
    if width != sum(0 if layer is None else layer.numel() for layer in learned):
        raise ValueError(f"eligibility must have a column for each number of the layers that learn, not {width}")
    counts = batch, *sizes, skip, parts, width, learns_policy
    call("online_learn", (*given, *changed, *results), counts, work=batch * width, layers=layers)
    return results[:2]


def _layer_sizes(layers: Layers) -> tuple[int, int, int, int]:
    """D, N, the hidden layer's size and P."""
    weight, hidden, policy = layers[0], layers[5], layers[7]
    assert weight is not None
    assert policy is not None
    return weight.shape[2], weight.shape[1], 0 if hidden is None else hidden.shape[0], policy.shape[0]


def _in_place(name: str, tensor: Tensor, row: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor of all streams, [R, *row], if C++ may change it."""
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is changed in place and must be contiguous")
    return ready(name, tensor, (tensor.shape[0], *row), dtype)


def _optional(name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else ready(name, tensor, shape, dtype)
