"""Steps a second of processor time where an agent learns after each step, acting and learning in one process.

    python benchmarks/online.py                                      in about 2 minutes
    python benchmarks/online.py --before-python OLD/bin/python       in turn with another version's environment

Every run is `r2ac train memory/chain --num-actors 0`, one thread, from its first step to its last checkpoint. Processor
time matters little to what else runs on the machine; ratios are medians over the rounds of the ratio in a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

SETTINGS = [("stream", 1, 6_000), ("stream", 16, 48_000), ("stream", 64, 128_000), ("td", 1, 6_000)]
"""Algorithm, streams, steps."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before-python", help="the Python of another version's environment, to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for setting in SETTINGS:
        pairs = []
        for _ in range(options.rounds):
            before = steps_per_second(options.before_python, *setting) if options.before_python else float("nan")
            pairs.append((before, steps_per_second(sys.executable, *setting)))
        before, now = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(now / before for before, now in pairs)
        algorithm, streams, _ = setting
        print(
            f"{algorithm:7}{streams:4} streams {before:9,.0f} steps/s before {now:9,.0f} now, ratio {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
