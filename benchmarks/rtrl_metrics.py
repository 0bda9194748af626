"""What measuring RTRL's part of the gradient costs: updates with ``rtrl/*`` metrics over updates without.

    python benchmarks/rtrl_metrics.py            the T-maze's small network and the paper's ProcGen, about 3 minutes

An update is all of ``Learner.update``. Ratios are medians over blocks of 20 updates in turns, in which the measured
updates come as often as in training (``--rtrl-metrics-every``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import _path  # noqa: F401
import torch
from learner_update import PRESETS, QUICK, Preset, Update
from measure import Run, take_turns
from methods import RTRL
from report import (
    Column,
    Goal,
    Row,
    header,
    make_parser,
    open_device,
    own_columns,
    print_goals,
    print_header,
    print_table,
    write_files,
)

from r2ac.learner import LearnerConfig

BLOCK = 20
CASES = {"tmaze": (Preset((4,), 64, 2, 1, 10, (10,)), 16), "procgen": (PRESETS["procgen"], 32)}
QUICK_CASES = {"tmaze": (Preset((4,), 8, 2, 1, 3, (3,)), 2), "procgen": (QUICK["procgen"], 2)}
ON, OFF = "measured", "not measured"


def measure_case(name: str, preset: Preset, batch: int, rounds: int, every: int, device: torch.device) -> Row:
    """One row: blocks of updates with and without the metrics, in turns."""
    configs = {ON: LearnerConfig(rtrl_metrics_every=every), OFF: LearnerConfig(rtrl_metrics_every=0)}
    updates = {key: Update(RTRL, preset, preset.length, batch, config, device) for key, config in configs.items()}

    def block(update: Update) -> Run:
        def run() -> None:
            for _ in range(BLOCK):
                update()

        return run

    runs = {key: block(update) for key, update in updates.items()}
    for run in runs.values():
        run()
    times = take_turns(runs, rounds, device, dict.fromkeys(runs, BLOCK))
    return {
        "task": name,
        "N": preset.hidden,
        "T": preset.length,
        "B": batch,
        "seconds": times.medians(),
        "ratio": times.ratio(ON, OFF),
    }


COLUMNS = [
    *own_columns("task", "N", "T", "B"),
    Column("without, ms", lambda row: 1e3 * row["seconds"][OFF], ",.3f"),
    Column("with, ms", lambda row: 1e3 * row["seconds"][ON], ",.3f"),
    Column("with over without", lambda row: row["ratio"], ".3f"),
]


def draw(figure: Any, figures: Row) -> None:
    """A bar for each task."""
    axes = figure.subplots()
    rows = figures["update"]
    axes.bar([row["task"] for row in rows], [100 * (row["ratio"] - 1) for row in rows])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="more time for an update, %")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--every", type=int, default=20, help="one update in so many is measured; 20 by default")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args(arguments)
    device = open_device(parser, options)
    head, cases = header(device, options), QUICK_CASES if options.quick else CASES
    rounds = options.rounds or (2 if options.quick else 20)
    print_header(head, f"{rounds} rounds of {BLOCK} updates, one in {options.every} measured")
    rows = []
    for name in options.cases:
        preset, batch = cases[name]
        # An update with convolutions takes seconds on a CPU.
        slow = device.type == "cpu" and len(preset.image) == 3 and not options.quick
        rows.append(measure_case(name, preset, batch, min(rounds, 3) if slow else rounds, options.every, device))
    print_table("What the rtrl metrics cost", COLUMNS, rows)
    goals = [Goal(f"update, {row['task']}: with metrics over without", row["ratio"], 1.01, False) for row in rows]
    print_goals(goals)
    write_files("rtrl_metrics", options, {**head, "every": options.every, "update": rows}, goals, draw)


if __name__ == "__main__":
    main()
