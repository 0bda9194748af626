"""The kernels of a rollout of a whole agent on CPUs: linear layers around recurrent cells side by side, forward and
backward. As in :mod:`r2ac.kernels.native`, bad arguments raise ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from r2ac.kernels.cells import CELLS
from r2ac.kernels.native import call, check_type, different_rows, function, pointers, ready
from r2ac.kernels.native_library import CELLS_WITH_SCANS
from r2ac.kernels.recurrence import Notes
from r2ac.kernels.sensitivity import Traces


@dataclass(frozen=True)
class Part:
    """A cell of the agent's core, one of ``CELLS_WITH_SCANS``, with K gates, L own numbers of a unit and N units."""

    cell: str
    weight: Tensor
    """[K, N, D]."""
    own: Sequence[Tensor]
    """The cell's own parameters in the order of ``Cell.own``, all of them, as C++ counts on their number; [L, N]
    together."""
    bias: Tensor
    """[K, N]."""
    gate: tuple[Tensor, Tensor] | None
    """Weight and bias of the output gate."""
    traces: Traces | None = None
    """RTRL's sensitivities, with ``streams``; None where the gradient is TBPTT's."""
    notes: Notes | None = None

    @property
    def state_size(self) -> int:
        """Numbers of a stream's state."""
        return CELLS[self.cell].parts * self.bias.shape[1]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.weight, *self.own, self.bias, *(self.gate or ())

    def arrays(self) -> list[Tensor | None]:
        traces, notes = self.traces, self.notes
        kept = (None, None) if traces is None else (traces.weight, traces.vectors)
        noted = (None, None, None) if notes is None else (notes.through, notes.by_state, notes.boundary)
        return [self.weight, *self.own, self.bias, *(self.gate or (None, None)), *kept, *noted]


@dataclass(frozen=True)
class RolloutAgent:
    """An agent as the kernels take it. All weights are contiguous."""

    parts: Sequence[Part]
    hidden: tuple[Tensor, Tensor] | None
    """Weight and bias of the read-out's layer of ReLUs."""
    policy: tuple[Tensor, Tensor]
    value: tuple[Tensor, Tensor]
    normalised_by: Sequence[Tensor | None]
    """Mean and deviation of the observations and deviation of the rewards, None where they are not normalised, and the
    bounds of rewards and normalised observations, [2]."""
    skip: bool
    """Whether the read-out reads x beside h."""
    layer_norm: bool
    """Whether h is brought to mean 0 and variance 1 before."""

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        """All that gets a gradient, in the order of the gradients."""
        of_core = [each for part in self.parts for each in part.parameters]
        return (*of_core, *(self.hidden or ()), *self.policy, *self.value)

    def layers(self) -> list[Tensor | None]:
        heads = *(self.hidden or (None, None)), *self.policy, *self.value
        return [*heads, *self.normalised_by, *(each for part in self.parts for each in part.arrays())]

    @cached_property
    def cells(self) -> Tensor:
        """The number of each part's cell, and its units, [parts, 2]."""
        return torch.tensor(
            [(CELLS_WITH_SCANS.index(part.cell), part.bias.shape[1]) for part in self.parts], device="cpu"
        )

    @property
    def inputs(self) -> int:
        """D."""
        return self.parts[0].weight.shape[2]

    @cached_property
    def state_size(self) -> int:
        """S."""
        return sum(part.state_size for part in self.parts)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """D, the hidden layer's size, P, ``skip`` and ``layer_norm``."""
        hidden = 0 if self.hidden is None else self.hidden[0].shape[0]
        return self.inputs, hidden, self.policy[0].shape[0], self.skip, self.layer_norm

    @cached_property
    def saved_size(self) -> int:
        """How many numbers of a step of a stream the backward pass reads."""
        inputs, hidden, *_ = self.sizes
        gates = sum(part.bias.numel() for part in self.parts)
        widths = [part.state_size for part in self.parts]
        opening = sum(width for part, width in zip(self.parts, widths, strict=True) if part.gate is not None)
        return inputs + gates + 2 * sum(widths) + opening + hidden + self.layer_norm


@dataclass(frozen=True)
class Forward:
    """A rollout, T steps and, where the value after them is asked for, one step beyond."""

    logits: Tensor
    """[T, B, P]."""
    values: Tensor
    """[T, B]."""
    last_value: Tensor
    """Of the step beyond, [B]."""
    state: Tensor
    """After step T, [B, S]."""
    core_input: Tensor
    """[T, B, D]."""
    saved: Tensor
    """What :func:`backward` reads."""


def forward(
    agent: RolloutAgent, observation: Tensor, reward: Tensor, is_first: Tensor, state: Tensor, beyond: bool
) -> Forward:
    """The agent over the steps of observation [T (+ 1), B, D - 1], reward and is_first, [T (+ 1), B]; the last gives a
    value alone if it is ``beyond`` the rollout."""
    check_type(state)
    (rows, batch), dtype, new = reward.shape, state.dtype, state.new_empty
    steps, work = rows - beyond, rows * batch * agent.saved_size
    if steps < 1:
        raise ValueError(f"a rollout has at least one step, not {steps}")
    given = (
        agent.cells,
        ready("observation", observation, (rows, batch, agent.inputs - 1), dtype),
        ready("reward", reward, (rows, batch), dtype),
        ready("is_first", is_first, (rows, batch), torch.bool),
        ready("state", state, (batch, agent.state_size), dtype),
    )
    kept = [len(part.traces.weight) for part in agent.parts if part.traces is not None]
    for part in agent.parts:
        _check_traces(part, kept[0] if kept else 0, batch, dtype)
    logits, saved, values = new(steps, batch, agent.policy[0].shape[0]), new(work), new(steps, batch)
    last, after = new(batch), torch.empty_like(given[-1])
    sizes = len(agent.parts), steps, beyond, batch, *agent.sizes
    call("agent_forward", (logits, *given, saved, values, last, after), sizes, work=work, layers=agent.layers())
    core_input = saved[: steps * batch * agent.inputs].view(steps, batch, agent.inputs)
    return Forward(logits, values, last, after, core_input, saved)


class Actor:
    """An agent that steps streams whose arrays stay where they lie, each step by one call; ``choices``: of each part of
    an action.

    Why: where a step is small, looking at all arrays in each takes longer than its arithmetic.
    """

    def __init__(self, agent: RolloutAgent, choices: Sequence[int]) -> None:
        self._agent, self._choices = agent, torch.tensor(choices, device="cpu")

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether the weights are of this dtype and lie where C++ can read them, as they are now."""
        return all(each.dtype == dtype and each.is_contiguous() for each in self._agent.parameters)

    def over(
        self,
        observation: Tensor,
        reward: Tensor,
        is_first: Tensor,
        action_mask: Tensor | None,
        uniforms: Tensor,
        state: Tensor,
        logits: Tensor,
        action: Tensor,
    ) -> Callable[[int], None]:
        """A function of t that computes step t, by the weights of now.

        Args:
            observation, reward, is_first, action_mask, uniforms: what it reads: [T, B, D - 1], [T, B], [T, B],
                [T, B, P] and, float64, [T, B, parts]. The numbers of a step lie side by side, here and below.
            state: [B, S], which it changes.
            logits, action: where it writes, [T, B, P] and, int64, [T, B, parts].
        """
        check_type(state)
        agent, batch, dtype, parts = self._agent, len(state), state.dtype, len(self._choices)
        inputs, _, actions, *_ = agent.sizes
        if not ready("state", state, (batch, agent.state_size), dtype).is_set_to(state):
            raise ValueError("state is changed in place and must be contiguous")
        if int(self._choices.sum()) != actions:
            raise ValueError(f"choices must sum to {actions}, not {self._choices.tolist()}")
        # Other names of the same memory: a parameter may be given other memory.
        layers = [None if each is None else each.detach() for each in agent.layers()]
        saved, values = state.new_empty(batch * agent.saved_size), state.new_empty(batch)
        fixed = agent.cells, self._choices, state, saved, values
        of_steps = (logits, observation, reward, is_first, action_mask, uniforms, action)
        rows = (
            _of_steps("logits", logits, (batch, actions), dtype),
            _of_steps("observation", observation, (batch, inputs - 1), dtype),
            _of_steps("reward", reward, (batch,), dtype),
            _of_steps("is_first", is_first, (batch,), torch.bool),
            (0, 0) if action_mask is None else _of_steps("action_mask", action_mask, (batch, actions), torch.bool),
            _of_steps("uniforms", uniforms, (batch, parts), torch.float64),
            _of_steps("action", action, (batch, parts), torch.int64),
        )
        return _Steps(
            function("agent_act", dtype, saved.numel()),
            pointers(layers),
            [*((each.data_ptr(), 0) for each in fixed), *rows],
            (len(agent.parts), batch, *agent.sizes, parts),
            min(len(each) for each in of_steps if each is not None),
            (*layers, *fixed, *of_steps),
        )


@dataclass(frozen=True)
class _Steps:
    """What :meth:`Actor.over` returns."""

    run: Callable[..., None]
    layers: Any
    arrays: Sequence[tuple[int, int]]
    """Address of step 0, and bytes from one step to the next."""
    sizes: Sequence[int]
    count: int
    kept: Sequence[Tensor | None]
    """What the addresses belong to."""

    def __call__(self, t: int) -> None:
        if not 0 <= t < self.count:
            raise IndexError(f"a step must lie in 0 to {self.count - 1}, not {t}")
        self.run(self.layers, *[start + t * stride for start, stride in self.arrays], *self.sizes)


def backward(
    agent: RolloutAgent, by_logits: Tensor, by_values: Tensor, is_first: Tensor, state: Tensor, saved: Tensor
) -> Tensor:
    """The gradient by the agent's parameters, one after another in one vector, from those by logits [T, B, P] and
    values [T, B]; ``is_first``, ``state`` and ``saved`` are those of :func:`forward`. Takes the traces of the parts
    across the rollout, in place, if they ``advance``, and fills their notes."""
    steps, batch, _ = by_logits.shape
    first = next((part.traces for part in agent.parts if part.traces is not None), None)
    streams, fresh = None, None
    if first is not None:
        *_, streams, fresh = first.tensors()
        streams, fresh = different_rows(streams, len(first.weight), batch), ready("fresh", fresh, (batch,), torch.bool)
    gradient = saved.new_empty(sum(each.numel() for each in agent.parameters))
    by = by_logits.contiguous(), ready("by_values", by_values, (steps, batch), by_logits.dtype)
    given = agent.cells, is_first.contiguous(), state.contiguous(), saved, streams, fresh
    advance = first is not None and first.advance
    sizes = len(agent.parts), steps, len(is_first) - steps, batch, *agent.sizes, advance
    call("agent_backward", (*by, *given, gradient), sizes, work=saved.numel(), layers=agent.layers())
    return gradient


def _of_steps(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
    """The address of the first step of [T, *shape], and the bytes from one to the next."""
    gapless = (1,) if len(shape) == 1 else (shape[1], 1)
    if tensor.shape[1:] != shape or tensor.dtype != dtype or not tensor.is_cpu or tensor.stride()[1:] != gapless:
        found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise ValueError(f"{name} must be {dtype} {['T', *shape]} on the CPU, without gaps in a step, not {found}")
    return tensor.data_ptr(), tensor.stride(0) * tensor.element_size()


def _check_traces(part: Part, streams: int, batch: int, dtype: torch.dtype) -> None:
    """Raises ValueError where C++ may not change the traces, of so many streams, and the notes."""
    traces, notes, units = part.traces, part.notes, part.bias.shape[1]
    if traces is None:
        return
    pair, vectors = CELLS[part.cell].pair, sum(map(len, part.own)) + len(part.bias)
    changed: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("traces.weight", traces.weight, (streams, *pair, *part.weight.shape)),
        ("traces.vectors", traces.vectors, (streams, *pair, vectors, units)),
    ]
    if notes is not None:
        changed += [
            ("notes.through", notes.through, (streams, units)),
            ("notes.by_state", notes.by_state, (batch, *pair, units)),
            ("notes.boundary", notes.boundary, (part.weight.numel() + vectors * units,)),
        ]
    for name, tensor, shape in changed:
        if tensor is None:
            continue
        if not tensor.is_contiguous():
            raise ValueError(f"{name} is changed in place and must be contiguous")
        ready(name, tensor, shape, dtype)
