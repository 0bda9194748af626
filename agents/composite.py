"""Cores made of several: cells side by side (`mixed:a+b`), and layers one above the other (`--layers`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from r2ac.agents.config import LayerGradient
from r2ac.agents.core import Carry, Core


class Composite(Core):
    """Several cores as one. Their states, traces and notes lie one after the other; what each part reads, and what of
    them leaves the whole, is the subclass's."""

    def __init__(self, parts: Sequence[Core]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.input_size = parts[0].input_size
        self.hidden_size = sum(part.hidden_size for part in parts)
        self.state_size = sum(part.state_size for part in parts)
        self.uses_rtrl = any(part.uses_rtrl for part in parts)
        self._traces = [len(part.initial_carry(1).traces) for part in parts]

    @abstractmethod
    def inputs(self, x: Tensor, state: Tensor, is_first: Tensor) -> Sequence[Tensor]:
        """What each part reads over a rollout, [T, B, D_k], if it begins at ``state``, [B, S]; no gradients."""

    @property
    def recurrent_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(weight for part in self.cores() for weight in part.recurrent_parameters)

    def cores(self) -> list[Core]:
        """The parts, in order."""
        return cast("list[Core]", list(self.parts))

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        return _joined([part.initial_carry(batch_size, device, dtype) for part in self.cores()])

    def with_notes(self, carry: Carry, through: Sequence[Tensor], parts: bool = True) -> Carry:
        rest, noted = list(through), []
        for part, own in zip(self.cores(), self.split(carry), strict=True):
            noted.append(part.with_notes(own, [rest.pop(0) for _ in own.traces], parts))
        return replace(carry, notes=_joined(noted).notes)

    def advance(self, x: Tensor, carry: Carry, is_first: Tensor) -> Carry:
        parts = zip(self.cores(), self.inputs(x, carry.state, is_first), self.split(carry), strict=True)
        return _joined([part.advance(each, own, is_first) for part, each, own in parts])

    def truncated_states(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """Each part's by itself: what it reads is a constant."""
        parts = zip(self.cores(), self.inputs(x, state, is_first), self.split_state(state), strict=True)
        return torch.cat([part.truncated_states(each, own, is_first) for part, each, own in parts], dim=-1)

    def boundary_by_stream(self, by_state: Tensor, carry: Carry) -> tuple[Tensor, ...]:
        parts = zip(self.cores(), self.split_state(by_state), self.split(carry), strict=True)
        return tuple(term for part, by_own, own in parts for term in part.boundary_by_stream(by_own, own))

    def split_state(self, state: Tensor) -> Sequence[Tensor]:
        """The parts' numbers of [..., S]."""
        return state.split([part.state_size for part in self.cores()], dim=-1)

    def split(self, carry: Carry) -> Iterator[Carry]:
        """The parts' carries."""
        begin = 0
        for state, count in zip(self.split_state(carry.state), self._traces, strict=True):
            own = slice(begin, begin + count)
            yield Carry(state, carry.traces[own], carry.notes[own])
            begin += count


class Mixed(Composite):
    """Cells side by side: each reads x, and h has the outputs of all."""

    def __init__(self, parts: Sequence[Core]) -> None:
        super().__init__(parts)
        self.output_size = sum(part.output_size for part in parts)

    def inputs(self, x: Tensor, state: Tensor, is_first: Tensor) -> Sequence[Tensor]:
        return [x for _ in self.parts]

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        done = [part.unroll(x, own, is_first) for part, own in zip(self.cores(), self.split(carry), strict=True)]
        h, states, after = zip(*done, strict=True)
        return torch.cat(h, dim=-1), torch.cat(states, dim=-1), _joined(after)

    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        done = [part.transition(x, own, is_first) for part, own in self._with(state)]
        h, states = zip(*done, strict=True)
        return torch.cat(h, dim=-1), torch.cat(states, dim=-1)

    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        return torch.cat([part.retention(x, own, is_first) for part, own in self._with(state)], dim=-1)

    def _with(self, state: Tensor) -> Iterator[tuple[Core, Tensor]]:
        return zip(self.cores(), self.split_state(state), strict=True)


class Stack(Composite):
    """Layers one above the other: the first reads x, each other one the output of that below, and h is the last's.

    A stack is no element-wise recurrence: the state of an upper layer depends on the parameters of those below through
    its own past. Each layer keeps the sensitivities of its own parameters alone, which are exact; what reaches the
    layers below is

        rollout: the gradient through the upper layers' time, inside the rollout (TBPTT across layers)
        local: the gradient inside each step only, the upper layers' states before it taken as given (Zucchet, Meier,
            Schug, Mujika and Sacramento 2023, "Online learning of long-range dependencies", 3.2)
    """

    def __init__(self, layers: Sequence[Core], gradient: LayerGradient) -> None:
        super().__init__(layers)
        self.output_size, self.layer_gradient = layers[-1].output_size, gradient

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        states, after, below = [], [], x
        for number, (layer, own) in enumerate(zip(self.cores(), self.split(carry), strict=True)):
            local = number > 0 and self.layer_gradient == "local"
            h, states_of_layer, after_layer = layer.unroll(below.detach() if local else below, own, is_first)
            if local:
                h = h + _in_each_step(layer, below, own.state, states_of_layer, is_first)
            states.append(states_of_layer)
            after.append(after_layer)
            below = h
        return below, torch.cat(states, dim=-1), _joined(after)

    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        _, h, state = self._through(x, state, is_first)
        return h, state

    @torch.no_grad()
    def inputs(self, x: Tensor, state: Tensor, is_first: Tensor) -> Sequence[Tensor]:
        steps = []
        for x_t, first in zip(x, is_first, strict=True):
            read, _, state = self._through(x_t, state, first)
            steps.append(read)
        return [torch.stack(of_layer) for of_layer in zip(*steps, strict=True)]

    @torch.no_grad()
    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """Of each layer by itself, as if its input stood still."""
        read, _, _ = self._through(x, state, is_first)
        parts = zip(self.cores(), read, self.split_state(state), strict=True)
        return torch.cat([layer.retention(each, own, is_first) for layer, each, own in parts], dim=-1)

    def _through(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """One step: what each layer reads, what the last one returns, and the state."""
        read, states = [], []
        for layer, own in zip(self.cores(), self.split_state(state), strict=True):
            read.append(x)
            x, own = layer.transition(x, own, is_first)
            states.append(own)
        return read, x, torch.cat(states, dim=-1)


class Method(nn.Module):
    """A method of a core as a module's forward: `torch.func.functional_call` gives it other parameters."""

    def __init__(self, core: Core, method: Callable[..., Any]) -> None:
        super().__init__()
        self.core, self.method = core, method

    def forward(self, *arguments: Tensor) -> Any:
        return self.method(*arguments)


def _in_each_step(layer: Core, x: Tensor, state: Tensor, states: Tensor, is_first: Tensor) -> Tensor:
    """Zero, [T, B, H], with the gradient of the layer's output by its input x inside each step; the states before the
    steps and the layer's parameters are constants."""
    before = torch.cat((state.unsqueeze(0), states[:-1]))
    constants = {f"core.{name}": weight.detach() for name, weight in layer.named_parameters()}
    steps = x.flatten(0, 1), before.detach().flatten(0, 1), is_first.flatten()
    h, _ = torch.func.functional_call(Method(layer, layer.transition), constants, steps)
    return (h - h.detach()).view(*x.shape[:2], -1)


def _joined(carries: Sequence[Carry]) -> Carry:
    """The carries of parts as one."""
    return Carry(
        torch.cat([carry.state for carry in carries], dim=-1),
        tuple(traces for carry in carries for traces in carry.traces),
        tuple(notes for carry in carries for notes in carry.notes),
    )
