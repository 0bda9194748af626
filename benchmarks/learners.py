"""Steps a second of a training with 0, 1 and 2 learners in processes of their own (``--num-learners``).

    python benchmarks/learners.py                     memory/tmaze, in about 4 minutes on 2 CPU cores

Every training has the same task, network, actors, streams and batch: with K learners each has a share of 1/K. In every
round each of them runs once; ratios are medians over the rounds of the ratio in a round. 0 is one learner in the
process of ``r2ac train``, 1 the same in a Ray process, from 2 on their gradients are summed. On a machine with fewer
cores than processes the ratios say what the learners cost, not what they gain.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import _path  # noqa: F401
from report import (
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
from throughput_setting import MethodFailed, Setting
from throughput_system import measure_system

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.presets import preset

TASK = "memory/tmaze"


def make_setting(options: argparse.Namespace, device: str) -> Setting:
    """The preset of the T-maze with so many actors that all numbers of learners have equal shares."""
    config, quick = preset(TASK, algorithm="vtrace"), options.quick
    actors, streams = max(options.learners), 8 if quick else config.num_streams
    return Setting(
        task=TASK,
        actors=max(actors, 1),
        streams=streams // max(actors, 1),
        batch=8 if quick else config.batch_size,
        length=5 if quick else config.rollout_length,
        encoder=config.agent.encoder,
        hidden=16 if quick else options.hidden,
        features=config.agent.encoder_features,
        device=device,
        threads=options.threads,
        seconds=options.seconds or (0.5 if quick else 15),
    )


def measure(setting: Setting, learners: Sequence[int], rounds: int) -> list[Row]:
    """One row for each number of learners."""
    speeds: dict[int, list[float]] = {number: [] for number in learners}
    for turn in range(rounds):
        first = turn % len(learners)
        for number in (*learners[first:], *learners[:first]):
            with tempfile.TemporaryFile() as log:
                # One thread for each learner, so that only their number differs.
                changes = {"num-learners": number, "learner-threads": 1}
                speeds[number].append(measure_system(setting, changes, log)["steps_per_second"])
            told = f"{speeds[number][-1]:,.0f} steps/s"
            print(f"round {turn + 1} of {rounds}, {number} learners: {told}", file=sys.stderr, flush=True)
    base = speeds[learners[0]]
    return [
        {
            "learners": number,
            "steps_per_second": statistics.median(speeds[number]),
            "ratio": statistics.median(mine / other for mine, other in zip(speeds[number], base, strict=True)),
            "steps_per_second_of_rounds": speeds[number],
        }
        for number in learners
    ]


def draw(figure: Any, figures: Row) -> None:
    """A bar for each number of learners."""
    axes = figure.subplots()
    rows = figures["rows"]
    axes.bar([str(row["learners"]) for row in rows], [row["steps_per_second"] for row in rows])
    axes.set(xlabel="--num-learners", ylabel="steps/s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--learners", nargs="+", type=int, default=[0, 1, 2], help="numbers of learners; 0 1 2")
    parser.add_argument(
        "--hidden", type=count, default=preset(TASK, algorithm="vtrace").agent.hidden_size, help="N, 64 by default"
    )
    parser.add_argument("--seconds", type=float, help="of a measurement, by default 15")
    options = parser.parse_args(arguments)
    device = open_device(parser, options)
    head, rounds = header(device, options), options.rounds or (1 if options.quick else 3)
    setting = make_setting(options, device.type)
    more = (
        f"{TASK}, N {setting.hidden}, B {setting.batch}, T {setting.length}, {setting.actors} actors, {rounds} rounds"
    )
    print_header(head, more)
    try:
        rows = measure(setting, options.learners, rounds)
    except (MethodFailed, ConfigError) as error:
        sys.exit(f"a training {error}")
    columns = [
        *own_columns("learners"),
        Column("steps/s", lambda row: row["steps_per_second"], ",.0f"),
        Column(f"over {options.learners[0]} learners", lambda row: row["ratio"], ".2f"),
    ]
    print_table("Learners", columns, rows)
    write_files("learners", options, {**head, "setting": vars(setting), "rows": rows}, [], draw)


if __name__ == "__main__":
    main()
