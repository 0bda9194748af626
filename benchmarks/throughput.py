"""Steps a second of the whole training system, beside what its parts can do alone and beside RLlib's IMPALA.

    python benchmarks/throughput.py                        every task, in about 45 minutes on 2 CPU cores
    python benchmarks/throughput.py --tasks memory/tmaze --rounds 5
    python benchmarks/throughput.py --methods system tbptt

Every method has the same task, network, T, B, actors and environments, and in every round each of them runs once, in
processes of its own. Ratios are medians over the rounds of the ratio in a round. Those "in turn" are of one process,
where the system's updates and the learner's alone take turns, so that chance and other work on the machine matter
little; they suppose that what a learner does between updates is the same by RTRL and by TBPTT, and that it does not
wait for its actors: of a round in which it waits for more than a twentieth of its time they are left out.

    system         r2ac train with Ray actors, by RTRL; its throughput is that of its metrics.jsonl after the start-up
    tbptt          the same by TBPTT
    object-store   the system with --transport ray: orders, weights and rollouts through Ray
    worker         the system with --inference worker: one process acts for all rollout actors
    turns          the system's updates and those on noise by RTRL and TBPTT, in turn in the learner's process
    in-process     r2ac train --num-actors 0: acting and learning in turns in one process, by RTRL
    environment    bare environments with random actions, one process for each actor
    environment-1  one process of them
    inference      the network as a rollout actor runs it, one thread
    learner        bare updates on noise, all cores (or the GPU)
    learner-1      the same on one thread
    rllib          RLlib's IMPALA with an LSTM (see rllib_impala.py for what differs, and what it wants installed)
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import numpy as np
from report import (
    COLOURS,
    Column,
    Goal,
    Row,
    count,
    header,
    make_parser,
    open_device,
    print_goals,
    print_header,
    print_table,
    write_files,
)
from throughput_ceiling import Parts, median_ratio
from throughput_setting import MethodFailed, Setting, run_json
from throughput_system import measure_system

from r2ac.envs import UnknownTask, find_task
from r2ac.launch.settings.presets import preset

TASKS = ("memory/tmaze", "procgen/chaser", "atari/Breakout")
BARE = {
    "environment": ("environment",),
    "environment-1": ("environment", "--alone"),
    "inference": ("inference",),
    "learner": ("learner",),
    "learner-1": ("learner", "--alone"),
}
# What each adds to the system's command line.
TRAININGS = {
    "system": {"gradient": "rtrl"},
    "tbptt": {"gradient": "tbptt"},
    "object-store": {"transport": "ray"},
    "worker": {"inference": "worker"},
    "in-process": {"num-actors": 0},
}
TURNS, RLLIB = "turns", "rllib"
METHODS = (*TRAININGS, TURNS, *BARE, RLLIB)
FOLDER = Path(__file__).parent
START_SECONDS = 180
MOST_WAIT = 0.05
"""With more, "in turn" says nothing of the learner."""
Speeds = dict[str, list[float | None]]
"""Of every method, one a round; None where it failed."""


def parse(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The arguments, without what depends on the task."""
    parser = make_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", help=f"by default {', '.join(TASKS)}")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--actors", type=count, help="rollout actors, by default one a core but for the learner's")
    parser.add_argument("--streams", type=count, help="environments of an actor, by default 64 in all, of images 32")
    parser.add_argument("--batch", type=count, help="B, by default the task's preset, at most as many as streams")
    parser.add_argument("--length", type=count, help="T, by default the task's preset")
    parser.add_argument("--encoder", choices=["nature", "impala"], default="nature", help="for images")
    parser.add_argument("--seconds", type=float, help="of a measurement, by default 10, of images 20")
    parser.add_argument("--rllib-python", default=sys.executable, help="the Python of an environment with RLlib")
    options = parser.parse_args(arguments)
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds is {options.seconds}, but it must be above 0")
    return parser, options


def make_setting(task: str, options: argparse.Namespace, device: str) -> Setting:
    """What the arguments leave open is the task's preset; an image has the encoder of the arguments.

    Raises:
        ValueError: for a batch of more rollouts than there are streams.
    """
    config, quick = preset(task, algorithm="vtrace"), options.quick
    spaces = find_task(task).spaces(config.env)
    images = spaces is not None and len(spaces.shape) == 3
    actors = options.actors or max(1, options.threads - 1)
    streams = options.streams or max(1, (8 if quick else 32 if images else 64) // actors)
    if options.batch is not None and options.batch > actors * streams:
        raise ValueError(f"--batch is {options.batch}, but {actors} actors have {actors * streams} streams together")
    return Setting(
        task=task,
        actors=actors,
        streams=streams,
        batch=options.batch or min(config.batch_size, actors * streams),
        length=options.length or (5 if quick else config.rollout_length),
        encoder=options.encoder if images else config.agent.encoder,
        hidden=16 if quick else config.agent.hidden_size,
        features=16 if quick else config.agent.encoder_features,
        device=device,
        threads=options.threads,
        seconds=options.seconds or (0.5 if quick else 20 if images else 10),
    )


def measure_method(method: str, setting: Setting, rllib_python: str) -> Row:
    """Steps a second of a method, and what else it tells.

    Raises:
        MethodFailed: where it gives no figures.
    """
    with tempfile.TemporaryFile() as log:
        if method in TRAININGS:
            return measure_system(setting, TRAININGS[method], log)
        python, words = sys.executable, (str(FOLDER / "throughput_bare.py"), *BARE.get(method, ()))
        if method == TURNS:
            if setting.device != "cpu":
                raise MethodFailed("the host does not wait for a GPU after each update")
            words = (str(FOLDER / "throughput_turns.py"),)
        if method == RLLIB:
            python, words = rllib_python, (str(FOLDER / "rllib_impala.py"),)
            streams = max(1, setting.actors * setting.streams // setting.threads)
            setting = replace(setting, actors=setting.threads, streams=streams)
        return run_json((python, *words, *setting.flags()), log, START_SECONDS + 4 * setting.seconds)


def measure(setting: Setting, methods: Sequence[str], rounds: int, rllib_python: str) -> Row:
    """One row: every method in every round; one that fails once is left out from then on."""
    speeds: Speeds = {method: [] for method in methods}
    more: dict[str, list[Row]] = {method: [] for method in methods}
    failures: dict[str, str] = {}
    for number in range(rounds):
        # Every method comes at every place of a round: what ran before leaves caches and clocks in its own state.
        first = number % len(methods)
        for method in (*methods[first:], *methods[:first]):
            said: Row = {}
            if method not in failures:
                try:
                    said = measure_method(method, setting, rllib_python)
                except MethodFailed as error:
                    failures[method] = str(error)
            speed = said.pop("steps_per_second", None)
            speeds[method].append(speed)
            more[method].append(said)
            told = failures[method] if speed is None else f"{speed:,.0f} steps/s"
            print(f"{setting.task}, round {number + 1} of {rounds}, {method}: {told}", file=sys.stderr, flush=True)
    return {**summary(setting, speeds, more), "failures": failures}


def summary(setting: Setting, speeds: Speeds, more: dict[str, list[Row]]) -> Row:
    """The medians and ratios of a task."""
    rounds = len(next(iter(speeds.values())))

    def of(method: str) -> list[float | None]:
        return speeds.get(method, [None] * rounds)

    parts = [parts_of(setting, {method: each[number] for method, each in speeds.items()}) for number in range(rounds)]
    ceilings = [None if each is None else each.ceiling() for each in parts]
    splits = [None if each is None else each.split() for each in parts]
    without_inference = [None if each is None else each.ceiling(with_inference=False) for each in parts]
    slower_sides = [None if each is None else each.slower_side for each in parts]
    extra = {method: median_of_each(said) for method, said in more.items() if any(said)}
    turns = [said for said in more.get(TURNS, []) if said and said["learner_wait"] <= MOST_WAIT]
    learned: list[float | None] = [said.get("learned_per_second") for said in more.get(RLLIB, [{}] * rounds)]
    known = {method: [speed for speed in each if speed is not None] for method, each in speeds.items()}
    return {
        "task": setting.task,
        "setting": asdict(setting),
        "steps_per_second": {method: statistics.median(each) if each else None for method, each in known.items()},
        "ceiling": median_of(ceilings),
        "split": median_of(splits),
        "ratios": {
            "system over slower side of the split": median_ratio(of("system"), splits),
            "system over ceiling": median_ratio(of("system"), ceilings),
            "without inference": median_ratio(of("system"), without_inference),
            "system over slower side on all cores": median_ratio(of("system"), slower_sides),
            "system over in-process": median_ratio(of("system"), of("in-process")),
            "system over object store": median_ratio(of("system"), of("object-store")),
            "system over worker": median_ratio(of("system"), of("worker")),
            "RTRL over TBPTT": median_ratio(of("system"), of("tbptt")),
            "system over learner, in turn": median_of([said["rtrl_ms"] / said["system_ms"] for said in turns]),
            "RTRL over TBPTT, in turn": median_of(
                [1 - (said["rtrl_ms"] - said["tbptt_ms"]) / said["system_ms"] for said in turns]
            ),
            "system over RLlib": median_ratio(of("system"), of(RLLIB)),
            "system over RLlib, learned": median_ratio(of("system"), learned),
        },
        "more": extra,
        "steps_per_second_of_rounds": speeds,
        "turns_of_rounds": [said for said in more.get(TURNS, []) if said],
    }


def parts_of(setting: Setting, speeds: dict[str, float | None]) -> Parts | None:
    """The parts of one round; None where one of them was not measured."""
    environment, inference = speeds.get("environment"), speeds.get("inference")
    learner, alone = speeds.get("learner"), speeds.get("learner-1")
    if environment is None or inference is None or learner is None:
        return None
    # Without the figure of one thread all cores are taken for the learner's best use of them.
    alone = learner / setting.threads if alone is None else alone
    shared = setting.device == "cpu"
    return Parts(environment, inference, learner, alone, setting.actors, setting.threads, shared)


def median_of(values: Sequence[float | None]) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def median_of_each(rows: Sequence[Row]) -> Row:
    """Of every key that rows have."""
    return {key: median_of([row.get(key) for row in rows]) for key in {key for row in rows for key in row}}


def goals_of(row: Row) -> list[Goal]:
    """Of one task."""
    task, ratios = row["task"], row["ratios"]
    images = row["setting"]["encoder"] in ("nature", "impala")
    goals = (
        ("system over the slower side", "system over slower side of the split", 0.85),
        ("RTRL over TBPTT", "RTRL over TBPTT", 0.95),
        ("system over the learner, in turn", "system over learner, in turn", 0.85),
        ("RTRL over TBPTT, in turn", "RTRL over TBPTT, in turn", 0.95),
        ("times RLlib's steps", "system over RLlib", 1.3 if images else 3.0),
    )
    return [Goal(f"{task}: {text}", ratios[name], bound, True) for text, name, bound in goals]


def setting_text(row: Row) -> str:
    """The sizes in a cell."""
    s = row["setting"]
    return f"{s['actors']}x{s['streams']}, B={s['batch']}, T={s['length']}, {s['encoder']}, N={s['hidden']}"


def print_figures(rows: Sequence[Row]) -> None:
    """Both tables, and why what is missing is missing."""
    speeds = [
        Column(method, lambda row, method=method: row["steps_per_second"].get(method), ",.0f") for method in METHODS
    ]
    sizes = Column("actors x streams, sizes", setting_text)
    task = Column("task", lambda row: row["task"])
    ceiling = Column("ceiling", lambda row: row["ceiling"], ",.0f")
    learned = Column("rllib, learned", lambda row: row["more"].get(RLLIB, {}).get("learned_per_second"), ",.0f")
    split = Column("slower side of the split", lambda row: row["split"], ",.0f")
    print_table("Steps a second", [task, sizes, *speeds, learned, split, ceiling], rows, NOTE)
    ratios = [Column(name, lambda row, name=name: row["ratios"][name], ".3f") for name in rows[0]["ratios"]]
    waits = [
        Column(f"{label} of the system", lambda row, key=key: row["more"].get("system", {}).get(key), ".2f")
        for label, key in (("learner's wait", "learner_wait"), ("policy lag", "policy_lag"))
    ]
    print_table("Ratios", [task, *ratios, *waits], rows)
    for row in rows:
        for method, reason in row["failures"].items():
            print(f"\n{row['task']}, {method} was not measured: {reason}")


NOTE = """The slower side of the split: the learner has some cores for itself, environments and inference the others.
The ceiling: core-seconds of all three add up, and every core is always in use (where the learner has a GPU, both are
the slower of the two sides). RLlib has a runner on each core, with as many environments in all; its steps are those
that it samples; learned are those that its learner does not drop. Its core is torch's LSTM by TBPTT and does not read
the last reward; it steps Gymnasium's single environments."""


def draw(figure: Any, figures: Row) -> None:
    """Bars side by side, and the ceiling as a line over them."""
    axes, rows = figure.subplots(), figures["throughput"]
    shown = [method for method in METHODS if any(row["steps_per_second"].get(method) for row in rows)]
    width = 0.8 / max(len(shown), 1)
    colours = (*COLOURS, "#F0E442", "#000000", "#999999", "#882255", "#44AA99", "#DDCC77")
    for i, method in enumerate(shown):
        places = np.arange(len(rows)) + (i - (len(shown) - 1) / 2) * width
        heights = [row["steps_per_second"].get(method) or np.nan for row in rows]
        axes.bar(places, heights, width, color=colours[i], label=method)
    for number, row in enumerate(rows):
        if row["ceiling"] is not None:
            label = "ceiling" if number == 0 else None
            axes.hlines(row["ceiling"], number - 0.4, number + 0.4, colors="black", linestyles="dashed", label=label)
    axes.set_xticks(np.arange(len(rows)), [f"{row['task']}\n{setting_text(row)}" for row in rows], fontsize="small")
    axes.set(yscale="log", ylabel="steps a second")
    figure.legend(loc="outside right upper")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser, options = parse(arguments)
    device = open_device(parser, options)
    rounds = options.rounds or (1 if options.quick else 3)
    settings = []
    for task in options.tasks or (TASKS[:1] if options.quick else TASKS):
        try:
            if (missing := find_task(task).suite.missing()) is not None:
                print(f"{task} is left out: {missing}")
                continue
            settings.append(make_setting(task, options, str(device)))
        except (UnknownTask, ValueError) as error:
            parser.error(str(error))
    if not settings:
        parser.error("none of the tasks can run here")
    head = header(device, options)
    print_header(head, f"{rounds} rounds")
    rows = [measure(setting, options.methods, rounds, options.rllib_python) for setting in settings]
    print_figures(rows)
    goals = [goal for row in rows for goal in goals_of(row)]
    print_goals(goals)
    write_files("throughput", options, {**head, "rounds": rounds, "throughput": rows}, goals, draw)


if __name__ == "__main__":
    main()
