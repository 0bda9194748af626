"""r2ac's PPO beside other libraries' recurrent PPO: seconds, of the clock and of processors, until a task is solved.

    python benchmarks/peers.py install .venv-peers          # a virtual environment for each peer, in this folder
    python benchmarks/peers.py run --environments .venv-peers --tasks memory/tmaze popgym/RepeatPreviousEasy

The peers are sb3-contrib's RecurrentPPO (`sb3`), RLlib's PPO with `use_lstm` (`rllib`) and memorax' PPO with an LSTM,
with the task in JAX (`memorax`, peer_memorax.py). Trainings run one after another, with one thread (memorax: as many
as JAX takes). A training ends when the mean return of the last 100 episodes (Pendulum: 20) is that of a solved task, or
when its steps or its minutes of processors are used up; r2ac's also after the budget of the task's own settings. Times
begin with the process. Processors' seconds, user and system, are those of all its processes: RLlib's with Ray's.

The same for all: the task, its observations, 64 recurrent units, 64 units of an ordinary layer. Different: r2ac's core
is that of the task's settings, or torch's LSTM, and reads the last reward too; sb3 and memorax have one LSTM for the
policy and one for the values, RLlib one for both. Settings are those that a peer's documentation suggests: sb3's
defaults, memorax' example `ppo_gru`, both with 8 environments of 128 steps, and RLlib's example of an LSTM
(`prev_actions_prev_rewards`: 4,000 steps an update, BPTT over 20) with 8 environments. `-matched` has r2ac's learning
rate, falling linearly, its epochs, discount, lambda and entropy bonus for the task, with 16 environments of 128 steps,
minibatches of 512, and BPTT over 128 steps (RLlib: 64), longer than an episode. r2ac's rollouts have 10 steps in the
T-maze, 32 in RepeatPrevious, 64 in `r2ac-lstm-64`. `pendulum` and `pendulum-hidden` are Gymnasium's Pendulum-v1 with
and without angular velocity, for r2ac and sb3, which has RL Zoo's settings of PPO there; nothing is matched.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import _path  # noqa: F401
import gymnasium
import numpy as np

PACKAGES = {
    "sb3": ("torch==2.13.0", "stable-baselines3==2.9.2", "sb3-contrib==2.9.2", "gymnasium==1.4.0", "popgym==1.0.7"),
    "rllib": ("torch==2.13.0", "ray[rllib]==2.60.0", "popgym==1.0.7"),
    "memorax": ("memorax==1.0.1", "gymnasium==1.4.0"),
}
OURS = {
    "r2ac-rtrl": "",
    "r2ac-tbptt": "--gradient tbptt",
    "r2ac-lstm": "--core lstm",
    "r2ac-lstm-64": "--core lstm --rollout-length 64",
}
PEERS = ("sb3", "sb3-matched", "rllib", "rllib-matched", "memorax", "memorax-matched")
UNITS, POLL_SECONDS = 64, 0.2
PENDULUM = (
    "gym/Pendulum-v1 --num-actors 0 --algorithm ppo --streams-per-actor 16 --rollout-length 32 --discount 0.9 "
    "--learning-rate 1e-3 --learning-rate-schedule linear --n-epochs 10 --num-minibatches 4 --normalise-observations "
    "--core elstm --recurrent-scale 1 --input-scale 1 --readout mlp --readout-skip"
)
MATCHED = {"learning_rate": 4e-3, "n_epochs": 3, "gamma": 0.99, "gae_lambda": 0.95, "ent_coef": 0.01}


class Task(NamedTuple):
    """A task as r2ac's command line names it, when it is solved, and what `-matched` takes from its settings."""

    flags: str
    solved: float
    window: int
    matched: dict[str, Any]


TASKS = {
    "memory/tmaze": Task("memory/tmaze", 0.95, 100, MATCHED),
    "popgym/RepeatPreviousEasy": Task("popgym/RepeatPreviousEasy", 0.95, 100, {**MATCHED, "gamma": 0.5}),
    "pendulum": Task(PENDULUM, -250, 20, {}),
    "pendulum-hidden": Task(f"{PENDULUM} --wrappers peers:HiddenVelocity", -250, 20, {}),
}


class HiddenVelocity(gymnasium.wrappers.TransformObservation):
    """Pendulum without the last of its three numbers, the angular velocity."""

    def __init__(self, env: gymnasium.Env) -> None:
        seen: Any = env.observation_space
        shown = gymnasium.spaces.Box(seen.low[:2], seen.high[:2], dtype=np.float32)
        super().__init__(env, lambda observation: observation[:2], shown)


def make_environment(task: str) -> gymnasium.Env:
    """The task as one Gymnasium environment, with the observations that r2ac has."""
    if task.startswith("pendulum"):
        env = gymnasium.make("Pendulum-v1")
        return HiddenVelocity(env) if task == "pendulum-hidden" else env
    if task == "memory/tmaze":
        import r2ac.envs.tmaze  # noqa: F401 (registers the id)

        return gymnasium.make("r2ac/TMaze-v0", disable_env_checker=True)
    import popgym  # type: ignore[import-untyped]  # noqa: F401 (registers the ids)

    from r2ac.envs.popgym import PreviousAction
    from r2ac.envs.single import as_vector

    return PreviousAction(as_vector(gymnasium.make(f"{task.replace('/', '-')}-v0", disable_env_checker=True)))


def write_line(metrics: Path, steps: int, parameters: int, returns: list[float]) -> None:
    """A line in the names of r2ac's `metrics.jsonl`; ``returns``, of the episodes since the last one, is cleared."""
    row: dict[str, float] = {"env_steps": steps, "learner/parameters": parameters, "episodes": len(returns)}
    row["episode_return"] = float(np.mean(returns)) if returns else 0
    with metrics.open("a") as file:
        file.write(json.dumps(row) + "\n")
    returns.clear()


def train_sb3(task: str, matched: bool, steps: int, seed: int, metrics: Path) -> None:
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    ended: list[float] = []

    class Log(BaseCallback):
        def _on_step(self) -> bool:
            ended.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
            return True

        def _on_rollout_end(self) -> None:
            write_line(metrics, self.num_timesteps, sum(each.numel() for each in self.model.policy.parameters()), ended)

    envs, settings = 8, dict[str, Any]()
    if task.startswith("pendulum"):
        envs, settings = 4, {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3}
    if matched:
        own = TASKS[task].matched
        envs, settings = 16, {**own, "batch_size": 512, "learning_rate": lambda left: own["learning_rate"] * left}
    env = make_vec_env(lambda: make_environment(task), envs, seed=seed)
    sizes = {"lstm_hidden_size": UNITS, "net_arch": [UNITS]}
    learner = RecurrentPPO("MlpLstmPolicy", env, seed=seed, device="cpu", policy_kwargs=sizes, **settings)
    learner.learn(steps, callback=Log())


def train_rllib(task: str, matched: bool, steps: int, seed: int, metrics: Path) -> None:
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    ended: list[float] = []
    register_env("task", lambda context: make_environment(task))
    envs, length = 8, 20
    settings: dict[str, Any] = {"lr": 3e-4, "num_epochs": 6, "train_batch_size": 4000, "vf_loss_coeff": 0.01}
    if matched:
        own, envs, length = TASKS[task].matched, 16, 64
        settings = {
            "lr": [[0, own["learning_rate"]], [steps, 0.0]],
            "num_epochs": own["n_epochs"],
            "gamma": own["gamma"],
            "lambda_": own["gae_lambda"],
            "entropy_coeff": own["ent_coef"],
            "train_batch_size": 16 * 128,
            "minibatch_size": 512,
        }
    model = DefaultModelConfig(use_lstm=True, lstm_cell_size=UNITS, max_seq_len=length, fcnet_hiddens=[UNITS])
    config = PPOConfig().environment("task").rl_module(model_config=model).debugging(seed=seed).training(**settings)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=envs)
    config.callbacks(on_episode_end=lambda *, episode, **more: ended.append(episode.get_return()))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    algorithm: Any = config.build_algo()
    parameters, done = sum(each.numel() for each in algorithm.get_module().parameters()), 0
    while done < steps:
        done = int(algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"])
        write_line(metrics, done, parameters, ended)


class Outcome(NamedTuple):
    """How a training went; `rate` is in steps per processor second, from the first line of its metrics to its end."""

    parameters: int
    rate: float
    solved: bool
    steps: int
    seconds: float
    processors: float
    end: float


def processor_seconds(pid: int) -> float:
    """User and system time of a process and its descendants, those included that have ended."""
    import psutil  # type: ignore[import-untyped]

    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return sum(sum(each.cpu_times()[:4]) for each in [top, *top.children(recursive=True)])
    return 0.0


def kill(process: subprocess.Popen) -> None:
    """Ends a process and its descendants."""
    import psutil

    tree = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
    for each in [*tree, process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def follow(command: list[str], metrics: Path, task: Task, steps: int, minutes: float) -> Outcome:
    """Runs a training until the task is solved or the budget is used up. Exits where it fails or writes no line."""
    log, began = metrics.parent.with_suffix(".log"), time.monotonic()
    read, returns, mean, used, first, last = 0, list[float](), float("nan"), 0.0, (0, 0.0), dict[str, Any]()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=Path(__file__).parent)
    try:
        solved = ended = False
        while not (solved or ended or used > 60 * minutes or last.get("env_steps", 0) >= steps):
            time.sleep(POLL_SECONDS)
            used = max(used, processor_seconds(process.pid))
            ended = process.poll() is not None
            lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
            for last in map(json.loads, lines[read:]):
                first = first if first[0] else (last["env_steps"], used)
                returns += last.get("episodes", 0) * [last.get("episode_return")]
                mean = float(np.mean(returns[-task.window :])) if returns else mean
                solved = solved or (len(returns) >= task.window and mean >= task.solved)
            read = len(lines)
        if not last or (ended and process.returncode):
            raise SystemExit(f"{' '.join(command)} came to no result:\n{log.read_text()[-2000:]}")
    finally:
        kill(process)
    rate = (last["env_steps"] - first[0]) / (used - first[1]) if used > first[1] else float("nan")
    return Outcome(last["learner/parameters"], rate, solved, last["env_steps"], time.monotonic() - began, used, mean)


def command_of(peer: str, task: str, seed: int, steps: int, environments: Path, folder: Path) -> list[str]:
    """What trains a peer in a folder, which then has a `metrics.jsonl`. Exits where the peer is not installed."""
    if peer in OURS:
        flags = f"{TASKS[task].flags} {OURS[peer]} --log-steps 2000 --seed {seed} --run-dir".split()
        return [sys.executable, "-m", "r2ac.launch", "train", *flags, str(folder)]
    folder.mkdir()
    python = environments.absolute() / peer.removesuffix("-matched") / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} does not exist: python benchmarks/peers.py install {environments}")
    return [str(python), __file__, "train", peer, task, str(seed), str(steps), str(folder / "metrics.jsonl")]


def install(folder: Path, peers: list[str]) -> None:
    """A virtual environment for each peer; torch first, so that no other package chooses its build."""
    for peer in peers:
        subprocess.run([sys.executable, "-m", "venv", str(folder / peer)], check=True)
        for packages in (PACKAGES[peer][:1], PACKAGES[peer]):
            subprocess.run([folder / peer / "bin" / "python", "-m", "pip", "install", *packages], check=True)


def run(arguments: argparse.Namespace) -> None:
    """Trains and prints the table."""
    print("| task | method | seed | parameters | steps / processor s | solved | steps | s | processor s | return |")
    print("|---|---|--:|--:|--:|---|--:|--:|--:|--:|")
    for task in arguments.tasks:
        seeds = {peer: arguments.seeds if peer in OURS else 1 for peer in arguments.peers}
        for peer, seed in ((peer, seed + 1) for peer, count in seeds.items() for seed in range(count)):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                place = Path(folder) / "run"
                command = command_of(peer, task, seed, arguments.steps, arguments.environments, place)
                seen = follow(command, place / "metrics.jsonl", TASKS[task], arguments.steps, arguments.minutes)
            figures = f"{seen.parameters:,} | {seen.rate:,.0f} | {'yes' if seen.solved else 'no'} | {seen.steps:,}"
            times = f"{seen.seconds:.0f} | {seen.processors:.1f} | {seen.end:.2f}"
            print(f"| {task} | {peer} | {seed} | {figures} | {times} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    installing = commands.add_parser("install", help="make the peers' virtual environments")
    installing.add_argument("folder", type=Path)
    installing.add_argument("--peers", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    running = commands.add_parser("run", help="train and print the table")
    running.add_argument("--environments", type=Path, default=Path(".venv-peers"), help="the folder of `install`")
    running.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS)[:2])
    running.add_argument("--peers", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    running.add_argument("--seeds", type=int, default=3, help="trainings of r2ac; each peer has one")
    running.add_argument("--steps", type=int, default=1_000_000, help="of a peer's training, at most")
    running.add_argument("--minutes", type=float, default=15, help="of processors, of a training, at most")
    training = commands.add_parser("train", help="one training of a peer, by its own Python (`run` calls this)")
    for name, kind in (("peer", str), ("task", str), ("seed", int), ("steps", int), ("metrics", Path)):
        training.add_argument(name, type=kind)
    own = parser.parse_args()
    if own.command == "install":
        install(own.folder, own.peers)
    elif own.command == "run":
        run(own)
    else:
        name = own.peer.removesuffix("-matched")
        train = {"sb3": train_sb3, "rllib": train_rllib}.get(name) or import_module("peer_memorax").train_memorax
        train(own.task, name != own.peer, own.steps, own.seed, own.metrics)


if __name__ == "__main__":
    main()
