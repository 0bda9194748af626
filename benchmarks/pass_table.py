"""The pass over the sensitivities alone: time, bytes, share of what the machine's memory and arithmetic allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from measure import Run, Times, as_graph, release_memory, rotating, sets_beyond_cache, take_turns
from methods import Advance, lean_advance, tuned_advance
from report import Column, Goal, Row, own_columns, scaled
from torch import Tensor

from r2ac.kernels.operators import sensitivity_pass_ as device_pass_
from r2ac.kernels.sensitivity import sensitivity_pass_, zero_rows

K = 2
PASS, COPY, PRODUCT, PLAIN, FUSED = "pass", "copy", "product", "plain step", "fused step"
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 1e-2}


@dataclass
class PassInputs:
    """Several sets of B streams of one store, and what a pass over each of them takes.

    The store lies in memory as the learner's does, and going round the sets finds none of them in the cache.
    """

    matrix: Tensor
    """[sets * B, K, N, D]."""
    streams: list[Tensor]
    fresh: Tensor
    boundary: list[Tensor]
    decay: list[Tensor]
    weighted: list[Tensor]
    inputs: list[Tensor]

    @staticmethod
    def draw(
        batch: int, steps: int, hidden: int, inputs: int, device: torch.device, storage: torch.dtype = torch.float32
    ) -> PassInputs:
        """Random numbers, with which S stays of size one over any number of passes."""
        torch.manual_seed(2)
        sets = sets_beyond_cache(storage.itemsize * batch * K * hidden * inputs, device)

        def each(*shape: int, scale: float = 1) -> list[Tensor]:
            return [torch.randn(*shape, device=device).mul_(scale) for _ in range(sets)]

        return PassInputs(
            zero_rows((sets * batch, K, hidden, inputs), device, storage).normal_(),
            list(torch.arange(sets * batch, device=device).split(batch)),
            torch.zeros(batch, dtype=torch.bool, device=device),
            each(batch, hidden),
            [torch.rand(batch, hidden, device=device).mul_(0.9) for _ in range(sets)],
            each(steps, batch, K, hidden, scale=steps**-0.5),
            each(steps, batch, inputs),
        )

    @property
    def sets(self) -> int:
        return len(self.streams)

    def arguments(self, number: int) -> tuple[Tensor, ...]:
        """Of a pass over one set of streams."""
        by_set = (field[number] for field in (self.boundary, self.decay, self.weighted, self.inputs))
        return self.matrix, self.streams[number], self.fresh, *by_set

    def rows(self, number: int) -> Tensor:
        """S of one set of streams, a view [B, K, N, D]."""
        batch = len(self.fresh)
        return self.matrix[number * batch : (number + 1) * batch]

    def run(self, number: int) -> Tensor:
        """The device's pass over one set of streams."""
        return device_pass_(*self.arguments(number))

    def errors(self, run: Callable[..., Tensor] | None = None) -> tuple[float, float]:
        """Relative errors of the term and of the sensitivities after one pass, against the reference in float64."""
        matrix, streams, fresh, *numbers = self.arguments(0)
        before = self.rows(0).double()
        expected = sensitivity_pass_(before, streams, fresh, *(tensor.double() for tensor in numbers))
        term = (run or device_pass_)(matrix, streams, fresh, *numbers)
        return _relative_error(term, expected), _relative_error(self.rows(0), before)

    def check(self) -> tuple[float, float]:
        """The same, and exit where the pass does not do what the reference does."""
        errors = self.errors()
        if not all(error < TOLERANCE[self.matrix.dtype] for error in errors):
            raise SystemExit(f"the sensitivity pass is off by {max(errors):.1e} relative")
        return errors


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def time_runs(runs: dict[str, Run], sets: Mapping[str, int], rounds: int, device: torch.device) -> Times:
    """By the clock on a CPU. On a GPU as many runs in a row as there are sets are one CUDA graph: no launch then hides
    a kernel."""
    for run in runs.values():
        run()
    if device.type != "cuda":
        return take_turns(runs, rounds, device)
    graphs = {name: as_graph(run, sets[name]) for name, run in runs.items()}
    each = {name: 1 if graph is None else sets[name] for name, graph in graphs.items()}
    return take_turns({name: graphs[name] or run for name, run in runs.items()}, rounds, device, each)


@torch.no_grad()
def measure_pass(
    batch: int, steps: int, hidden: int, inputs: int, rounds: int, device: torch.device, compiles: bool = True
) -> Row:
    """One row: the pass, a copy of as many bytes, a product of as many operations, and the plain step, at one size; on
    a GPU the step also as torch compiles it, unless that may not be waited for."""
    release_memory(device)
    given = PassInputs.draw(batch, steps, hidden, inputs, device)
    given.check()
    source, target = (torch.ones(given.matrix.shape, device=device).split(batch) for _ in range(2))
    # As many operations as all the sums over t together; in its shape the product of the gradient inside the rollout.
    left = torch.randn(K * hidden, steps * batch, device=device)
    right = torch.randn(steps * batch, inputs, device=device)
    product = torch.empty(K * hidden, inputs, device=device)
    gradient, direct = torch.zeros(K, hidden, inputs, device=device), torch.randn(batch, hidden, device=device)

    def step(advance: Advance) -> Run:
        return rotating(
            lambda i: advance(
                given.rows(i), gradient, given.decay[i], given.weighted[i][0], given.inputs[i][0], direct
            ),
            given.sets,
        )

    runs: dict[str, Run] = {
        PASS: rotating(given.run, given.sets),
        COPY: rotating(lambda i: target[i].copy_(source[i]), given.sets),
        PRODUCT: lambda: torch.mm(left, right, out=product),
        PLAIN: step(lean_advance),
    }
    if compiles and (tuned := tuned_advance(device)) is not None:
        runs[FUSED] = step(tuned)
    times = time_runs(runs, dict.fromkeys(runs, given.sets), rounds, device)
    floor = max((COPY, PRODUCT), key=times.median)
    size = 2 * 4 * batch * K * hidden * inputs
    return {
        "B": batch,
        "N": hidden,
        "T": steps,
        "seconds": times.medians(),
        "bytes": size,
        "bytes_per_second": size / times.median(PASS),
        "copy_bytes_per_second": size / times.median(COPY),
        "product_flops_per_second": 2 * steps * batch * K * hidden * inputs / times.median(PRODUCT),
        "share_of_copy": times.ratio(COPY, PASS),
        "floor": floor,
        "share_of_floor": times.ratio(floor, PASS),
        # A rollout of T steps takes T plain steps.
        "plain_steps_over_pass": scaled(times.ratio(PLAIN, PASS), steps),
        "fused_steps_over_pass": scaled(times.ratio(FUSED, PASS), steps),
    }


PASS_COLUMNS = [
    *own_columns("B", "N", "T"),
    Column("pass, ms", lambda row: 1e3 * row["seconds"][PASS], ".3f"),
    Column("MB moved", lambda row: row["bytes"] / 1e6, ".1f"),
    Column("GB/s", lambda row: row["bytes_per_second"] / 1e9, ",.1f"),
    Column("copy, GB/s", lambda row: row["copy_bytes_per_second"] / 1e9, ",.1f"),
    Column("of the copy, %", lambda row: 100 * row["share_of_copy"], ".0f"),
    Column("product, GFlop/s", lambda row: row["product_flops_per_second"] / 1e9, ",.0f"),
    Column("of the floor, %", lambda row: 100 * row["share_of_floor"], ".0f"),
    Column("floor", lambda row: row["floor"]),
    Column("T plain steps / pass", lambda row: row["plain_steps_over_pass"], ".2f"),
    Column("T fused steps / pass", lambda row: row["fused_steps_over_pass"], ".2f"),
]


@torch.no_grad()
def measure_options(batch: int, steps: int, hidden: int, inputs: int, rounds: int, device: torch.device) -> list[Row]:
    """Rows: what storage in bfloat16 and, on a GPU, TF32 change in the pass's speed and in the error of one pass."""
    release_memory(device)
    before = torch.get_float32_matmul_precision()
    runs, errors, sets = {}, {}, {}
    for name, (storage, precision) in options_of(device).items():
        torch.set_float32_matmul_precision(precision)
        given = PassInputs.draw(batch, steps, hidden, inputs, device, storage)
        errors[name] = given.check()

        def run(number: int, given: PassInputs = given, precision: str = precision) -> None:
            torch.set_float32_matmul_precision(precision)
            given.run(number)

        runs[name], sets[name] = rotating(run, given.sets), given.sets
    times = time_runs(runs, sets, rounds, device)
    torch.set_float32_matmul_precision(before)
    first = next(iter(runs))
    return [
        {
            "B": batch,
            "N": hidden,
            "T": steps,
            "option": name,
            "seconds": times.median(name),
            "speed-up": times.ratio(first, name),
            "error_of_term": errors[name][0],
            "error_of_sensitivities": errors[name][1],
        }
        for name in runs
    ]


def options_of(device: torch.device) -> dict[str, tuple[torch.dtype, str]]:
    """Storage of S and precision of matrix products; the default comes first."""
    options = {"float32": (torch.float32, "highest"), "S in bfloat16": (torch.bfloat16, "highest")}
    if device.type == "cuda":
        options |= {"TF32": (torch.float32, "high"), "TF32, S in bfloat16": (torch.bfloat16, "high")}
    return options


OPTION_COLUMNS = [
    *own_columns("B", "N", "T", "option"),
    Column("pass, ms", lambda row: 1e3 * row["seconds"], ".3f"),
    Column("speed-up", lambda row: row["speed-up"], ".2f"),
    Column("error of the boundary term", lambda row: row["error_of_term"], ".1e"),
    Column("error of S", lambda row: row["error_of_sensitivities"], ".1e"),
]


def pass_goals(rows: list[Row], on_gpu: bool) -> list[Goal]:
    """On every device one step at a time must not cost more than a plain step; on a GPU memory sets the pace."""
    goals = []
    if on_gpu:
        for batch, hidden in ((32, 512), (256, 1024)):
            found = [row for row in rows if (row["B"], row["N"], row["T"]) == (batch, hidden, 100)]
            share = found[0]["share_of_copy"] if found else None
            goals.append(Goal(f"pass, B={batch}, N={hidden}, T=100: share of the copy's bandwidth", share, 0.8, True))
    for row in rows:
        if row["T"] == 1:
            size = f"B={row['B']}, N={row['N']}, T=1"
            goals.append(Goal(f"pass, {size}: fused step / pass", row["fused_steps_over_pass"], 1.0, True))
    return goals
