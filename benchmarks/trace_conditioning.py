"""How well the newest checkpoints of runs on memory/trace_conditioning predict the return.

    python benchmarks/trace_conditioning.py RUN ...

For each run it prints the mean squared return error of the values, by the discount of the run, beside that of one
constant, the mean return: over 10,000 steps of 16 streams of split test, in this process, on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _path  # noqa: F401

from r2ac.launch.evaluation.prediction import prediction_errors
from r2ac.launch.runs.loading import TrainedAgent

TASK = "memory/trace_conditioning"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs or checkpoints")
    parser.add_argument("--steps", type=int, default=10_000, help="of each stream")
    parser.add_argument("--streams", type=int, default=16)
    options = parser.parse_args(arguments)
    for path in options.runs:
        try:
            trained = TrainedAgent.load(path)
            if trained.training.task != TASK:
                raise ValueError(f"{path} was trained on {trained.training.task}, not on {TASK}")
            error, of_constant = prediction_errors(trained, options.steps, options.streams)
        except (ValueError, RuntimeError) as failure:
            parser.error(str(failure))
        label = f"{trained.label}, {trained.env_steps:,} steps, discount {trained.training.learner.discount}"
        print(f"{label}: error {error:.5f}, of the mean return {of_constant:.5f}", flush=True)


if __name__ == "__main__":
    main()
