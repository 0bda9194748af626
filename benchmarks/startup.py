"""Start-up: seconds of ``r2ac train memory/tmaze`` until its first update is made, by part, and of other commands.

    python benchmarks/startup.py [--runs 5] [--pythons PYTHON …] [--algorithm vtrace --num-actors 2 …]

The interpreters, such as those of two checkouts, take turns. Seconds are the least of the runs: by the clock, and of
the processors, those of Ray's processes with them. On a busy machine only the latter can be compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

COMMANDS = (
    "--version",
    "train --help",
    "train memory/tmaze --help",
    "train memory/tmaze --seed x",
    "envs",
    "jobs --help",
)
COMMANDS += ("envs memory/tmaze", "reproduce", "plot {run} --output {run}/curves.csv", "report {run}")
ENDS = (
    ("settings and environment", "launch.train.learn", "make_learner", "begins"),
    ("memory budget and learner", "launch.train.learn", "make_learner", "ends"),
    ("start of Ray", "launch.train.sources", "connect", "ends"),
    ("metrics files, actors, first rollouts", "learner.learner:Learner", "update", "begins"),
    ("first update", "learner.learner:Learner", "update", "ends"),
)
"""The parts after the imports in their order: each ends where a function first begins or ends."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pythons", nargs="+", default=[sys.executable])
    own, flags = parser.parse_known_args()
    least: dict[str, dict[str, list[float]]] = {}
    for python in own.pythons * own.runs:
        with TemporaryDirectory() as folder:
            run = f"{folder}/run"
            words = ("train", "memory/tmaze", *flags, "--total-steps", "1", "--run-dir", run)
            rows = json.loads(call(python, __file__, "--child", *words)[1].splitlines()[-1])
            for command in COMMANDS:
                code = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
                rows[f"`r2ac {command.format(run='RUN')}`"], _ = call(
                    python, "-c", code, *command.format(run=run).split()
                )
        for name, seconds in rows.items():
            best = least.setdefault(name, {}).get(python, seconds)
            least[name][python] = list(map(min, best, seconds))
    print("| |" + " seconds | of processors |" * len(own.pythons) + "\n|---|" + "--:|--:|" * len(own.pythons))
    for name, found in least.items():
        print(f"| {name} |", *(f"{seconds:.2f} |" for each in found.values() for seconds in each))


def call(*command: str) -> tuple[list[float], str]:
    """Seconds by the clock and of the processors that a command took, and its standard output."""
    used = [time.monotonic(), *resource.getrusage(resource.RUSAGE_CHILDREN)[:2]]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    clock, user, system = (
        b - a for a, b in zip(used, [time.monotonic(), *resource.getrusage(resource.RUSAGE_CHILDREN)[:2]], strict=True)
    )
    return [clock, user + system], output


def child(words: Sequence[str]) -> None:
    """Train; the last line on standard output has the seconds of each part."""
    import psutil

    own, parts = psutil.Process(), dict[str, list[float]]()

    def end(part: str) -> None:
        if part not in parts:
            others = sum(sum(each.cpu_times()[:2]) for each in own.children(recursive=True))
            used = [time.time() - own.create_time(), time.process_time() + others]
            parts[part] = [now - sum(before) for now, *before in zip(used, *parts.values(), strict=True)]

    def watch(part: str, place: str, name: str, when: str) -> None:
        module, _, kind = place.partition(":")
        owner: Any = importlib.import_module(f"r2ac.{module}")
        owner = getattr(owner, kind) if kind else owner
        inner = getattr(owner, name)

        def outer(*given: Any, **named: Any) -> Any:
            if when == "begins":
                end(part)
            result = inner(*given, **named)
            if when == "ends":
                end(part)
            return result

        setattr(owner, name, outer)

    importlib.import_module("torch")
    end("import of torch")
    importlib.import_module("r2ac.launch.train.start")
    end("other imports")
    for row in ENDS:
        watch(*row)
    importlib.import_module("r2ac.launch.cli").main(words)
    print(json.dumps(parts | {"**until the first update**": list(map(sum, zip(*parts.values(), strict=True)))}))


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
