"""A learning rate from a range that was chosen badly: population based training against random search.

    python benchmarks/pbt.py                   memory/tmaze with a short corridor, 3 sweep seeds, some fifteen minutes
    python benchmarks/pbt.py --quick           a check of the benchmark itself

Both are `r2ac sweep` with the same first draws, the same number of trials and the same steps. Every rate of the range
is too low to solve the task within the budget; the population may leave the range, up to --highest. Of each sweep the
trial with the best score is evaluated on episodes that no training has seen: 0.5 is chance, 1 is best.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import numpy as np
from report import (
    COLOURS,
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
from throughput_system import R2AC

from r2ac.launch.runs.metrics import read_metrics

RANDOM, POPULATION = "random search", "population"
SOLVED = 0.95
CURVE_POINTS = 50


def command(options: Any, seed: int, way: str, folder: Path) -> list[str]:
    """The sweep as a user would give it."""
    low, high = options.rates
    flags = {
        "num-actors": 0,
        "corridor-length": options.corridor,
        "chrono-steps": options.chrono,
        "total-steps": options.steps,
        "log-steps": max(1, options.steps // 200),
        "vary": f"learning-rate=loguniform({low:g},{high:g})",
        "trials": options.members,
        "sweep-seed": seed,
        "sweep-dir": folder,
    }
    if way == POPULATION:
        flags |= {"scheduler": "pbt", "perturb-every": options.perturb_every}
        flags |= {"perturb-factor": options.factor, "resample": 0}
        flags |= {"bounds": f"learning-rate={low:g},{options.highest:g}"}
    return [
        *R2AC,
        "sweep",
        "memory/tmaze",
        *("--algorithm", "vtrace"),
        *(word for name, value in flags.items() for word in (f"--{name}", str(value))),
    ]


def run(words: Sequence[str]) -> float:
    """Seconds that the command took; ends the benchmark where it fails."""
    began = time.monotonic()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[3:])} ended with exit code {done.returncode}:\n{done.stdout[-3000:]}")
    return time.monotonic() - began


def sweep(options: Any, seed: int, way: str, folder: Path) -> Row:
    """One sweep, its best trial evaluated, and the curves of all."""
    seconds = run(command(options, seed, way, folder))
    trials = json.loads((folder / "sweep.json").read_text())["trials"]
    ranked = sorted((t for t in trials if t["score"] is not None), key=lambda trial: -trial["score"])
    best = folder / ranked[0]["name"]
    run([*R2AC, "evaluate", str(best), "--episodes", str(options.episodes), "--seeds", "3"])
    return {
        "sweep seed": seed,
        "way": way,
        "first_rates": [trial["settings"]["learning-rate"] for trial in trials],
        "last_rates": [trial["last_settings"]["learning-rate"] for trial in trials],
        "scores": [trial["score"] for trial in trials],
        "copies": sum(trial["copies"] for trial in trials),
        "steps": sum(trial["env_steps"] for trial in trials),
        "seconds": seconds,
        "success": success_of(best),
        "curves": [curve_of(folder / trial["name"]) for trial in trials],
    }


def success_of(run_dir: Path) -> float:
    """Mean return of the evaluation's episodes: a return is 1 for the right turn and 0 for the wrong one."""
    (result,) = json.loads((run_dir / "evaluation.json").read_text())["results"]
    return float(result["mean_return"])


def curve_of(run_dir: Path) -> Row:
    """Steps, success and learning rate before its decay, of a training."""
    lines = [line for line in read_metrics(run_dir) if line.get("episode_return") is not None]
    lines = lines[:: max(1, len(lines) // CURVE_POINTS)]
    total = json.loads((run_dir / "config.json").read_text())["total_steps"]
    left = [max(1 - line["env_steps"] / total, 1e-9) for line in lines]
    rates = [
        line.get("population/learning_rate") or line["learner/learning_rate"] / rest
        for line, rest in zip(lines, left, strict=True)
    ]
    return {
        "steps": [line["env_steps"] for line in lines],
        "success": [line["episode_return"] for line in lines],
        "rate": rates,
    }


COLUMNS = [
    *own_columns("sweep seed", "way"),
    Column("highest first rate", lambda row: max(row["first_rates"]), ".1e"),
    Column("highest last rate", lambda row: max(row["last_rates"]), ".1e"),
    *own_columns("copies"),
    Column("steps of all", lambda row: row["steps"], ","),
    Column("success of the best, evaluated", lambda row: row["success"], ".3f"),
    Column("best score", lambda row: max(row["scores"]), ".3f"),
    Column("trials above 0.95", lambda row: sum(score >= SOLVED for score in row["scores"])),
    Column("seconds", lambda row: row["seconds"], ",.0f"),
]


def draw(figure: Any, figures: Row) -> None:
    """Success and learning rate of every trial of the first sweep seed, over its steps."""
    success, rate = figure.subplots(1, 2)
    first = figures["sweeps"][0]["sweep seed"]
    for colour, row in zip(COLOURS, (r for r in figures["sweeps"] if r["sweep seed"] == first), strict=False):
        for i, curve in enumerate(row["curves"]):
            style = {"color": colour, "linewidth": 0.8, "label": row["way"] if i == 0 else None}
            width = max(1, len(curve["success"]) // 20)
            smooth = np.convolve(curve["success"], np.ones(width) / width, mode="valid")
            success.plot(curve["steps"][width - 1 :], smooth, **style)
            rate.plot(curve["steps"], curve["rate"], **style)
    success.set(xlabel="environment steps of a trial", ylabel="success", ylim=(0.4, 1.02))
    rate.set(xlabel="environment steps of a trial", ylabel="learning rate before its decay", yscale="log")
    success.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweep, evaluate, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--members", type=count, help="trials of a sweep")
    parser.add_argument("--steps", type=count, help="environment steps of a trial")
    parser.add_argument("--sweep-seeds", type=count, help="how many, from 1 on")
    parser.add_argument("--corridor", type=count, default=5, help="length of the T-maze's corridor")
    parser.add_argument("--chrono", type=count, default=15, help="longest time scale of the memory")
    parser.add_argument("--rates", type=float, nargs=2, default=(1e-5, 5e-4), help="the range of the first draws")
    parser.add_argument("--highest", type=float, default=0.1, help="how far the population may go")
    parser.add_argument("--factor", type=float, default=2.0, help="by which a member changes its rate")
    options = parser.parse_args(arguments)
    device = open_device(parser, options)
    small = options.quick
    options.members = options.members or (4 if small else 8)
    options.steps = options.steps or (4000 if small else 600_000)
    options.perturb_every = max(1, options.steps // (2 if small else 20))
    options.episodes = 5 if small else 200
    seeds = range(1, (options.sweep_seeds or (1 if small else 3)) + 1)
    head = header(device, options)
    low, high = options.rates
    print_header(head, f"memory/tmaze, corridor {options.corridor}, rates {low:g} to {high:g}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="r2ac-pbt-") as folder:
        for seed in seeds:
            rows += [
                sweep(options, seed, way, Path(folder) / f"{way.split()[0]}-{seed}") for way in (RANDOM, POPULATION)
            ]
            print_table(f"Sweep seed {seed}", COLUMNS, rows[-2:])
    by_way = {way: [row["success"] for row in rows if row["way"] == way] for way in (RANDOM, POPULATION)}
    goals = [
        Goal("success of the population, least of the sweep seeds", min(by_way[POPULATION]), SOLVED, True),
        Goal("success of random search, most of the sweep seeds", max(by_way[RANDOM]), SOLVED, False),
    ]
    print_goals(goals)
    names = ("members", "steps", "perturb_every", "corridor", "chrono", "rates", "highest", "factor")
    settings = {name: getattr(options, name) for name in names}
    write_files("pbt", options, {**head, "settings": settings, "sweeps": rows}, goals, draw)


if __name__ == "__main__":
    main()
