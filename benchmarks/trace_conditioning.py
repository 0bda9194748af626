"""How well the newest checkpoints of runs on memory/trace_conditioning predict the return.

    python benchmarks/trace_conditioning.py RUN ...

For each run it prints the mean squared return error of the values, by the discount of the run, beside that of one
constant, the mean return: over 10,000 steps of 16 streams of split test, in this process, on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import _path  # noqa: F401
import numpy as np
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import make_vector
from r2ac.envs.trace_conditioning import mean_squared_return_error
from r2ac.launch.evaluation.play import Player, play
from r2ac.launch.runs.loading import TrainedAgent

TASK = "memory/trace_conditioning"


def errors(trained: TrainedAgent, steps: int, streams: int) -> tuple[float, float]:
    """The mean squared return errors of the agent's values and of the mean return. Raises ValueError where the steps
    are too few for the discount."""
    options = replace(trained.training.env, max_episode_steps=0)
    with closing(make_vector(TASK, streams, 0, split="test", options=options)) as env:
        agent = trained.agent(ObservationSpec.of(env), torch.device("cpu"), TASK)
        player = Player(agent, streams, np.random.default_rng(0))
        values, rewards = np.zeros((2, steps, streams))
        for t, step in enumerate(islice(play(env, player.act), steps)):
            assert step.decision.output is not None
            values[t], rewards[t] = step.decision.output.value.numpy(), step.reward
    if agent.rewards.deviation is not None:
        values *= float(agent.rewards.deviation)
    discount = trained.training.learner.discount
    error = mean_squared_return_error(values, rewards, discount)
    mean_return = np.full_like(values, rewards.mean() / (1 - discount))
    return error, mean_squared_return_error(mean_return, rewards, discount)


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
            error, of_constant = errors(trained, options.steps, options.streams)
        except (ValueError, RuntimeError) as failure:
            parser.error(str(failure))
        label = f"{trained.label}, {trained.env_steps:,} steps, discount {trained.training.learner.discount}"
        print(f"{label}: error {error:.5f}, of the mean return {of_constant:.5f}", flush=True)


if __name__ == "__main__":
    main()
