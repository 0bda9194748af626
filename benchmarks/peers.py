"""r2ac's PPO beside other libraries' recurrent PPO: seconds, of the clock and of processors, until a task is solved.

    python benchmarks/peers.py install .venv-peers          # a virtual environment for each peer, in this folder
    python benchmarks/peers.py run --environments .venv-peers --tasks memory/tmaze popgym/RepeatPreviousEasy

The Python is one with r2ac, `run` wants psutil. The peers are sb3-contrib's RecurrentPPO (`sb3`), RLlib's PPO with
`use_lstm` (`rllib`), memorax' PPO with an LSTM, with the task in JAX (`memorax`, peer_memorax.py), and CleanRL's
recurrent PPO, which `install` clones from GitHub (`cleanrl`, peer_cleanrl.py). Trainings run one after another, with
one thread (memorax: as many as JAX takes). A training ends when the mean return of the last 100 episodes (Pendulum: 20)
is that of a solved task, or when its steps or its minutes of processors are used up; r2ac's also after the budget of
the task's own settings. Times begin with the process. Processors' seconds, user and system, are those of all its
processes: RLlib's with Ray's.

The same for all: the task, its observations, 64 recurrent units, 64 units of an ordinary layer. Different: r2ac's core
is that of the task's settings, or torch's LSTM, and reads the last reward too; sb3 and memorax have one LSTM for the
policy and one for the values, RLlib and CleanRL one for both. Settings are those that a peer's documentation suggests:
sb3's and CleanRL's defaults, memorax' example `ppo_gru`, all with 8 environments of 128 steps, and RLlib's example of
an LSTM (`prev_actions_prev_rewards`: 4,000 steps an update, BPTT over 20) with 8 environments. `-matched` has r2ac's
learning rate, falling linearly, its epochs, discount, lambda and entropy bonus for the task, with 16 environments of
128 steps, minibatches of 512, and BPTT over 128 steps (RLlib: 64), longer than an episode. r2ac's rollouts have 10
steps in the T-maze, 32 in RepeatPrevious, 64 in `r2ac-lstm-64`. `pendulum` and `pendulum-hidden` are Gymnasium's
Pendulum-v1 with and without angular velocity, for r2ac and sb3, which has RL Zoo's settings of PPO there; nothing is
matched.
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
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import _path  # noqa: F401
import gymnasium
import numpy as np

PACKAGES = {
    "sb3": ("torch==2.13.0", "stable-baselines3==2.9.2", "sb3-contrib==2.9.2", "gymnasium==1.4.0", "popgym==1.0.7"),
    "rllib": ("torch==2.13.0", "ray[rllib]==2.60.0", "popgym==1.0.7"),
    "memorax": ("memorax==1.0.1", "gymnasium==1.3.0"),
    "cleanrl": ("torch==2.13.0", "tensorboard==2.21.0", "tyro==1.0.17", "gymnasium==1.4.0", "popgym==1.0.7"),
}
CLEANRL, CLEANRL_COMMIT = "https://github.com/vwxyzjn/cleanrl", "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"
CLEANRL_FOLDER = "source"
"""In the environment `cleanrl`."""
OURS = {
    "r2ac-rtrl": "",
    "r2ac-tbptt": "--gradient tbptt",
    "r2ac-lstm": "--core lstm",
    "r2ac-lstm-64": "--core lstm --rollout-length 64",
}
PEERS = tuple(name + settings for name in PACKAGES for settings in ("", "-matched"))
UNITS, POLL_SECONDS = 64, 0.2
RESULTS = Path(__file__).parent / "results" / "peers.json"
STEP_MARKS, SECOND_MARKS = (20_000, 40_000, 60_000, 80_000, 100_000), (10, 20, 30, 100, 200, 300)
PENDULUM = (
    "gym/Pendulum-v1 --num-actors 0 --algorithm ppo --streams-per-actor 16 --rollout-length 32 --discount 0.9 "
    "--learning-rate 1e-3 --learning-rate-schedule linear --n-epochs 10 --num-minibatches 4 --normalise-observations "
    "--core elstm --recurrent-scale 1 --input-scale 1 --readout mlp --readout-skip --total-steps 100000"
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
    """How a training went.

    `steps`, both kinds of seconds and the mean return `end` are those when the task was solved, or else at the end.
    `rate` is in steps per processor second, from the first line of its metrics to its end. `curve` has steps, processor
    seconds and the mean return for each line after the first episode.
    """

    parameters: int
    rate: float
    solved: bool
    steps: int
    seconds: float
    processors: float
    end: float
    curve: list[tuple[int, float, float]]


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


def follow(command: list[str], metrics: Path, task: Task, steps: int, minutes: float, go_on: bool = False) -> Outcome:
    """Runs a training until the task is solved, or with ``go_on`` until the budget is used up.

    Exits where the training fails or ends no episode.
    """
    log, began = metrics.parent.with_suffix(".log"), time.monotonic()
    read, returns, used, last = 0, list[float](), 0.0, dict[str, Any]()
    curve, solved = list[tuple[int, float, float]](), tuple[int, float, float, float]()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=Path(__file__).parent)
    try:
        ended = False
        while not ((solved and not go_on) or ended or used > 60 * minutes or last.get("env_steps", 0) >= steps):
            time.sleep(POLL_SECONDS)
            used = max(used, processor_seconds(process.pid))
            ended = process.poll() is not None
            lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
            for last in map(json.loads, lines[read:]):
                returns += last.get("episodes", 0) * [last.get("episode_return")]
                if not returns:
                    continue
                mean = float(np.mean(returns[-task.window :]))
                curve.append((last["env_steps"], round(used, 2), round(mean, 4)))
                if not solved and len(returns) >= task.window and mean >= task.solved:
                    solved = (*curve[-1], time.monotonic() - began)
            read = len(lines)
        if not curve or (ended and process.returncode):
            raise SystemExit(f"{' '.join(command)} came to no result:\n{log.read_text()[-2000:]}")
    finally:
        kill(process)
    rate = (curve[-1][0] - curve[0][0]) / (used - curve[0][1]) if used > curve[0][1] else float("nan")
    done, spent, mean, seconds = solved or (curve[-1][0], used, curve[-1][2], time.monotonic() - began)
    return Outcome(last["learner/parameters"], rate, bool(solved), done, seconds, spent, mean, curve)


def command_of(peer: str, task: str, seed: int, steps: int, environments: Path, folder: Path) -> list[str]:
    """What trains a peer in a folder, which then has a `metrics.jsonl`. Exits where the peer is not installed."""
    if peer in OURS:
        from r2ac.launch.settings.flags import replace_flags

        flags = replace_flags(TASKS[task].flags.split(), OURS[peer].split())
        flags += ["--log-steps", "2000", "--seed", str(seed), "--run-dir", str(folder)]
        return [sys.executable, "-m", "r2ac.launch", "train", *flags]
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
        if peer == "cleanrl":
            source = folder / peer / CLEANRL_FOLDER
            if not source.exists():
                subprocess.run(["git", "clone", "--filter=blob:none", "--no-checkout", CLEANRL, source], check=True)
            files = ("cleanrl/ppo_atari_lstm.py", "cleanrl_utils")
            subprocess.run(["git", "-C", source, "checkout", CLEANRL_COMMIT, "--", *files], check=True)


def run(arguments: argparse.Namespace) -> None:
    """Makes the trainings that the file does not have yet, and prints the tables of all that are asked for."""
    rows: list[dict[str, Any]] = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    wanted = [(task, peer, seed) for task in arguments.tasks for seed in arguments.seeds for peer in arguments.peers]
    for task, peer, seed in wanted:
        if any((row["task"], row["method"], row["seed"]) == (task, peer, seed) for row in rows):
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            place = Path(folder) / "run"
            command = command_of(peer, task, seed, arguments.steps, arguments.environments, place)
            limits = arguments.steps, arguments.minutes, arguments.go_on
            seen = follow(command, place / "metrics.jsonl", TASKS[task], *limits)
        day, load = date.today().isoformat(), round(os.getloadavg()[0], 1)
        rows.append({"task": task, "method": peer, "seed": seed, "date": day, "load": load, **seen._asdict()})
        arguments.output.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
        print(f"{task}, {peer}, seed {seed}: {seen.steps:,} steps, return {seen.end:.2f}", file=sys.stderr, flush=True)
    print("| task | method | seed | parameters | steps / processor s | solved | steps | s | processor s | return |")
    print("|---|---|--:|--:|--:|---|--:|--:|--:|--:|")
    for row in (row for key in wanted for row in rows if (row["task"], row["method"], row["seed"]) == key):
        what = f"{row['task']} | {row['method']} | {row['seed']} | {row['parameters']:,} | {row['rate']:,.0f}"
        print(f"| {what} | {'yes' if row['solved'] else 'no'} | {row['steps']:,} | {row['seconds']:.0f}", end=" | ")
        print(f"{row['processors']:.1f} | {row['end']:.2f} |")
    marked = ((0, "steps", STEP_MARKS), (1, "processor seconds", SECOND_MARKS)) if arguments.go_on else ()
    for place, unit, marks in marked:
        print(f"\nMean return of the last episodes after so many {unit}, least and greatest of the seeds:\n")
        print("| task | method | " + " | ".join(f"{mark:,}" for mark in marks) + " |")
        print("|---|---|" + "--:|" * len(marks))
        for task, peer in dict.fromkeys((task, peer) for task, peer, _ in wanted):
            curves = [row["curve"] for row in rows if (row["task"], row["method"]) == (task, peer)]
            print(f"| {task} | {peer} | " + " | ".join(span(curves, place, mark) for mark in marks) + " |")


def span(curves: list[list[tuple[int, float, float]]], place: int, mark: float) -> str:
    """Least and greatest mean return when steps (place 0) or seconds (1) reach a mark; empty where one ends before."""
    if any(curve[-1][place] < mark for curve in curves):
        return ""
    values = [next(point[2] for point in curve if point[place] >= mark) for curve in curves]
    return f"{min(values):.4g} to {max(values):.4g}"


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
    running.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a training of each method by each")
    running.add_argument("--go-on", action="store_true", help="do not end a training once its task is solved")
    running.add_argument("--output", type=Path, default=RESULTS, help="JSON; trainings that it has are not made again")
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
        here = {"sb3": train_sb3, "rllib": train_rllib}
        train = here.get(name) or getattr(import_module(f"peer_{name}"), f"train_{name}")
        train(own.task, name != own.peer, own.steps, own.seed, own.metrics)


if __name__ == "__main__":
    main()
