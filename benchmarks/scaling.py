"""What 1, 10, 100 and 1000 nodes would give, and what would stop them: computed from rates measured on this machine.

    python benchmarks/scaling.py                                  three tasks, nodes of 16 cores, 10 Gbit/s
    python benchmarks/scaling.py --cores 64 --gigabits 25 --learner-speed 20
    python benchmarks/scaling.py --tasks procgen/chaser --learners 8 --publish-every 8

The rates of environments, networks and learner come from the results of throughput.py, which must have been run; what
a learner can take from Ray's object store is measured here, with rollouts of the task's size. No cluster is measured:
nodes, network and faster learners are assumptions, which the arguments set. The system makes what the smallest of
these allows:

    actors       nodes x cores x R           R: steps/s of a core that steps environments and chooses their actions
    learners     K x L                       L: steps/s of one learner, times --learner-speed
    hand-over    K x H x streams x T         H: rollouts of a whole actor that one learner can take a second
    frames in    K x min(network, O) / b     b: bytes of a step, O: bytes/s out of the object store
    weights out  network x K x B T k / (W nodes)      a learner sends W bytes to each node of its actors every k updates
    gradients    network x B T K / (2 W (K - 1))      a ring: each learner sends 2 W (K - 1) / K bytes an update
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import _path  # noqa: F401
from report import (
    COLOURS,
    Column,
    Row,
    count,
    header,
    make_parser,
    open_device,
    own_columns,
    print_header,
    print_table,
    write_files,
)
from throughput_bare import agent_config
from throughput_setting import Setting

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import make_vector
from r2ac.launch.cluster.connect import connect
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.settings.presets import preset
from r2ac.learner.carries import CarryStore

NODES = (1, 10, 100, 1000)
READY_ACTORS, WARM_UP = 2, 8


@dataclass(frozen=True)
class Rates:
    """What was measured."""

    actor: float
    """R, steps a second of one core."""
    learner: float
    """L, steps a second of one learner."""
    hand_overs: float
    """H, rollouts of whole actors that a learner takes a second."""
    store_bytes: float
    """O, bytes that a learner takes from the object store a second."""


@dataclass(frozen=True)
class Work:
    """What a training is made of."""

    streams: int
    """Of one rollout actor."""
    length: int
    """T."""
    batch: int
    """B, of all learners together."""
    step_bytes: float
    """b."""
    weights_bytes: float
    """W."""
    sensitivity_bytes: float
    """Of one stream."""
    publish_every: int
    """k."""
    in_flight: int
    """Rollouts that an actor may be ahead."""


@dataclass(frozen=True)
class Cluster:
    """What is assumed."""

    nodes: int
    cores: int
    """Of a node, each with a rollout actor."""
    network: float
    """Bytes a second that a node can send, and receive."""
    learners: int
    """K."""


def limits(rates: Rates, work: Work, cluster: Cluster) -> dict[str, float]:
    """Steps a second that each part allows, by the equations at the head of this file."""
    nodes, learners, network = cluster.nodes, cluster.learners, cluster.network
    update = work.batch * work.length
    gradients = network * update * learners / (2 * work.weights_bytes * (learners - 1)) if learners > 1 else inf
    return {
        "actors": nodes * cluster.cores * rates.actor,
        "learners": learners * rates.learner,
        "hand-over": learners * rates.hand_overs * work.streams * work.length,
        "frames in": learners * min(network, rates.store_bytes) / work.step_bytes,
        "weights out": network * learners * update * work.publish_every / (work.weights_bytes * nodes),
        "gradients": gradients,
    }


def estimate(rates: Rates, work: Work, cluster: Cluster) -> Row:
    """One row: what the system makes, what stops it, and what it costs."""
    allowed = limits(rates, work, cluster)
    stops = min(allowed, key=lambda part: allowed[part])
    streams = cluster.nodes * cluster.cores * work.streams
    return {
        "nodes": cluster.nodes,
        "learners": cluster.learners,
        # JSON has no infinity.
        "allowed": {part: speed if speed < inf else None for part, speed in allowed.items()},
        "stops": stops,
        "steps_per_second": allowed[stops],
        "useful_nodes": allowed[stops] / (cluster.cores * rates.actor),
        "lag": streams * work.in_flight / work.batch,
        "sensitivities_gb": streams * work.sensitivity_bytes / cluster.learners / 1e9,
    }


def measure_hand_over(layout: RolloutLayout, seconds: float) -> float:
    """Rollouts of the layout that this process takes from Ray's object store a second, where two actors always have one
    ready, and copies into a batch."""
    connection = connect("local", num_actors=READY_ACTORS)
    ray = connection.ray
    try:

        @ray.remote(num_cpus=0)
        class Ready:
            def __init__(self) -> None:
                self._rollout = layout.empty()
                for array in self._rollout.arrays().values():
                    array[...] = 0

            def collect(self, sequence: int) -> Any:
                self._rollout.sequence[:] = sequence
                return self._rollout

        actors = [Ready.remote() for _ in range(READY_ACTORS)]
        orders = {actor.collect.remote(0): actor for actor in actors for _ in range(2)}
        batch = layout.empty()
        taken, began = 0, 0.0
        while not began or time.perf_counter() - began < seconds:
            (ready, *_), _ = ray.wait(list(orders), num_returns=1)
            actor = orders.pop(ready)
            orders[actor.collect.remote(taken)] = actor
            for name, array in ray.get(ready).arrays().items():
                getattr(batch, name)[...] = array
            taken += 1
            if not began and taken == WARM_UP:
                taken, began = 0, time.perf_counter()
        return taken / (time.perf_counter() - began)
    finally:
        connection.close()


def measured(row: Row, options: argparse.Namespace) -> tuple[Rates, Work, Row]:
    """Rates and work of a task: from its row in the results of throughput.py, and measured here."""
    setting, speeds = Setting(**row["setting"]), row["steps_per_second"]
    config = preset(setting.task, algorithm="vtrace")
    env = make_vector(setting.task, 1, 0, options=config.env)
    spec = ObservationSpec.of(env)
    env.close()
    agent = Agent(spec, agent_config(setting, config))
    layout = RolloutLayout(setting.length, setting.streams, spec, agent.core.state_size)
    hand_overs = measure_hand_over(layout, 1.0 if options.quick else 8.0)
    work = Work(
        streams=setting.streams,
        length=setting.length,
        batch=setting.batch * options.learners,
        step_bytes=layout.nbytes() / (setting.streams * setting.length),
        weights_bytes=sum(parameter.nbytes for parameter in agent.parameters()),
        sensitivity_bytes=CarryStore(agent.core, 1).nbytes(),
        publish_every=options.publish_every,
        in_flight=2,
    )
    stepping = speeds.get("environment-1") or speeds["environment"]
    rates = Rates(
        actor=1 / (1 / stepping + 1 / speeds["inference"]),
        learner=speeds["learner"] * options.learner_speed,
        hand_overs=hand_overs,
        store_bytes=hand_overs * layout.nbytes(),
    )
    return rates, work, {"task": row["task"], "device": row["setting"]["device"]}


COLUMNS = [
    *own_columns("task", "nodes", "learners"),
    Column("steps/s", lambda row: row["steps_per_second"], ",.0f"),
    *own_columns("stops"),
    Column("nodes that are enough", lambda row: row["useful_nodes"], ",.1f"),
    *(
        Column(part, lambda row, part=part: row["allowed"][part], ",.3g")
        for part in ("actors", "learners", "hand-over", "frames in", "weights out", "gradients")
    ),
    Column("most updates that a policy is old", lambda row: row["lag"], ",.0f"),
    Column("sensitivities of a learner, GB", lambda row: row["sensitivities_gb"], ",.1f"),
]
NOTE = """Steps a second that each part allows; the smallest stops the system. Beyond the nodes that are enough, more
add nothing but lag: all streams' rollouts in flight wait for their turn, and every stream has sensitivities."""


def read_results(path: Path, tasks: Sequence[str] | None) -> list[Row]:
    """The rows of throughput.py that have all that is needed.

    Raises:
        ValueError: where there are none, or the file is not one of throughput.py.
    """
    try:
        rows = json.loads(path.read_text())["throughput"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of throughput.py, which must have been run: {error}") from error
    needed = ("environment", "inference", "learner")
    known = {row["task"]: row for row in rows if all(row["steps_per_second"].get(method) for method in needed)}
    missing = [task for task in tasks or () if task not in known]
    if missing or not known:
        raise ValueError(f"{path} has {', '.join(known) or 'no task'}, not {', '.join(missing) or 'one'}")
    return [known[task] for task in tasks or known]


def draw(figure: Any, figures: Row) -> None:
    """Steps a second over nodes, a line for each task, and what the actors alone would make."""
    axes = figure.subplots()
    rows = figures["scaling"]
    for colour, task in zip(COLOURS, dict.fromkeys(row["task"] for row in rows), strict=False):
        own = [row for row in rows if row["task"] == task]
        nodes = [row["nodes"] for row in own]
        axes.plot(nodes, [row["steps_per_second"] for row in own], color=colour, marker="o", label=task)
        axes.plot(nodes, [row["allowed"]["actors"] for row in own], color=colour, linestyle="dotted")
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="steps a second (dotted: actors alone)")
    axes.legend(fontsize="small")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The arguments."""
    parser = make_parser(__doc__)
    parser.add_argument("--results", type=Path, help="of throughput.py, by default those of this machine")
    parser.add_argument("--tasks", nargs="+", help="by default all that the results have")
    parser.add_argument("--cores", type=count, default=16, help="of a node, each with a rollout actor")
    parser.add_argument("--gigabits", type=float, default=10.0, help="a second, of a node's network")
    parser.add_argument("--learners", type=count, default=1, help="K; B grows with it")
    parser.add_argument("--learner-speed", type=float, default=1.0, help="how many times as fast as the measured one")
    parser.add_argument("--publish-every", type=count, default=1, help="k, updates between two publications")
    options = parser.parse_args(arguments)
    for name in ("gigabits", "learner_speed"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}, but it must be above 0")
    return parser, options


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, measure the hand-over, compute, print, write."""
    parser, options = parse(arguments)
    device = open_device(parser, options)
    head = header(device, options)
    slug = "-".join(re.findall(r"[a-z0-9]+", str(head["device"]).lower()))
    path = options.results or Path(__file__).parent / "results" / f"throughput-{slug}.json"
    try:
        known = read_results(path, options.tasks)
    except ValueError as error:
        parser.error(str(error))
    print_header(head, f"nodes of {options.cores} cores and {options.gigabits:g} Gbit/s, which nobody measured")
    rows = []
    for each in known:
        rates, work, more = measured(each, options)
        print(f"{each['task']}: one learner takes {rates.hand_overs:,.0f} rollouts of {work.streams} streams a second")
        for nodes in NODES:
            cluster = Cluster(nodes, options.cores, options.gigabits * 1e9 / 8, options.learners)
            rows.append({**more, **estimate(rates, work, cluster), "rates": asdict(rates), "work": asdict(work)})
    print_table("What nodes would give", COLUMNS, rows, NOTE)
    write_files("scaling", options, {**head, "scaling": rows}, [], draw)


if __name__ == "__main__":
    main()
