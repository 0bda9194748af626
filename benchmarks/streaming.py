"""Learning after every step, beside the published grids: memory/chain by `stream`, memory/trace_conditioning by `td`.

    python benchmarks/streaming.py --streams 1 --lengths 16 64 --trace-lambdas 0.8 0.9 --seeds 3

Every training is `r2ac train` with the flags below, in one process with one thread, one after the other; those that
--output-dir holds already are not run again. Of the chain are printed the mean return over the last fortieth of the
steps, which solves it above .5, and the steps after which that was so first; of trace conditioning the mean squared
error of the return, and that of the mean return. Both with the microseconds of a step of a stream, acting included.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import _path  # noqa: F401
import numpy as np
from memory_tasks import outcome, train_run

from r2ac.launch.evaluation.prediction import prediction_errors
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.metrics import read_metrics

COMMON = "--optimiser adam --learning-rate 1e-3 --step-bound 0 --input-scale 1"
CHAIN = "memory/chain --algorithm stream --chain-length {length} --chrono-steps {chrono} " + COMMON
TRACE = (
    "memory/trace_conditioning --algorithm td --isi {length} --chrono-steps {chrono} --discount {discount} " + COMMON
)
SOLVED = 0.5


def microseconds(run: Path) -> float:
    """Of a step of a stream, in the mean over a training."""
    last = read_metrics(run)[-1]
    return 1e6 * last["wall_time"] / last["env_steps"]


def chain_row(runs: list[Path]) -> str:
    """Return, seeds that solved the task, and when."""
    outcomes = [outcome(run, SOLVED) for run in runs]
    ends = [each.end for each in outcomes]
    first = ", ".join(f"{each.solved[0] / 1000:.0f} k" for each in outcomes if each.solved is not None)
    return f"{np.mean(ends):.2f} | {sum(end > SOLVED for end in ends)} of {len(ends)} | {first or '-'}"


def trace_row(runs: list[Path], steps: int) -> str:
    """Errors of the values and of the mean return."""
    found = np.mean([prediction_errors(TrainedAgent.load(run), steps, streams=16) for run in runs], axis=0)
    return f"{found[0]:.4f} | {found[1]:.4f} | "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("chain", "trace_conditioning"), default="chain")
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 64, 256, 1024], help="of the chain, or the ISI")
    parser.add_argument("--trace-lambdas", nargs="+", type=float, default=[0.8, 0.9, 0.95, 1.0])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 16], help="streams that learn together")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind, with seeds 1, 2, ...")
    parser.add_argument("--steps", type=int, default=500_000, help="of all streams together")
    parser.add_argument("--scored-steps", type=int, default=10_000, help="of trace conditioning's error")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/streaming"), help="where the runs are kept")
    arguments = parser.parse_args()
    is_chain = arguments.task == "chain"
    measured = "return | above .5 | first after" if is_chain else "error | of the mean return | "
    print(f"| length | lambda | streams | {measured} | microseconds |\n|--:|--:|--:|--:|--:|---|--:|")
    grid = itertools.product(arguments.lengths, arguments.trace_lambdas, arguments.streams)
    for length, trace_lambda, streams in grid:
        flags = (CHAIN if is_chain else TRACE).format(length=length, chrono=2 * length, discount=1 - 1 / length)
        flags += f" --trace-lambda {trace_lambda} --streams-per-actor {streams} --total-steps {arguments.steps}"
        name = f"{arguments.task}-{length}-{trace_lambda}-{streams}"
        runs = [
            train_run(arguments.output_dir / f"{name}-{seed}", [*flags.split(), "--seed", str(seed)])
            for seed in range(1, arguments.seeds + 1)
        ]
        row = chain_row(runs) if is_chain else trace_row(runs, arguments.scored_steps)
        cost = np.mean([microseconds(run) for run in runs])
        print(f"| {length} | {trace_lambda} | {streams} | {row} | {cost:.0f} |", flush=True)


if __name__ == "__main__":
    main()
