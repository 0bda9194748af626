"""What each cell's core costs beside the eLSTM's: forward, backward and sensitivities of a rollout, by exact RTRL.

    python benchmarks/cells.py                        every cell at T = 10 and 50, in about 3 minutes on 2 CPU cores
    python benchmarks/cells.py --sizes 64x64 --inputs 16 --steps 10        a small network of the memory tasks
    python benchmarks/cells.py --updates 8            the learner's whole update of memory/tmaze, in 8 rounds

Cores are without an output gate. All take turns in one run; ratios are medians of those within a round. A unit of a
pair counts as two numbers of state, and each number has K sensitivities for every input and unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import _path  # noqa: F401
import torch
from core_table import CoreCase
from measure import release_memory, sets_beyond_cache, take_turns
from methods import RTRL
from report import (
    Column,
    Goal,
    Row,
    count,
    header,
    make_parser,
    open_device,
    own_columns,
    print_goals,
    print_header,
    print_table,
    write_files,
)
from sensitivity import size

from r2ac.agents import Recurrent
from r2ac.kernels import CELLS

BESIDE = "elstm"
CHRONO = 100
GOAL = 1.3


def measure_cells(batch: int, hidden: int, steps: int, inputs: int, rounds: int, device: torch.device) -> list[Row]:
    """One row for each cell, at one size."""
    release_memory(device)
    sets = sets_beyond_cache(4 * batch * hidden * inputs, device)
    torch.manual_seed(0)
    cases = {}
    for name in CELLS:
        core = Recurrent(name, inputs, hidden, chrono_steps=CHRONO, output_gate=False).to(device)
        cases[name] = CoreCase(RTRL, core, batch, steps, hidden, inputs, sets, gate=False)
        cases[name]()
    times = take_turns(cases, rounds, device)
    rows = []
    for name, cell in CELLS.items():
        ratio = times.ratio(name, BESIDE) or 0
        sensitivities = cell.parts * cell.gates / CELLS[BESIDE].gates
        rows.append(
            {"B": batch, "N": hidden, "D": inputs, "T": steps, "cell": name, "parts": cell.parts, "gates": cell.gates}
            | {"seconds": times.median(name), "per_state": ratio / cell.parts, "per_sensitivity": ratio / sensitivities}
        )
    return rows


COLUMNS = [
    *own_columns("B", "N", "T", "cell", "parts", "gates"),
    Column("ms", lambda row: 1e3 * row["seconds"], ",.2f"),
    Column("per number of state, over the eLSTM's", lambda row: row["per_state"], ".2f"),
    Column("per sensitivity, over the eLSTM's", lambda row: row["per_sensitivity"], ".2f"),
]


UPDATED = (BESIDE, "lru", "rotation", "mingru", "mixed:elstm+lru")


def print_updates(rounds: int) -> None:
    """Processor milliseconds of an update of memory/tmaze by V-trace, by RTRL and TBPTT; all take turns."""
    # Here, because it needs all of r2ac where the other measurements need its kernels and agents.
    from processes import bare

    spent: dict[tuple[str, str], list[float]] = {(core, by): [] for core in UPDATED for by in ("rtrl", "tbptt")}
    for _ in range(rounds):
        for (core, by), times in spent.items():
            times.append(bare(by, core, updates=40))

    def ratio(over: list[float], under: list[float]) -> float:
        return median(mine / other for mine, other in zip(over, under, strict=True))

    beside = spent[BESIDE, "rtrl"]
    rows = [
        {"core": core, "rtrl": median(rtrl), "tbptt": median(tbptt)}
        | {"over": ratio(rtrl, tbptt), "beside": ratio(rtrl, beside)}
        for core in UPDATED
        for rtrl, tbptt in [(spent[core, "rtrl"], spent[core, "tbptt"])]
    ]
    columns = [
        *own_columns("core"),
        Column("RTRL, ms", lambda row: row["rtrl"], ".2f"),
        Column("TBPTT, ms", lambda row: row["tbptt"], ".2f"),
        Column("RTRL over TBPTT", lambda row: row["over"], ".2f"),
        Column("RTRL over the eLSTM's", lambda row: row["beside"], ".2f"),
    ]
    print_table("An update of memory/tmaze", columns, rows)


def draw(figure: Any, figures: Row) -> None:
    """Bars of the cells for each size; the dashed line is the goal."""
    axes, rows = figure.subplots(), figures["cells"]
    sizes = list(dict.fromkeys((row["B"], row["N"], row["T"]) for row in rows))
    for number, at in enumerate(sizes):
        ratios = [row["per_state"] for row in rows if (row["B"], row["N"], row["T"]) == at]
        places = [place + 0.8 * number / len(sizes) for place in range(len(CELLS))]
        axes.bar(places, ratios, 0.8 / len(sizes), align="edge", label="B={}, N={}, T={}".format(*at))
    axes.set_xticks([place + 0.4 for place in range(len(CELLS))], list(CELLS), rotation=30)
    axes.axhline(GOAL, color="grey", linestyle="--", linewidth=0.8)
    axes.set(ylabel="time per number of state over the eLSTM's")
    axes.legend()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=size, nargs="+", metavar="BxN", help="streams and units; 32x256 by default")
    parser.add_argument("--steps", type=count, nargs="+", metavar="T", help="lengths of a rollout; 10 and 50")
    parser.add_argument("--inputs", type=count, metavar="D", help="inputs of the core; 257")
    parser.add_argument("--updates", type=count, metavar="ROUNDS", help="measure whole updates instead, on a CPU")
    options = parser.parse_args(arguments)
    if options.updates is not None:
        print_updates(options.updates)
        return
    device = open_device(parser, options)
    defaults = ([(3, 8)], [1, 3], 5, 2) if options.quick else ([(32, 256)], [10, 50], 257, 12)
    given = options.sizes, options.steps, options.inputs, options.rounds
    sizes, lengths, inputs, rounds = (mine or other for mine, other in zip(given, defaults, strict=True))
    head = header(device, options)
    print_header(head, f"D={inputs}, {rounds} rounds")
    rows = [
        row
        for batch, hidden in sizes
        for steps in lengths
        for row in measure_cells(batch, hidden, steps, inputs, rounds, device)
    ]
    print_table("The cores of the cells, by RTRL", COLUMNS, rows)
    goals = [
        Goal(f"{row['cell']}, T={row['T']}: per number of state over the eLSTM's", row["per_state"], GOAL, False)
        for row in rows
        if row["cell"] != BESIDE
    ]
    print_goals(goals)
    write_files("cells", options, {**head, "D": inputs, "rounds": rounds, "cells": rows}, goals, draw)


if __name__ == "__main__":
    main()
