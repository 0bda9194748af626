"""Start-up: seconds of ``r2ac train memory/tmaze`` until its first update is made, by part, and of short commands.

    python benchmarks/startup.py [--runs 5] [--pythons PYTHON …] [--algorithm vtrace --num-actors 2 …]

The interpreters, such as those of two checkouts, take turns. Seconds are the least of the runs: by the clock, and of
the processors, with Ray's processes. On a busy machine only the latter can be compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pkgutil import resolve_name
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
from typing import Any

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
ENDS = (
    ("settings, environment", "r2ac.launch.train.learn", "make_learner", True),
    ("memory budget, learner", "r2ac.launch.train.learn", "make_learner", False),
    ("start of Ray", "r2ac.launch.train.sources", "connect", False),
    ("actors, metrics files, first rollouts", "r2ac.learner.learner:Learner", "update", True),
    ("first update", "r2ac.learner.learner:Learner", "update", False),
)
"""The parts after the imports, in their order: each ends where a function first begins (True) or returns."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pythons", nargs="+", default=[sys.executable])
    own, flags = parser.parse_known_args()
    least: dict[str, dict[str, list[float]]] = {}
    for python in own.pythons * own.runs:
        with TemporaryDirectory() as run:
            words = ["--child", "train", "memory/tmaze", *flags, "--total-steps", "1", "--run-dir", f"{run}/run"]
            made = subprocess.run([python, __file__, *words], capture_output=True, text=True, check=True)
            rows = json.loads(made.stdout.splitlines()[-1])
            calls = {f"`r2ac {each}`": [R2AC, *each.replace("RUN", f"{run}/run").split()] for each in COMMANDS}
            for name, code in {"`import torch`": ["import torch"], **calls}.items():
                before = time.monotonic(), *getrusage(RUSAGE_CHILDREN)[:2]
                subprocess.run([python, "-c", *code], capture_output=True, check=False)
                after = time.monotonic(), *getrusage(RUSAGE_CHILDREN)[:2]
                clock, *used = (end - start for start, end in zip(before, after, strict=True))
                rows[name] = clock, sum(used)
        for name, found in rows.items():
            here = least.setdefault(name, {})
            here[python] = [min(pair) for pair in zip(here.get(python, found), found, strict=True)]
    print("| |" + " seconds | of processors |" * len(own.pythons) + "\n|---|" + "--:|--:|" * len(own.pythons))
    for name, of in least.items():
        print(f"| {name} |", *(f"{seconds:.2f} |" for each in of.values() for seconds in each))


def child() -> None:
    """Train; the last line on standard output has the seconds of each part."""
    import psutil  # type: ignore[import-untyped]

    own, parts = psutil.Process(), dict[str, list[float]]()

    def end(part: str) -> None:
        others = sum(sum(each.cpu_times()[:2]) for each in own.children(recursive=True))
        total = time.time() - own.create_time(), time.process_time() + others
        if part not in parts:
            parts[part] = [now - sum(before) for now, *before in zip(total, *parts.values(), strict=True)]

    def watch(part: str, owner: Any, name: str, begins: bool) -> None:
        inner = getattr(owner, name)

        def outer(*given: Any, **named: Any) -> Any:
            if begins:
                end(part)
            result = inner(*given, **named)
            end(part)
            return result

        setattr(owner, name, outer)

    command = resolve_name("r2ac.launch.commands.train")
    end("imports of the command line")
    # As the command does it.
    getattr(command, "_start", lambda: resolve_name("r2ac.launch.train.start"))()
    end("imports of the training, with torch")
    for part, owner, name, begins in ENDS:
        watch(part, resolve_name(owner), name, begins)
    resolve_name("r2ac.launch.cli:main")(sys.argv[2:])
    print(json.dumps(parts | {"**until the first update**": [sum(each) for each in zip(*parts.values(), strict=True)]}))


if __name__ == "__main__":
    child() if sys.argv[1:2] == ["--child"] else main()
