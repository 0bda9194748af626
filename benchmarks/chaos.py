"""A training on a cluster in which something is killed every twenty seconds: does it go on, and is the task solved?

    python benchmarks/chaos.py                    memory/tmaze, 20 minutes, a kill every 20 s
    python benchmarks/chaos.py --minutes 5 --every 30 --kinds actor node
    python benchmarks/chaos.py --flags "--num-learners 2"    each actor acts for itself: the flags replace the default

The cluster is Ray's own cluster of several nodes on this machine. The head has room for the learner; rollout actors and
inference workers lie where Ray puts them. Each kill is SIGKILL, to something of a random kind that is there:

    actor        a rollout actor
    inference    an inference worker
    node         the raylet of a node beside the head, with what lies there; a new one joins after five seconds
    learner      a learner's process
    driver       the process of r2ac train, below the one that supervises it

For each kill it notes the steps that were learned and lost (those since the newest checkpoint, where the learner went)
and the seconds until training had come further than it was. The lines of metrics.jsonl are read all the time: steps
must be the rollouts that were learned from, exactly, and never run backwards in the file. At the end the training is
asked to stop, and its last checkpoint is evaluated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shlex
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import _path  # noqa: F401
from report import (
    Column,
    Goal,
    Row,
    count,
    header,
    make_parser,
    open_device,
    own_columns,
    print_goals,
    print_header,
    print_table,
    write_files,
)
from throughput_system import R2AC, processes_below, read_lines

from r2ac.launch.settings.flags import replace_flags
from r2ac.launch.train.training_log import COUNTED
from r2ac.learner.checkpoint import CheckpointError, latest_checkpoint

KINDS = ("actor", "inference", "node", "learner", "driver")
TITLES = {"actor": "ray::RolloutActor", "inference": "ray::RayInferenceWorker", "learner": "ray::LearnerProcess"}
"""What Ray calls the processes."""
REJOIN_SECONDS = 5.0
LOOK_SECONDS = 0.2


@dataclass
class Kill:
    """What was killed, and what came of it."""

    seconds: float
    """Since the training made its first steps."""
    kind: str
    steps: int
    """Learned by then, as the run's last line told."""
    lost: int
    """Steps that are learned again: those since the newest checkpoint, where the learner or the driver was killed."""
    recovery: float | None = None
    """Seconds until the run had come further; None where the next kill, or the end, came first."""


class Nodes:
    """Ray's nodes on this machine.

    Args:
        count: of nodes beside the head.
        cpus: of each of these nodes.
        head_cpus: of the head.
    """

    def __init__(self, count: int, cpus: int, head_cpus: int) -> None:
        # On loopback, and for who has the token alone.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        from ray.cluster_utils import Cluster

        head = {"num_cpus": head_cpus, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
        self._cpus, self._cluster = cpus, Cluster(initialize_head=True, head_node_args=head)
        self._others: list[Any] = []
        for _ in range(count):
            self.add_one()
        self.address: str = self._cluster.address

    def processes(self, title: str) -> list[int]:
        """Ids of the processes below our raylets whose title begins so."""
        found = []
        for node in (self._cluster.head_node, *self._others):
            raylet = node.all_processes["raylet"][0].process.pid
            found += [pid for pid in processes_below(raylet) if title_of(pid).startswith(title)]
        return found

    def kill_one(self, dice: random.Random) -> bool:
        """SIGKILL to the raylet of a node beside the head; whether there was one."""
        if not self._others:
            return False
        node = self._others.pop(dice.randrange(len(self._others)))
        self._cluster.remove_node(node, allow_graceful=False)
        return True

    def add_one(self) -> None:
        """Another node joins."""
        node = {"num_cpus": self._cpus, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
        self._others.append(self._cluster.add_node(**node))

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


def title_of(pid: int) -> str:
    """Its command line; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class Watch:
    """Reads the lines of a run, and checks what must hold in each.

    Args:
        run: the run directory.
        per_update: steps of an update, B T.
    """

    def __init__(self, run: Path, per_update: int) -> None:
        self._run, self._per_update = run, per_update
        self.steps = 0
        """Of the last line."""
        self.wrong: list[str] = []
        """Sentences about what should not be."""

    def look(self) -> None:
        """Read the file as it is now."""
        lines = read_lines(self._run)
        steps = [line["env_steps"] for line in lines]
        wrong = [f"{after} steps after {before}" for before, after in pairwise(steps) if after <= before]
        for line in lines:
            if line["env_steps"] != line["updates"] * self._per_update:
                wrong.append(f"{line['env_steps']} steps after {line['updates']} updates of {self._per_update}")
        self.wrong += [sentence for sentence in wrong if sentence not in self.wrong]
        self.steps = steps[-1] if steps else 0

    def checkpoint(self) -> int:
        """Steps of the newest checkpoint; 0 where there is none."""
        try:
            return int(latest_checkpoint(self._run / "checkpoints").stem.removeprefix("step_"))
        except CheckpointError:
            return 0


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    kills: list[Kill]
    wrong: list[str]
    """Sentences about what should not be."""
    last: Row
    """The last line of its metrics."""
    exit_code: int
    """128 + SIGTERM where it ended as it was asked to."""
    seconds: float
    """From the first steps until it was asked to stop, or had ended by itself."""


def chaos(options: argparse.Namespace, nodes: Nodes, run: Path) -> Outcome:
    """Train and kill."""
    command = [
        *(
            *R2AC,
            "train",
            options.task,
            "--algorithm",
            "vtrace",
            "--ray-address",
            nodes.address,
            "--run-dir",
            str(run),
            "--seed",
            "1",
        ),
        *("--num-actors", str(options.actors), "--num-learners", "1", "--max-failures", "100000"),
        *("--checkpoint-minutes", str(options.checkpoint_seconds / 60), "--total-steps", str(options.total_steps)),
        *("--log-steps", "10000"),
    ]
    command = replace_flags(command, options.flags)
    with open(run.parent / "log.txt", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_run(process, run)
        config = json.loads((run / "config.json").read_text())
        watch = Watch(run, config["batch_size"] * config["rollout_length"])
        began = time.monotonic()
        kills = kill_on(options, nodes, process, watch)
        seconds = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
        code = ended_within(process, 180)
        watch.look()
        return Outcome(kills, watch.wrong, read_lines(run)[-1], code, seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Its exit code; what takes longer is killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def kill_on(options: argparse.Namespace, nodes: Nodes, process: subprocess.Popen[bytes], watch: Watch) -> list[Kill]:
    """Kill again and again, until the time is over or the training has ended."""
    dice, kills = random.Random(options.seed), []
    began, due, rejoin = time.monotonic(), options.every, float("inf")
    while (now := time.monotonic() - began) < 60 * options.minutes and process.poll() is None:
        watch.look()
        if kills and kills[-1].recovery is None and watch.steps > kills[-1].steps:
            kills[-1].recovery = now - kills[-1].seconds
        if now >= rejoin:
            nodes.add_one()
            rejoin = float("inf")
        if now >= due:
            due += options.every
            kind = strike(options.kinds, nodes, process.pid, dice)
            if kind == "node":
                rejoin = now + REJOIN_SECONDS
            if kind is not None:
                lost = max(0, watch.steps - watch.checkpoint()) if kind in ("learner", "driver") else 0
                kills.append(Kill(now, kind, watch.steps, lost))
                print(f"{now:5.0f} s: {kind} killed after {watch.steps:,} steps", flush=True)
        time.sleep(LOOK_SECONDS)
    return kills


def wait_for_run(process: subprocess.Popen[bytes], run: Path, seconds: float = 300) -> None:
    """Until it has learned something."""
    until = time.monotonic() + seconds
    while not read_lines(run):
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"the training did not begin: {(run.parent / 'log.txt').read_text()[-2000:]}")
        time.sleep(LOOK_SECONDS)


def strike(kinds: Sequence[str], nodes: Nodes, supervisor: int, dice: random.Random) -> str | None:
    """Kill one thing of a random kind of which there is one; the kind, or None where there is nothing at all."""
    for kind in dice.sample(kinds, len(kinds)):
        if kind == "node":
            if nodes.kill_one(dice):
                return kind
            continue
        if kind == "driver":
            below = [pid for pid in processes_below(supervisor) if pid != supervisor and " train " in title_of(pid)]
            victims = below[:1]
        else:
            victims = nodes.processes(TITLES[kind])
        if victims:
            os.kill(dice.choice(victims), signal.SIGKILL)
            return kind
    return None


def mean_return(run: Path, episodes: int) -> float:
    """Of the last checkpoint, over whole episodes on seeds that no training uses; of the T-maze it is the success."""
    subprocess.run([*R2AC, "evaluate", str(run), "--episodes", str(episodes)], check=True, stdout=subprocess.DEVNULL)
    (result,) = json.loads((run / "evaluation.json").read_text())["results"]
    return float(result["mean_return"])


def rows_of(kills: Sequence[Kill]) -> list[Row]:
    """One row for each kind."""
    rows = []
    for kind in KINDS:
        own = [kill for kill in kills if kill.kind == kind]
        known = [kill.recovery for kill in own if kill.recovery is not None]
        if own:
            rows.append(
                {
                    "killed": kind,
                    "kills": len(own),
                    "lost_steps": sum(kill.lost for kill in own),
                    "most_lost": max(kill.lost for kill in own),
                    "recovery": statistics.median(known) if known else None,
                    "longest": max(known) if known else None,
                    "unrecovered": len(own) - len(known),
                }
            )
    return rows


COLUMNS = [
    *own_columns("killed", "kills"),
    Column("steps learned again", lambda row: row["lost_steps"], ",.0f"),
    Column("most at once", lambda row: row["most_lost"], ",.0f"),
    Column("recovery, median s", lambda row: row["recovery"], ",.1f"),
    Column("longest, s", lambda row: row["longest"], ",.1f"),
    Column("next kill came first", lambda row: row["unrecovered"], ",.0f"),
]


def draw(figure: Any, figures: Row) -> None:
    """Recovery times of the kills over the minutes."""
    axes = figure.subplots()
    for kind in KINDS:
        own = [kill for kill in figures["kills"] if kill["kind"] == kind and kill["recovery"] is not None]
        axes.scatter([kill["seconds"] / 60 for kill in own], [kill["recovery"] for kill in own], label=kind)
    axes.set(xlabel="minutes", ylabel="seconds until training had come further", ylim=(0, None))
    axes.legend(fontsize="small")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The arguments."""
    parser = make_parser(__doc__)
    parser.add_argument("--task", default="memory/tmaze")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=1, help="of what is killed")
    parser.add_argument("--actors", type=count, default=2)
    parser.add_argument("--nodes", type=count, default=2, help="beside the head")
    parser.add_argument("--checkpoint-seconds", type=float, default=10.0)
    parser.add_argument("--total-steps", type=count, default=30_000_000, help="more than there is time for")
    parser.add_argument("--episodes", type=count, default=300, help="of the evaluation")
    parser.add_argument("--flags", type=shlex.split, default="--inference worker", help="more, for r2ac train")
    options = parser.parse_args(arguments)
    if options.quick:
        options.minutes, options.every, options.episodes = 0.5, 8.0, 10
    return parser, options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, kill, evaluate, print, write."""
    parser, options = parse(arguments)
    device = open_device(parser, options)
    head = header(device, options)
    print_header(head, f"{options.minutes:g} minutes, a kill every {options.every:g} s, {options.nodes} nodes")
    cpus = -(-options.actors // options.nodes)
    with tempfile.TemporaryDirectory(prefix="r2ac-chaos-") as folder:
        run = Path(folder) / "run"
        nodes = Nodes(options.nodes, cpus, head_cpus=4)
        try:
            outcome = chaos(options, nodes, run)
        finally:
            nodes.close()
        for sentence in outcome.wrong:
            print(f"Wrong: {sentence}")
        solved = mean_return(run, options.episodes)
    rows, last = rows_of(outcome.kills), outcome.last
    title = f"{len(outcome.kills)} kills in {outcome.seconds / 60:.1f} minutes, {last['env_steps']:,} steps learned"
    print_table(title, COLUMNS, rows)
    counted = {name: last[f"throughput/{name}"] for name in COUNTED}
    print(f"\nAt the end: mean return {solved:.3f}; exit code {outcome.exit_code}; {counted}")
    goals = [
        Goal("mean return at the end (of the T-maze: success)", solved, 0.95, True),
        Goal("lines that are wrong", float(len(outcome.wrong)), 0.0, False),
        Goal("minutes until it was asked to stop", outcome.seconds / 60, options.minutes, True),
    ]
    print_goals(goals)
    names = ("task", "minutes", "every", "kinds", "seed", "actors", "nodes", "checkpoint_seconds", "flags", "episodes")
    figures = {
        **head,
        "settings": {name: getattr(options, name) for name in names},
        **asdict(outcome),
        "by_kind": rows,
        "mean_return": solved,
    }
    write_files("chaos", options, figures, goals, draw)


if __name__ == "__main__":
    main()
