"""What learns which task: trainings with the settings of each task, by several methods and seeds, as one table.

    python benchmarks/memory_tasks.py --tasks memory/tmaze memory/parity --methods rtrl tbptt frozen lstm --seeds 3

Every training is `r2ac train TASK` with the flags of its method, in one process with one thread, one after the other;
those that --output-dir holds already are not run again. Budgets are those of the task. The return is the mean over the
training episodes of the last fortieth of the budget; a task is solved at 95 % of the best return (key_to_door and
RepeatFirstEasy: 90 %), in the mean over a fortieth. Printed are, over the seeds, mean and range of the return, and
steps and seconds until it was solved.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import _path  # noqa: F401
import numpy as np

from r2ac.envs import find_task
from r2ac.kernels import CELLS
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.settings.presets import preset_options

TASKS = ("tmaze", "repeat_first", "match_to_sample", "repeat_previous", "copy", "parity", "key_to_door")
METHODS: dict[str, str] = {
    "rtrl": "",
    "rtrl-1": "--rollout-length 1",
    "rtrl-5": "--rollout-length 5",
    "tbptt": "--gradient tbptt",
    "tbptt-1": "--gradient tbptt --rollout-length 1",
    "tbptt-5": "--gradient tbptt --rollout-length 5",
    "tbptt-episode": "--gradient tbptt --rollout-length {episode}",
    "frozen": "--freeze-core",
    "feedforward": "--core feedforward",
    "lstm": "--core lstm --match-parameters elstm",
    "gru": "--core gru --match-parameters elstm",
    **{cell: f"--core {cell}" for cell in CELLS},
    "mixed": "--core mixed:elstm+lru --time-scales log-uniform",
}
"""The flags of each method beside the task's settings; {episode} is the length of its episodes."""
PARTS = 40
ENDLESS_CHECKPOINTS = "60"


class Outcome(NamedTuple):
    """What came of a training."""

    end: float
    solved: tuple[int, float] | None
    """Steps and seconds; None where it was not."""


def outcome(run: Path, threshold: float) -> Outcome:
    """Of a training that has ended."""
    rows = [row for row in read_metrics(run) if row.get("episodes")]
    steps, seconds, episodes, returns = (
        np.array([row[name] for row in rows], dtype=float)
        for name in ("env_steps", "wall_time", "episodes", "episode_return")
    )
    total, end = json.loads((run / "config.json").read_text())["total_steps"], float("nan")
    for part in range(PARTS):
        inside = (steps > part * total / PARTS) & (steps <= (part + 1) * total / PARTS)
        if inside.any():
            end = float(np.average(returns[inside], weights=episodes[inside]))
    means = [
        (steps[i], seconds[i], np.average(returns[window], weights=episodes[window]))
        for i in range(len(rows))
        if steps[i] >= total / PARTS and (window := (steps > steps[i] - total / PARTS) & (steps <= steps[i])).any()
    ]
    solved = next(((int(step), float(second)) for step, second, mean in means if mean >= threshold), None)
    return Outcome(end, solved)


def train(task: str, method: str, seed: int, folder: Path, more: list[str]) -> Path:
    """The run, trained unless it is there."""
    episode = find_task(task).episode_steps(preset_options(task)) or 50
    flags = METHODS[method].format(episode=episode).split()
    run = folder / f"{task.replace('/', '-')}-{method}-{seed}"
    return train_run(run, [task, *flags, *more, "--seed", str(seed)])


def train_run(run: Path, arguments: list[str]) -> Path:
    """The run, trained by `r2ac train` with these arguments unless it is there."""
    if list(run.glob("checkpoints/*.safetensors")):
        return run
    command = [sys.executable, "-m", "r2ac.launch", "train", *arguments]
    command += ["--run-dir", str(run), "--checkpoint-minutes", ENDLESS_CHECKPOINTS]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return run


def row(task: str, method: str, outcomes: list[Outcome]) -> str:
    """A line of the table."""
    ends = [each.end for each in outcomes]
    solved = [each.solved for each in outcomes if each.solved is not None]
    steps = ", ".join(f"{steps / 1000:.0f} k" for steps, _ in solved)
    seconds = ", ".join(f"{seconds:.0f}" for _, seconds in solved)
    spread = f"{np.mean(ends):.2f}" if len(ends) == 1 else f"{np.mean(ends):.2f} ({min(ends):.2f} to {max(ends):.2f})"
    return f"| {task} | {method} | {spread} | {len(solved)} of {len(ends)} | {steps or '-'} | {seconds or '-'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[f"memory/{task}" for task in TASKS], help="tasks")
    parser.add_argument(
        "--methods", nargs="+", default=["rtrl"], choices=METHODS, metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind, with seeds 1, 2, ...")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/memory_tasks"), help="where the runs are kept")
    parser.add_argument("--flags", default="", help="further flags of every training, in one word")
    arguments = parser.parse_args()
    print("| task | method | return at the end | solved | steps | seconds |\n|---|---|--:|--:|--:|--:|")
    for task in arguments.tasks:
        scores = find_task(task).reference_scores(preset_options(task))
        share = 0.9 if task in ("memory/key_to_door", "popgym/RepeatFirstEasy") else 0.95
        best = float("inf") if scores is None else scores.high
        for method in arguments.methods:
            seeds = range(1, arguments.seeds + 1)
            runs = [train(task, method, seed, arguments.output_dir, arguments.flags.split()) for seed in seeds]
            print(row(task, method, [outcome(run, share * best) for run in runs]), flush=True)


if __name__ == "__main__":
    main()
