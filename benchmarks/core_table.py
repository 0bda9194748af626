"""The core, forward and backward over a rollout, by every method: time, memory, ratios."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from measure import Run, Times, as_graph, peak_bytes, release_memory, rotating, sets_beyond_cache, take_turns
from methods import LEAN, LSTM, METHODS, RTRL, TBPTT, TUNED, make_core
from report import Column, Goal, Row, own_columns
from torch import Tensor, nn

from r2ac.agents import Carry
from r2ac.kernels import GATES, Traces

EXACT = (LEAN, TUNED, RTRL)
COPY = "copy of S"
TOLERANCE = 1e-3


class CoreCase:
    """A method at one size. A call runs one rollout, forward and backward; calls go round several sets of streams.

    Args:
        method: one of METHODS.
        core: its core.
        batch, steps, hidden, inputs: B, T, N and D.
        sets: how many sets of B streams, each with its inputs, gradients by the outputs and sensitivities.
        gate: whether the core's output gate is part of it, or the recurrence alone.
    """

    def __init__(
        self, method: str, core: nn.Module, batch: int, steps: int, hidden: int, inputs: int, sets: int, gate: bool
    ) -> None:
        self.method, self.core, self._output_gate = method, core, gate
        device = next(core.parameters()).device
        generator = torch.Generator().manual_seed(1)

        def normal(*shape: int) -> list[Tensor]:
            return [torch.randn(*shape, generator=generator).to(device) for _ in range(sets)]

        self._x = [x.requires_grad_() for x in normal(steps, batch, inputs)]
        self._by_h = normal(steps, batch, core.output_size)
        self._is_first = (torch.rand(steps, batch, generator=generator) < 0.01).to(device)
        self._carries = _carries(method, core, batch, inputs, hidden, sets)
        self._run = rotating(self.rollout, sets)

    def __call__(self) -> None:
        self._run()

    def rollout(self, number: int) -> None:
        """One rollout of one set of streams; leaves gradients behind."""
        self.clear()
        x, carry = self._x[number], self._carries[number]
        run = self.core if self._output_gate else self.core.states
        h, _ = run(x, carry, self._is_first)
        h.backward(self._by_h[number])

    def clear(self) -> None:
        """Without the gradients of the last call."""
        for tensor in (*self._x, *self.core.parameters()):
            tensor.grad = None

    def gradients(self) -> dict[str, Tensor]:
        """Of the core's parameters and of the first set's inputs."""
        named = {name: parameter.grad for name, parameter in self.core.named_parameters() if parameter.grad is not None}
        return named if self._x[0].grad is None else {**named, "x": self._x[0].grad}


def _carries(method: str, core: nn.Module, batch: int, inputs: int, hidden: int, sets: int) -> list[Carry]:
    """A carry for each set of streams: of one store by its rows as the learner keeps it, or step by step as views."""
    device = next(core.parameters()).device
    state = 0.5 * torch.randn(batch, core.state_size, generator=torch.Generator().manual_seed(4)).to(device)
    if method not in EXACT:
        return [Carry(state) for _ in range(sets)]
    kept = Traces.zeros(core.cell, sets * batch, hidden, inputs, device)
    rows = torch.arange(sets * batch, device=device).view(sets, batch)
    if method == RTRL:
        fresh = torch.zeros(batch, dtype=torch.bool, device=device)
        return [Carry(state, (kept,)).of_streams(streams, fresh) for streams in rows]
    parts = zip(*(tensor.split(batch) for tensor in kept.tensors()), strict=True)
    return [Carry(state, (Traces(*part),)) for part in parts]


def make_cases(
    methods: Sequence[str],
    batch: int,
    steps: int,
    hidden: int,
    inputs: int,
    sets: int,
    device: torch.device,
    output_gate: bool = True,
) -> dict[str, CoreCase]:
    """The methods that the device can run, all with the same weights and inputs."""
    cores = {method: make_core(method, inputs, hidden, device) for method in methods}
    return {
        method: CoreCase(method, core, batch, steps, hidden, inputs, sets, output_gate)
        for method, core in cores.items()
        if core is not None
    }


def check_gradients(cases: dict[str, CoreCase]) -> None:
    """Exit where two exact methods disagree after two rollouts, the first of which fills the sensitivities."""
    for _ in range(2):
        for method, case in cases.items():
            if method in EXACT:
                case.rollout(0)
    expected = cases[RTRL].gradients()
    for method in [name for name in (LEAN, TUNED) if name in cases]:
        found = cases[method].gradients()
        for name, gradient in expected.items():
            error = float((found[name] - gradient).norm() / gradient.norm())
            if not error < TOLERANCE:
                raise SystemExit(f"{method}: the gradient of {name} is off by {error:.1e} relative")


def measure_core(
    batch: int,
    steps: int,
    hidden: int,
    inputs: int,
    rounds: int,
    device: torch.device,
    output_gate: bool,
    methods: Sequence[str] = METHODS,
) -> Row:
    """One row: the methods, RTRL among them, at one size."""
    release_memory(device)
    size = 4 * batch * GATES * hidden * inputs
    sets = sets_beyond_cache(size, device)
    cases = make_cases(methods, batch, steps, hidden, inputs, sets, device, output_gate)
    check_gradients(cases)
    for case in cases.values():
        case()
    memory = {}
    for method, case in cases.items():
        case.clear()
        memory[method] = peak_bytes(case, device)
    source, target = torch.ones(2, sets, size // 4, device=device)
    copy = rotating(lambda number: target[number].copy_(source[number]), sets)
    runs: dict[str, Run] = {**cases, COPY: copy}
    row: Row = {"B": batch, "N": hidden, "T": steps, "peak_bytes": memory}
    row.update(_figures(take_turns(runs, rounds, device)))
    if device.type == "cuda":
        graphs = {name: graph for name, run in runs.items() if (graph := as_graph(run, sets)) is not None}
        row["graph"] = _figures(take_turns(graphs, rounds, device, dict.fromkeys(graphs, sets)))
    return row


def _figures(times: Times) -> Row:
    return {
        "seconds": times.medians(),
        "ratios": {
            "speed-up": times.ratio(LEAN, RTRL),
            "speed-up, tuned": times.ratio(TUNED, RTRL),
            "over TBPTT": times.ratio(RTRL, TBPTT),
            "over LSTM": times.ratio(RTRL, LSTM),
            "over copy": times.ratio(RTRL, COPY),
        },
    }


def core_columns(form: str) -> list[Column]:
    """The columns of a table: ``form`` is "plain", or "graph" for the times as CUDA graphs, without the memory."""

    def figures(row: Row) -> Row:
        return row if form == "plain" else row["graph"]

    def time(method: str) -> Column:
        def cell(row: Row) -> str | None:
            seconds = figures(row)["seconds"].get(method)
            if seconds is None:
                return None
            memory = f" ({row['peak_bytes'][method] / 2**20:,.1f})" if form == "plain" else ""
            return f"{1e3 * seconds:,.{1 if seconds > 0.01 else 3}f}{memory}"

        return Column(f"{method}, ms{' (MB)' if form == 'plain' else ''}", cell)

    def ratio(heading: str, name: str) -> Column:
        return Column(heading, lambda row: figures(row)["ratios"][name], ".2f")

    return [
        *own_columns("B", "N", "T"),
        *map(time, METHODS),
        ratio("speed-up", "speed-up"),
        ratio("speed-up, tuned", "speed-up, tuned"),
        ratio("over TBPTT", "over TBPTT"),
        ratio("over LSTM", "over LSTM"),
        ratio("over a copy of S", "over copy"),
    ]


def core_goals(name: str, rows: list[Row], on_gpu: bool) -> list[Goal]:
    """The goals of the core; ``name`` says whether with its output gate, which costs every method the same."""
    if not on_gpu:
        sizes = ((12, (32, 256, 50)), (15, (32, 512, 100)))
        forms = {"plain": ""}
    else:
        sizes = ((50, (32, 512, 100)), (50, (256, 1024, 100)))
        forms = {"plain": ", each launched from Python", "graph": ", each as a CUDA graph"}
    goals = []
    for least, (batch, hidden, steps) in sizes:
        for form, how in forms.items():
            of = f"{name}, B={batch}, N={hidden}, T={steps}{how}"
            ratios = _ratios(rows, form, batch, hidden, steps)
            goals.append(Goal(f"{of}: times faster than step by step", ratios.get("speed-up"), least, True))
            goals.append(Goal(f"{of}: over TBPTT", ratios.get("over TBPTT"), 1.5, False))
    return goals


def _ratios(rows: list[Row], form: str, batch: int, hidden: int, steps: int) -> Row:
    for row in rows:
        if (row["B"], row["N"], row["T"]) == (batch, hidden, steps):
            return (row if form == "plain" else row["graph"])["ratios"]
    return {}
