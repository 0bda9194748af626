"""Steps a second of processor time where an agent learns after each step, acting and learning in one process.

    python benchmarks/online.py                                      in about 2 minutes
    python benchmarks/online.py --before-python OLD/bin/python       in turn with another version's environment

Every run is `r2ac train memory/chain --num-actors 0`, one thread, from its first step to its last checkpoint. Processor
time matters little to what else runs on the machine; ratios are medians over the rounds of the ratio in a round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import _path  # noqa: F401
from report import (
    COLOURS,
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

SETTINGS = [("stream", 1, 6_000), ("stream", 16, 48_000), ("stream", 64, 128_000), ("td", 1, 6_000)]
"""Algorithm, streams, steps."""
GOALS = {("stream", 1): 1_500, ("stream", 64): 8_000}
"""Steps a second, by algorithm and streams."""
RUN = """
import sys, tempfile, time
from r2ac.launch.cli import main
from r2ac.launch.train.loop import TrainingLoop

loop = TrainingLoop.loop

def timed(self, stop_requested):
    began = time.process_time()
    summary = loop(self, stop_requested)
    print("per second:", self._learner.env_steps / (time.process_time() - began))
    return summary

TrainingLoop.loop = timed
with tempfile.TemporaryDirectory() as folder:
    main(["train", *sys.argv[1:], "--run-dir", folder + "/run"])
"""


def steps_per_second(python: str, algorithm: str, streams: int, steps: int) -> float:
    """Of one run, by this Python."""
    flags = f"memory/chain --num-actors 0 --log-steps 1000000 --algorithm {algorithm}".split()
    sizes = ["--streams-per-actor", str(streams), "--total-steps", str(steps)]
    command = [python, "-c", RUN, *flags, *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("per second:"))
    return float(line.split()[-1])


def measure(setting: tuple[str, int, int], rounds: int, before_python: str | None) -> Row:
    """A row: medians of the rounds; ``before`` and ``ratio`` are None without another Python."""
    pairs = []
    for _ in range(rounds):
        before = None if before_python is None else steps_per_second(before_python, *setting)
        pairs.append((before, steps_per_second(sys.executable, *setting)))
    compared = [(before, now) for before, now in pairs if before is not None]
    algorithm, streams, _ = setting
    return {
        "algorithm": algorithm,
        "streams": streams,
        "now": statistics.median(now for _, now in pairs),
        "before": statistics.median(before for before, _ in compared) if compared else None,
        "ratio": statistics.median(now / before for before, now in compared) if compared else None,
        "rounds": [now for _, now in pairs],
    }


COLUMNS = [
    *own_columns("algorithm", "streams"),
    Column("steps/s before", lambda row: row["before"], ",.0f"),
    Column("steps/s now", lambda row: row["now"], ",.0f"),
    Column("ratio", lambda row: row["ratio"], ".2f"),
]


def draw(figure: Any, figures: Row) -> None:
    """A bar for each setting."""
    axes, rows = figure.subplots(), figures["online"]
    axes.bar(
        [f"{row['algorithm']}, {row['streams']} streams" for row in rows],
        [row["now"] for row in rows],
        color=COLOURS[0],
    )
    axes.set(ylabel="steps a processor second", yscale="log")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--before-python", help="the Python of an environment with another version of r2ac")
    options = parser.parse_args(arguments)
    head, rounds = header(open_device(parser, options), options), options.rounds or (1 if options.quick else 3)
    print_header(head, f"{rounds} rounds")
    settings = [("stream", 2, 100)] if options.quick else SETTINGS
    rows = [measure(setting, rounds, options.before_python) for setting in settings]
    print_table("Steps for each second of processor time", COLUMNS, rows)
    of = {(row["algorithm"], row["streams"]): row["now"] for row in rows}
    goals = [
        Goal(f"{name}, {streams} streams", of.get((name, streams)), bound, True)
        for (name, streams), bound in GOALS.items()
    ]
    print_goals(goals)
    write_files("online", options, {**head, "online": rows}, goals, draw)


if __name__ == "__main__":
    main()
