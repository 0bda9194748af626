"""How stale carried sensitivities are while an agent learns the T-maze, and what refreshing them costs and brings.

    python benchmarks/staleness.py          the tables of docs/rtrl.md (one core, ten minutes of it)

Everything runs in this process, on the CPU. Angles are in degrees, between the gradient by carried sensitivities and
the exact one at the present parameters, as `r2ac inspect --staleness` defines them.

1. angles: of algorithms, learning rates and rollout lengths, by the updates since the parameters stood still.
2. refresh: the time of an update with --refresh-every N over that without, in turns, and the angle that stays.
3. solve: steps of training, with another start of the weights, until 95 % of the last 200 episodes succeed.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from itertools import count

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.launch.inspection.staleness import compare, measure_staleness, on_device, remember
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.settings.flags import training_config
from r2ac.launch.train.learn import make_learner
from r2ac.learner import Rollout
from r2ac.learner.refresh import History

TASK = "memory/tmaze"
PPO = ["--algorithm", "ppo", "--normalise-advantage", "--entropy-cost", "0"]
"""As in Stable-Baselines3, but for the learning rate."""
ALGORITHMS = {
    "vtrace": ["--algorithm", "vtrace"],
    **{f"ppo, n_epochs {n}": [*PPO, "--n-epochs", str(n)] for n in (1, 3, 10)},
}
FAST_START = ["--readout", "mlp", "--input-scale", "1"]
"""With these the maze is learned sooner."""
SLOW_START = ["--readout", "linear", "--no-readout-skip", "--input-scale", "0.1", "--recurrent-scale", "0.1"]
RATES = ("1e-3", "4e-3")
COMMON = ["--num-actors", "0", "--learning-rate-schedule", "constant", "--device", "cpu", "--rtrl-metrics-every", "0"]


class Training:
    """A training of the T-maze with the preset's 64 streams, all of them in each batch."""

    def __init__(self, flags: Sequence[str]) -> None:
        self.config = config = training_config(TASK, [*COMMON, *SLOW_START, "--chrono-steps", "100", *flags])
        self._actor = RolloutActor(
            ActorConfig(TASK, config.env, config.agent, config.seed, config.rollout_length, config.num_streams, index=0)
        )
        self.learner, _ = make_learner(config, self._actor.spec, torch.device("cpu"))
        self._numbers = count()
        self.returns: deque[float] = deque(maxlen=200)
        """Of the last episodes."""
        self.seconds = 0.0
        """Spent in updates."""
        self.close = self._actor.close

    def collect(self) -> Rollout[np.ndarray]:
        number = next(self._numbers)
        weights = parameters_to_vector(self.learner.agent.parameters()).detach().numpy()
        collected = self._actor.collect(Weights(number, weights), number)
        assert collected.rollout is not None
        self.returns.extend(collected.episodes.returns)
        return collected.rollout

    def update(self, rollout: Rollout[np.ndarray]) -> None:
        began = time.perf_counter()
        self.learner.update(rollout)
        self.seconds += time.perf_counter() - began


def angles(steps: int) -> None:
    """By algorithm and T, after ``steps`` of training; two numbers are of learning rates 1e-3 and 4e-3."""
    print("| algorithm | T | 1 update | 5 to 8 | 33 to 64 | norms | boundary alone | after its update | TBPTT |")
    print("|---|" + "--:|" * 8)
    for name, flags in ALGORITHMS.items():
        for length in (1, 10, 50):
            found = [
                angle_row([*flags, "--rollout-length", str(length), "--learning-rate", rate], steps) for rate in RATES
            ]
            print(f"| {name} | {length} | " + " | ".join(map(" / ".join, zip(*found, strict=True))) + " |", flush=True)


def angle_row(flags: Sequence[str], steps: int) -> list[str]:
    """Of one setting."""
    with closing(Training(flags)) as training:
        while training.learner.env_steps < steps:
            training.update(training.collect())
        history = episode_rollouts(training.config.rollout_length)
        found = measure_staleness(training.learner, training.collect, updates=64, history=history)
    by_age = {each.first_age: each for each in found.gradients}
    last = by_age[33]
    return [
        *(f"{by_age[age].angle:.2f}" for age in (1, 5, 33)),
        f"{last.ratio:.2f}",
        f"{last.boundary_angle:.2f}",
        f"{last.boundary_angle_after:.2f}",
        f"{last.truncated_angle:.0f}",
    ]


def refreshes(updates: int) -> None:
    """Trainings that differ in --refresh-every alone, update by update in turns."""
    print("\n| algorithm | T | refresh every | time of an update | angle | boundary alone |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, length in (("vtrace", 1), ("vtrace", 10), ("ppo, n_epochs 10", 10)):
        flags = [*ALGORITHMS[name], "--rollout-length", str(length), "--learning-rate", "4e-3"]
        kept = ["--refresh-rollouts", str(episode_rollouts(length))]
        trainings = {n: Training([*flags, "--refresh-every", str(n), *kept]) for n in (0, 100, 10, 1)}
        pasts = {n: History(episode_rollouts(length), each.config.num_streams) for n, each in trainings.items()}
        found: dict[int, list[list[float]]] = {n: [] for n in trainings}
        for number in range(updates):
            for n, training in trainings.items():
                rollout = training.collect()
                batch = on_device(rollout, training.learner)
                # No divisor of the intervals: all ages are met.
                if number >= updates // 2 and number % 3 == 0:
                    found[n].append(compare(training.learner, copy.deepcopy(training.learner.carries), pasts[n], batch))
                remember(pasts[n], batch)
                training.update(rollout)
        for n, training in trainings.items():
            means = np.nanmean(found[n], axis=0)
            share = training.seconds / trainings[0].seconds
            print(f"| {name} | {length} | {n or 'never'} | {share:.2f} | {means[0]:.2f} | {means[2]:.2f} |", flush=True)
            training.close()


def solving(seeds: int, corridor: int, limit: int) -> None:
    """Steps, in thousands, of each seed."""
    print(f"\n| algorithm | T | refresh every | steps to 95 %, in thousands, seeds 1 to {seeds} |")
    print("|---|--:|--:|---|")
    for name, length in (("vtrace", 10), ("ppo, n_epochs 3", 10), ("ppo, n_epochs 10", 10)):
        flags = [*ALGORITHMS[name], "--rollout-length", str(length), "--learning-rate", "4e-3", *FAST_START]
        flags += ["--corridor-length", str(corridor), "--refresh-rollouts", str(episode_rollouts(length))]
        for n in (0, 10, 1):
            needed = []
            for seed in range(1, seeds + 1):
                with closing(Training([*flags, "--refresh-every", str(n), "--seed", str(seed)])) as training:
                    while training.learner.env_steps < limit and (
                        len(training.returns) < 200 or np.mean(training.returns) < 0.95
                    ):
                        training.update(training.collect())
                    steps = training.learner.env_steps
                needed.append(f"{steps // 1000}" if steps < limit else f"over {limit // 1000}")
            print(f"| {name} | {length} | {n or 'never'} | {', '.join(needed)} |", flush=True)


def episode_rollouts(length: int) -> int:
    """Rollouts that reach beyond the 41 steps of an episode."""
    return 1 + -(-41 // length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["angles", "refresh", "solve"])
    parser.add_argument("--steps", type=int, default=64_000, help="of training before the angles are measured")
    parser.add_argument("--updates", type=int, default=300, help="of each training with and without refresh")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--corridor", type=int, default=40, help="length of the maze that is to be solved")
    parser.add_argument("--limit", type=int, default=300_000, help="steps after which a training counts as not solved")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "angles" in options.parts:
        angles(options.steps)
    if "refresh" in options.parts:
        refreshes(options.updates)
    if "solve" in options.parts:
        solving(options.seeds, options.corridor, options.limit)


if __name__ == "__main__":
    main()
