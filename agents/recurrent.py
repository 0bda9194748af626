"""Recurrent cores: any cell, trained by exact RTRL or by truncated BPTT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from r2ac.agents.config import Gradient, TimeScales
from r2ac.agents.core import START_SCALE, Carry, Core, draw_time_scales
from r2ac.agents.output_gate import gated
from r2ac.kernels import (
    CELLS,
    LinearCell,
    Linearisation,
    Notes,
    Traces,
    boundary_by_stream,
    kernels_for,
    magnitude,
    needs_operators,
    recurrence,
    traces_after,
    traces_after_step,
)


class Recurrent(Core):
    """One layer of a cell.

        c_t = cell(W x_t + b, own, c_{t-1})      h_t = c_t      or      h_t = sigmoid(O [x_t; c_t] + b_o) c_t

    c_{t-1} is zero where an episode begins. The output gate lies outside the recurrence and gets ordinary gradients.
    The cell's own parameters have its names for them.

    Args:
        cell: a name among ``r2ac.kernels.CELLS``.
        gradient: "rtrl", exact and untruncated (for parameters that stand still), or "tbptt", truncated at the
            rollout's start.
        chrono_steps: if not 0, the units begin with time scales in [1, chrono_steps], in steps.
        output_gate: whether h is gated; None: as the cell has it.
        input_scale: standard deviation of W at the start; None: 0.1.
        recurrent_scale: that of the cell's ``recurrent_weight``; None: the cell's own.
        time_scales: whether time scales are uniform, or their logarithms are ("log-uniform").

    Raises:
        ValueError: for an unknown cell or gradient, sizes below 1, chrono_steps other than 0 and below 2, log-uniform
            time scales without chrono_steps, or a recurrent_scale where the cell has no recurrent weights or they are
            its time scales.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        gradient: Gradient = "rtrl",
        chrono_steps: float = 0,
        output_gate: bool | None = None,
        *,
        input_scale: float | None = None,
        recurrent_scale: float | None = None,
        time_scales: TimeScales = "uniform",
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, not {cell!r}")
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size must be at least 1, not {input_size} and {hidden_size}")
        if gradient not in get_args(Gradient):
            raise ValueError(f"gradient must be one of {', '.join(get_args(Gradient))}, not {gradient!r}")
        self.cell, self.cell_name = CELLS[cell], cell
        self.input_size, self.hidden_size, self.gradient = input_size, hidden_size, gradient
        self.output_size = self.state_size = self.cell.parts * hidden_size
        gates = self.cell.gates
        self.input_weight = nn.Parameter(torch.empty(gates, hidden_size, input_size))
        for name, numbers in self.cell.own.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(numbers, hidden_size)))
        self.bias = nn.Parameter(torch.zeros(gates, hidden_size))
        gated = self.cell.output_gate if output_gate is None else output_gate
        self.output_gate = nn.Linear(input_size + self.output_size, self.output_size) if gated else None
        self._draw_start(chrono_steps, input_scale, recurrent_scale, time_scales)

    @torch.no_grad()
    def _draw_start(
        self, chrono_steps: float, input_scale: float | None, recurrent_scale: float | None, time_scales: TimeScales
    ) -> None:
        """Draw the first values of all parameters."""
        own = {name: self.get_parameter(name) for name in self.cell.own}
        nn.init.normal_(self.input_weight, std=START_SCALE if input_scale is None else input_scale)
        self.cell.initialise(own)
        if recurrent_scale is not None:
            if "recurrent_weight" not in own:
                raise ValueError(f"recurrent_scale is {recurrent_scale}, but {self.cell_name} has no recurrent weights")
            if chrono_steps and self.cell.recurrent_weight_is_decay:
                raise ValueError(
                    f"recurrent_scale is {recurrent_scale}, but the recurrent weights of {self.cell_name} are its time "
                    f"scales, which chrono_steps ({chrono_steps}) sets"
                )
            nn.init.normal_(own["recurrent_weight"], std=recurrent_scale)
        if self.output_gate is not None:
            nn.init.normal_(self.output_gate.weight, std=START_SCALE)
            nn.init.zeros_(self.output_gate.bias)
        steps = draw_time_scales(self.bias[0], chrono_steps, time_scales)
        if steps is not None:
            self.cell.set_time_scales(own, self.bias, steps)

    @property
    def uses_rtrl(self) -> bool:  # type: ignore[override]
        return self.gradient == "rtrl"

    @property
    def recurrent_parameters(self) -> tuple[nn.Parameter, ...]:
        return self.input_weight, *map(self.get_parameter, self.cell.own), self.bias

    def initial_carry(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Carry:
        device = torch.device(device) if device is not None else self.bias.device
        dtype = dtype or self.bias.dtype
        state = torch.zeros(batch_size, self.state_size, device=device, dtype=dtype)
        if not self.uses_rtrl:
            return Carry(state)
        return Carry(state, (Traces.zeros(self.cell, batch_size, self.hidden_size, self.input_size, device, dtype),))

    def with_notes(self, carry: Carry, through: Sequence[Tensor], parts: bool = True) -> Carry:
        if any(traces.streams is None for traces in carry.traces) or not carry.traces:
            raise ValueError("carry.notes and traces.fresh go with traces.streams: without these, use initial_carry()")
        (traces,), (of_all,) = carry.traces, through
        if not parts:
            return Carry(carry.state, carry.traces, (Notes(of_all),))
        _, *shapes = self._note_shapes(len(carry.state), len(of_all))
        _, _, streams, fresh = traces.tensors()
        before = of_all.index_select(0, streams).masked_fill_(fresh.unsqueeze(-1), 0)
        return Carry(carry.state, carry.traces, (Notes(of_all, before, *map(carry.state.new_empty, shapes)),))

    def unroll(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Tensor, Carry]:
        states, carry = self.states(x, carry, is_first)
        return self._read(x, states), states.detach(), carry

    def states(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """The recurrence alone, without the output gate: c, [T, B, S], which carries gradients, and the carry after
        step T; all else as in :meth:`forward`."""
        self._check(x, carry, is_first)
        if not self.uses_rtrl:
            states = self.truncated_states(x, carry.state, is_first)
            return states, Carry(states[-1].detach())
        (traces,), notes = carry.traces, carry.notes[0] if carry.notes else None
        given, state = self._given(x), self._by_part(carry.state)
        states = recurrence(*given, state, is_first, self.input_weight, x, traces, notes)
        if traces.streams is None:
            traces = traces_after(traces, x, *given, states, state, is_first)
        else:
            traces = Traces(traces.weight, traces.vectors, traces.streams, advance=traces.advance)
        states = self._flat(states)
        return states, Carry(states[-1].detach(), (traces,))

    @torch.no_grad()
    def advance(self, x: Tensor, carry: Carry, is_first: Tensor) -> Carry:
        given, state = self._given(x), self._by_part(carry.state)
        states = recurrence(*given, state, is_first)
        after = (traces_after(traces, x, *given, states, state, is_first) for traces in carry.traces)
        return Carry(self._flat(states[-1]), tuple(after))

    def boundary_by_stream(self, by_state: Tensor, carry: Carry) -> tuple[Tensor, ...]:
        if not carry.traces:
            return ()
        weight, vectors = boundary_by_stream(self._by_part(by_state), carry.traces[0])
        sizes = [len(parameter) for parameter in self.recurrent_parameters[1:]]
        return weight, *vectors.split(sizes, dim=1)

    def truncated_states(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        return self._flat(recurrence(*self._given(x), self._by_part(state), is_first))

    def transition(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        fused = kernels_for(self.bias).fused.get(self.cell_name)
        seen = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or needs_operators(x)
        if fused is not None and isinstance(self.cell, LinearCell) and not seen:
            # A rollout of one step: one kernel, where the formulas are a dozen operations.
            _, projection, *vectors = self._given(x.unsqueeze(0))
            (after,) = fused.forward(projection, *vectors, self._by_part(state), is_first.unsqueeze(0))
        else:
            after = self.cell.step(*self._step_arguments(x, state, is_first))
        state = self._flat(after)
        return self._read(x, state), state

    @torch.no_grad()
    def linearised(self, x: Tensor, state: Tensor, is_first: Tensor) -> Linearisation:
        """The derivatives of one step, x [B, D], state [B, S] and is_first [B]; those by the state are 0 where an
        episode begins."""
        linear = self.cell.linearise(*self._step_arguments(x, state, is_first))
        outside = is_first.view(-1, *(1,) * (linear.jacobian.dim() - 1))
        return linear._replace(jacobian=linear.jacobian.masked_fill(outside, 0))

    def pull(self, by_after: Tensor, linear: Linearisation) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """The gradients by the state before a step, [B, S], by the own parameters, [B, ..., N] each, and by the gates,
        [B, K, N], from that by the state after it, [B, S], stream by stream."""
        by_after = self._by_part(by_after)
        if self.cell.parts == 1:
            by_state = by_after * linear.jacobian
            by_gates, by_own = (by_after.unsqueeze(1) * each for each in linear[1:])
        else:
            by_state, by_gates, by_own = ((by_after.unsqueeze(2) * each).sum(1) for each in linear)
        return self._flat(by_state), by_own.split(list(self.cell.own.values()), dim=1), by_gates

    @torch.no_grad()
    def advance_by(self, linear: Linearisation, x: Tensor, carry: Carry, after: Tensor) -> Carry:
        """:meth:`advance` by one step, whose derivatives and state ``after`` it, [B, S], are known."""
        for traces in carry.traces:
            traces_after_step(traces, x, linear)
        return Carry(after, carry.traces)

    @torch.no_grad()
    def retention(self, x: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """a_t of each unit, for both numbers of a pair the root of |det A_t|; 0 where an episode begins."""
        jacobian = self.cell.linearise(*self._step_arguments(x, state, is_first)).jacobian
        if self.cell.parts == 2:
            jacobian = magnitude(jacobian).repeat(1, 2)
        return jacobian.masked_fill(is_first.unsqueeze(-1), 0)

    def extra_repr(self) -> str:
        """What ``print`` shows beside the class name."""
        return f"{self.cell_name}, {self.input_size}, {self.hidden_size}, gradient={self.gradient!r}"

    def _given(self, x: Tensor) -> tuple[str, Tensor, Tensor, Tensor]:
        """What the recurrence gets of the cell and of x, [T, B, D]."""
        # The bias is added by the scan, which reads the pre-activations anyway.
        bias = self.bias
        projection = nn.functional.linear(x, self.input_weight.flatten(0, 1)).view(*x.shape[:-1], *bias.shape)
        return self.cell_name, projection, self._own(), bias

    def _own(self) -> Tensor:
        """The cell's own parameters, [L, N]."""
        own = [getattr(self, name) for name in self.cell.own]
        return own[0] if len(own) == 1 else torch.cat((*own, self.bias[:0]))

    def _note_shapes(self, batch: int, streams: int) -> list[tuple[int, ...]]:
        hidden, parameters = self.hidden_size, sum(parameter.numel() for parameter in self.recurrent_parameters)
        return [(streams, hidden), (batch, *self.cell.pair, hidden), (parameters,)]

    def _by_part(self, state: Tensor) -> Tensor:
        """[B, S] as the cell has it, [B, (2,) N]."""
        return state if self.cell.parts == 1 else state.unflatten(1, (2, -1))

    def _flat(self, states: Tensor) -> Tensor:
        """[..., (2,) N] as [..., S]."""
        return states if self.cell.parts == 1 else states.flatten(-2)

    def _step_arguments(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        previous = self._by_part(state.masked_fill(is_first.unsqueeze(-1), 0))
        bias = self.bias
        gates = nn.functional.linear(x, self.input_weight.flatten(0, 1), bias.flatten())
        return gates.view(x.shape[0], *bias.shape), self._own(), previous

    def _read(self, x: Tensor, states: Tensor) -> Tensor:
        """h from the states, [..., B, S]."""
        return states if self.output_gate is None else gated(self.output_gate, x, states)

    def _check(self, x: Tensor, carry: Carry, is_first: Tensor) -> None:
        if x.dim() != 3 or x.shape[0] < 1 or x.shape[2] != self.input_size:
            raise ValueError(f"x must be [T >= 1, B, {self.input_size}], not {list(x.shape)}")
        steps, batch = x.shape[:2]
        if is_first.shape != (steps, batch) or is_first.dtype != torch.bool:
            raise ValueError(f"is_first must be bool [{steps}, {batch}], not {is_first.dtype} {list(is_first.shape)}")
        state, weight = carry.state, self.input_weight
        traces = carry.traces[0] if carry.traces else None
        if state.shape != (batch, self.state_size):
            raise ValueError(f"carry.state must be [{batch}, {self.state_size}], not {list(state.shape)}")
        if (state.dtype, state.device) != (weight.dtype, weight.device):
            raise ValueError(
                f"carry.state must be {weight.dtype} on {weight.device}, not {state.dtype} on {state.device}"
            )
        streams = traces.streams if traces is not None else None
        if streams is None and (carry.notes or (traces is not None and traces.fresh is not None)):
            raise ValueError("carry.notes and traces.fresh go with traces.streams: without these, use initial_carry()")
        if carry.notes:
            shapes = [tuple(note.shape) for note in carry.notes[0].tensors()]
            allowed = self._note_shapes(batch, len(carry.traces[0].weight))
            if shapes not in (allowed, allowed[:1]):
                raise ValueError(f"carry.notes must have the shapes {allowed}, or the first alone, not {shapes}")
        if not self.uses_rtrl:
            return
        if traces is None:
            raise ValueError("gradient 'rtrl' needs a carry with traces: begin with initial_carry()")
        if streams is not None:
            if not torch.is_grad_enabled() and traces.advance:
                raise ValueError("a carry with streams is advanced by the backward pass, but gradients are disabled")
            if streams.shape != (batch,):
                raise ValueError(f"traces.streams must be [{batch}], not {list(streams.shape)}")
            fresh = traces.fresh
            if fresh is not None and (fresh.shape != (batch,) or fresh.dtype != torch.bool):
                raise ValueError(f"traces.fresh must be bool [{batch}], not {fresh.dtype} {list(fresh.shape)}")
        rows = batch if streams is None else len(traces.weight)
        of_weight = (rows, *self.cell.pair, *weight.shape)
        if traces.weight.shape != of_weight:
            raise ValueError(f"traces.weight must be {list(of_weight)}, not {list(traces.weight.shape)}")
