"""What exact RTRL costs in the core: the pass over the sensitivities, the recurrence, the core with its output gate.

    python benchmarks/sensitivity.py              the tables and the plot, in about 10 minutes on 2 CPU cores
    python benchmarks/sensitivity.py --sweep      on a GPU: also many ways to cut the pass into programs

Needs torch with NumPy, and triton on a GPU; the plot needs matplotlib, and is left out without it. Every method is
compared with an exact one before it is timed. Everything is float32 unless it says otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import _path  # noqa: F401
import torch
from core_table import core_columns, core_goals, measure_core
from pass_table import OPTION_COLUMNS, PASS_COLUMNS, measure_options, measure_pass, pass_goals
from precision_error import BATCH, CHRONO, HIDDEN, STEPS, measure_rounding, rounding_columns
from report import (
    COLOURS,
    Row,
    count,
    header,
    make_parser,
    open_device,
    print_goals,
    print_header,
    print_table,
    write_files,
)
from sweep import SWEEP_COLUMNS, measure_sweep

DEFAULTS = {
    "cpu": {"sizes": [(32, 256), (32, 512)], "steps": [1, 10, 50, 100], "rounds": 24, "rollouts": [1, 10, 100]},
    "cuda": {
        "sizes": [(32, 256), (32, 512), (256, 1024)],
        "steps": [1, 10, 50, 100],
        "rounds": 20,
        "rollouts": [1, 10, 100],
    },
    "quick": {"sizes": [(4, 32)], "steps": [1, 5], "rounds": 2, "rollouts": [1, 2]},
}
SWEEP_ROUNDS = 3


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, torch.device]:
    """The arguments, with the defaults of the device where nothing was said."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=size, nargs="+", metavar="BxN", help="streams and units, such as 32x512")
    parser.add_argument("--steps", type=count, nargs="+", metavar="T", help="lengths of a rollout")
    parser.add_argument("--inputs", type=count, default=257, metavar="D", help="inputs of the core")
    parser.add_argument("--rollouts", type=count, nargs="+", help="after which to tell the error of the gradient")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="on a GPU: try many ways to cut the pass, at the first and last T (minutes)",
    )
    options = parser.parse_args(arguments)
    device = open_device(parser, options)
    if options.sweep and header(device, options)["kernels"] != "triton":
        parser.error("--sweep needs a GPU with the Triton kernels")
    for name, value in DEFAULTS["quick" if options.quick else device.type].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options, device


def size(text: str) -> tuple[int, int]:
    """B and N of ``BxN``."""
    batch, _, hidden = text.partition("x")
    return count(batch), count(hidden)


def measure(options: argparse.Namespace, device: torch.device) -> Row:
    """All tables, each printed as soon as it is there."""
    grid = [(batch, steps, hidden) for batch, hidden in options.sizes for steps in options.steps]
    figures: Row = {}

    figures["pass"] = [measure_pass(*at, options.inputs, options.rounds, device) for at in grid]
    print_table("The pass over the sensitivities", PASS_COLUMNS, figures["pass"], PASS_NOTE)
    longest = [at for at in grid if at[1] == max(options.steps)]
    figures["options"] = [row for at in longest for row in measure_options(*at, options.inputs, options.rounds, device)]
    print_table("Storage and precision: one pass", OPTION_COLUMNS, figures["options"])
    figures["rounding"] = measure_rounding(options.rollouts, device)
    columns = rounding_columns(options.rollouts)
    print_table("Storage and precision: the gradient after many rollouts", columns, figures["rounding"], ROUNDING_NOTE)
    for name, title in (("recurrence", "The recurrence alone"), ("core", "The core with its output gate")):
        figures[name] = [measure_core(*at, options.inputs, options.rounds, device, name == "core") for at in grid]
        print_table(title, core_columns("plain"), figures[name], CORE_NOTE)
        if device.type == "cuda":
            print_table(f"{title}, every method as a CUDA graph", core_columns("graph"), figures[name])
    if options.sweep:
        ends = [at for at in grid if at[1] in (min(options.steps), max(options.steps))]
        figures["sweep"] = [measure_sweep(*at, options.inputs, SWEEP_ROUNDS, device) for at in ends]
        best = [row for table in figures["sweep"] for row in table if row["rank"] <= 5 or row["own"]]
        print_table("Ways to cut the pass: the five fastest and the kernel's own", SWEEP_COLUMNS, best)
    return figures


PASS_NOTE = """A pass reads S once and writes it once, 2*4*K*B*N*D bytes; "copy" is torch's copy of as many bytes, and
"product" one of torch's matrix products with as many operations as the sums over t, 2*T*B*K*N*D; the floor is the
slower of the two. A plain step advances S by one step, in place, and contracts it; a fused step does so in its faster
form, compiled on a GPU, stream by stream on a CPU. In place a CPU can be faster than its copy, for which it also reads
what it writes over."""
ROUNDING_NOTE = f"""Relative L2 error, against float64, of the n-th rollout's gradient by the recurrent parameters,
which stand still; B={BATCH}, N={HIDDEN}, T={STEPS}, no resets, forget gates of time scales up to {CHRONO} steps."""
CORE_NOTE = """Forward, backward and, for RTRL, sensitivities. In brackets the most memory held at a time above what
stays, such as S. Speed-up: how many times the rollout at a time is faster than step by step; over TBPTT, over LSTM,
over a copy of S: how many times as long it takes. The LSTM is another cell: fully recurrent, without resets inside a
rollout, and its output gate is always in it."""


def draw(figure: Any, figures: Row) -> None:
    """Share of the copy's bandwidth, speed-up over step by step, cost over TBPTT, each over the rollout's length; what
    the dashed lines tell is all of the bandwidth, no gain, and the goal."""
    lengths = sorted({row["T"] for row in figures["recurrence"]})
    form = "graph" if "graph" in figures["recurrence"][0] else "plain"
    how = " (CUDA graphs)" if form == "graph" else ""

    def of_core(name: str) -> Any:
        return lambda row: (row if form == "plain" else row["graph"])["ratios"][name]

    panels = (
        ("pass", "pass: % of the copy's bandwidth", lambda row: 100 * row["share_of_copy"], 100),
        ("recurrence", "recurrence: times faster than step by step", of_core("speed-up"), 1),
        ("recurrence", "recurrence: RTRL over TBPTT", of_core("over TBPTT"), 1.5),
    )
    for axes, (table, label, value, goal) in zip(figure.subplots(1, 3), panels, strict=True):
        sizes = list(dict.fromkeys((row["B"], row["N"]) for row in figures[table]))
        for (batch, hidden), colour in zip(sizes, COLOURS * len(sizes), strict=False):
            rows = [row for row in figures[table] if (row["B"], row["N"]) == (batch, hidden)]
            points = [(row["T"], value(row)) for row in rows if value(row) is not None]
            axes.plot(
                [t for t, _ in points], [y for _, y in points], "o-", color=colour, label=f"B={batch}, N={hidden}"
            )
        axes.axhline(goal, color="grey", linestyle="--", linewidth=0.8)
        axes.set(xlabel="T, steps of a rollout", ylabel=label + how, xscale="log")
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options, device = parse(arguments)
    head = header(device, options)
    print_header(head, f"D={options.inputs}, {options.rounds} rounds")
    figures = {**head, "D": options.inputs, "rounds": options.rounds, **measure(options, device)}
    on_gpu = device.type == "cuda"
    cores = (("recurrence", "recurrence"), ("core with output gate", "core"))
    goals = pass_goals(figures["pass"], on_gpu)
    goals += [goal for name, table in cores for goal in core_goals(name, figures[table], on_gpu)]
    print_goals(goals)
    write_files("sensitivity", options, figures, goals, draw)


if __name__ == "__main__":
    main()
