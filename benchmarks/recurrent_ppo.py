"""PPO by RTRL beside sb3-contrib's RecurrentPPO on Gymnasium's Pendulum-v1: return over steps and over seconds.

    pip install --no-deps stable-baselines3 sb3-contrib      # beside r2ac; without them r2ac runs alone
    OMP_NUM_THREADS=1 python benchmarks/recurrent_ppo.py --steps 100000 --seeds 3

``shown`` is the task as it is; in ``hidden`` the velocity is taken out of the observation, so that it has to be
remembered. Both run in one process with one thread, one after the other. RecurrentPPO has RL Zoo's settings of PPO for
this task (4 environments of 1024 steps, rate 1e-3, discount 0.9) with an LSTM of 64 units; r2ac has 16 streams of 32
steps, the same discount, epochs and first rate, which falls to zero, and 64 units. Printed is the mean return of the
episodes that ended in the last fifth of the steps, the steps after which the mean of 20 episodes exceeded -250, and
seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import gymnasium
import numpy as np

SOLVED, WINDOW = -250.0, 20
FLAGS = (
    "--num-actors 0 --algorithm ppo --streams-per-actor 16 --rollout-length 32 --discount 0.9 --learning-rate 1e-3 "
    "--learning-rate-schedule linear --n-epochs 10 --num-minibatches 4 --normalise-observations --log-steps 4000 "
    "--core elstm --recurrent-scale 1 --input-scale 1 --readout mlp --readout-skip"
)
Curve = list[tuple[int, float, float]]
"""Steps, seconds and return of each episode."""


class HiddenVelocity(gymnasium.ObservationWrapper):
    """Pendulum without the last of its three numbers, the angular velocity."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        seen: Any = env.observation_space
        self.observation_space = gymnasium.spaces.Box(seen.low[:2], seen.high[:2], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[:2]


def of_r2ac(hidden: bool, steps: int, seed: int) -> Curve:
    """The curve that a run of ``r2ac train`` wrote; the returns of a line stand for the episodes that it counts."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = [*FLAGS.split(), "--total-steps", str(steps), "--seed", str(seed), "--run-dir", str(run)]
        wrappers = ["--wrappers", "recurrent_ppo:HiddenVelocity"] if hidden else []
        command = [sys.executable, "-m", "r2ac.launch", "train", "gym/Pendulum-v1", *flags, *wrappers]
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["env_steps"], line["wall_time"], line["episode_return"])
        for line in lines
        for _ in range(line.get("episodes", 0))
    ]


def of_sb3(hidden: bool, steps: int, seed: int) -> Curve:
    """The curve of RecurrentPPO."""
    import torch
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    curve: Curve = []

    class Log(BaseCallback):
        def _on_step(self) -> bool:
            ended = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            curve.extend((self.num_timesteps, time.monotonic() - began, float(each)) for each in ended)
            return True

    env = make_vec_env("Pendulum-v1", 4, seed=seed, wrapper_class=HiddenVelocity if hidden else None)  # type: ignore[arg-type]
    sizes = {"lstm_hidden_size": 64}
    learner = RecurrentPPO(
        "MlpLstmPolicy", env, n_steps=1024, batch_size=128, gamma=0.9, learning_rate=1e-3, seed=seed,
        device="cpu", policy_kwargs=sizes,
    )  # fmt: skip
    began = time.monotonic()
    learner.learn(steps, callback=Log())
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind, with seeds 1, 2, ...")
    parser.add_argument("--observations", choices=("shown", "hidden"), nargs="+", default=["shown", "hidden"])
    arguments = parser.parse_args()
    methods = {"r2ac ppo rtrl": of_r2ac}
    if find_spec("sb3_contrib") is not None:
        methods["sb3-contrib RecurrentPPO"] = of_sb3
    print("| velocity | method | seed | return at the end | solved after steps | after seconds | seconds in all |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for observations in arguments.observations:
        for seed in range(1, arguments.seeds + 1):
            for name, run in methods.items():
                curve = run(observations == "hidden", arguments.steps, seed)
                returns = np.array([each[2] for each in curve])
                means = np.convolve(returns, np.ones(WINDOW) / WINDOW, "valid")
                first = next((i + WINDOW - 1 for i in np.flatnonzero(means > SOLVED)), None)
                when = "- | -" if first is None else f"{curve[first][0] / 1000:.0f} k | {curve[first][1]:.0f}"
                last = np.mean([each[2] for each in curve if each[0] > 0.8 * arguments.steps])
                print(f"| {observations} | {name} | {seed} | {last:.0f} | {when} | {curve[-1][1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
