"""Start-up: seconds of ``r2ac train memory/tmaze`` until its first update is made, by part, and of short commands.

    python benchmarks/startup.py                                     in a minute or two
    python benchmarks/startup.py --before-python OLD/bin/python      in turn with another version's environment
    python benchmarks/startup.py -- --algorithm vtrace --num-actors 2    flags of the training

Seconds are the least of the rounds: by the clock, and of the processors, with Ray's processes. On a busy machine only
the latter can be compared.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
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
from startup_child import WHOLE

R2AC = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
COMMANDS = [
    "--version",
    "train --help",
    "train memory/tmaze --help",
    "train memory/tmaze --seed x",
    "envs",
    "reproduce",
]
COMMANDS += ["jobs --help", "plot RUN --output RUN/curves.csv"]
WITHOUT_TORCH_SECONDS = 0.5
Seconds = tuple[float, float]
"""By the clock and of the processors."""


def measure(python: str, commands: Sequence[str], flags: Sequence[str]) -> dict[str, Seconds]:
    """Of the parts of a start and of commands, once each, by a Python."""
    with TemporaryDirectory() as folder:
        run = f"{folder}/run"
        words = ["train", "memory/tmaze", *flags, "--total-steps", "1", "--run-dir", run]
        child = Path(__file__).with_name("startup_child.py")
        made = subprocess.run([python, str(child), *words], capture_output=True, text=True, check=False)
        if made.returncode:
            sys.exit(f"r2ac {shlex.join(words)} by {python} ended with exit code {made.returncode}: {made.stderr}")
        found: dict[str, Seconds] = {
            name: tuple(each) for name, each in json.loads(made.stdout.splitlines()[-1]).items()
        }
        found["import torch"] = of_code(python, "import torch")
        for command in commands:
            found[f"r2ac {command}"] = of_code(python, R2AC, *command.replace("RUN", run).split())
    return found


def of_code(python: str, code: str, *arguments: str) -> Seconds:
    """Of a process that runs it, whatever it exits with: a wrong value is among the commands."""
    before = time.monotonic(), *getrusage(RUSAGE_CHILDREN)[:2]
    subprocess.run([python, "-c", code, *arguments], capture_output=True, check=False)
    after = time.monotonic(), *getrusage(RUSAGE_CHILDREN)[:2]
    clock, *used = (end - start for start, end in zip(before, after, strict=True))
    return clock, sum(used)


def least(rounds: Sequence[dict[str, Seconds]]) -> dict[str, Seconds]:
    """The least of the rounds, each kind of seconds by itself."""
    return {name: (min(each[name][0] for each in rounds), min(each[name][1] for each in rounds)) for name in rounds[0]}


def goals(rows: Sequence[Row]) -> list[Goal]:
    """A start in half of the time; commands without torch at once."""
    whole = next(row for row in rows if row["part"] == WHOLE)
    ratio = whole["processors"] / whole["processors, before"] if "processors, before" in whole else None
    without = [row for row in rows if row["part"].startswith("r2ac ")]
    halved = Goal("until the first update, processors: now over before", ratio, 0.5, False)
    return [halved, *(Goal(row["part"], row["processors"], WITHOUT_TORCH_SECONDS, False) for row in without)]


def draw(figure: Any, figures: Row) -> None:
    """A bar for each part."""
    axes, rows = figure.subplots(), figures["startup"]
    names = [row["part"] for row in rows]
    axes.barh(names, [row["processors"] for row in rows], color=COLOURS[0])
    axes.invert_yaxis()
    axes.set(xlabel="seconds of the processors")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--before-python", help="the Python of an environment with another version of r2ac")
    parser.add_argument("flags", nargs="*", help="of the training, after --")
    options = parser.parse_args(arguments)
    head, rounds = header(open_device(parser, options), options), options.rounds or (1 if options.quick else 5)
    print_header(head, f"the least of {rounds} rounds")
    pythons = {"": sys.executable} | ({", before": options.before_python} if options.before_python else {})
    commands = COMMANDS[:1] if options.quick else COMMANDS
    made: dict[str, list[dict[str, Seconds]]] = {version: [] for version in pythons}
    for _ in range(rounds):
        for version, python in pythons.items():
            made[version].append(measure(python, commands, options.flags))
    found = {version: least(each) for version, each in made.items()}
    rows = [
        {"part": part}
        | {f"clock{version}": each[part][0] for version, each in found.items()}
        | {f"processors{version}": each[part][1] for version, each in found.items()}
        for part in found[""]
    ]
    columns = [Column(name, lambda row, name=name: row[name], ".2f") for name in rows[0] if name != "part"]  # type: ignore[misc]
    print_table("Seconds", [*own_columns("part"), *columns], rows)
    print_goals(goals(rows))
    write_files("startup", options, {**head, "startup": rows}, goals(rows), draw)


if __name__ == "__main__":
    main()
