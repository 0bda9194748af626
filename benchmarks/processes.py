"""Where the processor time of a training goes, by process, with several rollout actors and learners.

    python benchmarks/processes.py                               memory/tmaze by V-trace, in about 4 minutes
    python benchmarks/processes.py --before-python OLD/bin/python    in turn with another version's environment
    python benchmarks/processes.py --splits 1x1 --cores elstm lru rotation mingru     by cell

Every training has 64 streams in all and batches of 64 rollouts of 10 steps: an update of 640 steps, of all learners.
Processor time is what the kernel counts for each process (user and system), so that what else runs on the machine
matters little. The wall clock shows which process waits. The parts of a bare update have the
names that a profile would give them; what the readable agent has as encoder, core and heads, its kernel has as one.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import numpy as np
from learner_update import Preset, synthetic_rollout
from report import (
    COLOURS,
    Column,
    Row,
    header,
    make_parser,
    open_device,
    own_columns,
    print_header,
    print_table,
    write_files,
)
from throughput_setting import MethodFailed, last_line, run_json, start_group, stop_group
from throughput_system import R2AC, read_lines, seconds_by_role

from r2ac.agents import Agent, ObservationSpec, scopes
from r2ac.envs import make_vector
from r2ac.launch.runtime.process import set_up_process
from r2ac.launch.settings.presets import preset
from r2ac.learner import Learner, Rollout

TASK, STREAMS = "memory/tmaze", 64
SPLITS = ((1, 1, "rtrl"), (1, 1, "tbptt"), (2, 1, "rtrl"), (4, 1, "rtrl"), (2, 2, "rtrl"), (4, 2, "rtrl"))
"""Rollout actors, learners and the gradient; each learner has actors of its own."""
BARE_UPDATES = 300
START_SECONDS = 300
ROLES = ("learners", "actors", "others")
WAITS = {"learner_wait": "throughput/learner_wait", "actor_wait": "throughput/actor_wait"}
PARTS = ("copies", "encoder", "core", "heads", "agent", "losses", "backward", "optimiser", "metrics")


class Clock(Counter[str]):
    """Processor seconds by the names of :func:`r2ac.agents.scopes.scope`, in place of a profiler."""

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self[name] += time.process_time() - began

    def start(self) -> None:
        """Time the scopes of all modules from now on."""
        for module in list(sys.modules.values()):
            if getattr(module, "scope", None) is scopes.scope and module is not scopes:
                vars(module)["scope"] = self.scope


def make_learner(gradient: Any, core: str) -> tuple[Learner, Rollout[np.ndarray]]:
    """A learner of the task, on one thread, and a rollout of noise."""
    set_up_process(1)
    config = preset(TASK, algorithm="vtrace")
    env = make_vector(TASK, 1, 0, options=config.env)
    spec = ObservationSpec.of(env)
    env.close()
    agent = Agent(spec, replace(config.agent, core=core, gradient=gradient))
    learner = Learner(agent, config.learner, num_streams=STREAMS, total_steps=10**12)
    shape = Preset(spec.shape, config.agent.hidden_size, spec.actions.parameters, 1, config.rollout_length, ())
    return learner, synthetic_rollout(config.rollout_length, STREAMS, shape, agent.core.state_size)


def bare(gradient: Any, core: str = "elstm", updates: int = BARE_UPDATES) -> float:
    """Median processor milliseconds of a single update of a learner alone, on noise, on one thread."""
    learner, rollout = make_learner(gradient, core)
    return statistics.median(1000 * each for each in update(learner, rollout, updates, time.process_time))


def update(learner: Learner, rollout: Rollout[np.ndarray], updates: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each of some updates, by a clock."""
    spent = []
    for _ in range(updates):
        rollout.sequence[:] = learner.carries.next_sequence
        began = clock()
        learner.update(rollout)
        spent.append(clock() - began)
    return spent


def parts(gradient: Any, core: str) -> Row:
    """Processor milliseconds of the parts of such an update, and of all of it; medians of blocks of 30."""
    learner, rollout = make_learner(gradient, core)
    update(learner, rollout, BARE_UPDATES, time.process_time)
    clock, blocks, size = Clock(), list[Row](), 30
    clock.start()
    for _ in range(BARE_UPDATES // size):
        clock.clear()
        whole = sum(update(learner, rollout, size, time.process_time))
        blocks.append({name: 1000 * seconds / size for name, seconds in {**clock, "all": whole}.items()})
    return {name: statistics.median(block.get(name, 0.0) for block in blocks) for name in (*PARTS, "all")}


def measure(python: str, actors: int, learners: int, gradient: str, core: str, seconds: float) -> Row:
    """Steps a second, and processor milliseconds of an update, by role. Raises MethodFailed where the training ends by
    itself."""
    flags = {
        "algorithm": "vtrace",
        "core": core,
        "gradient": gradient,
        "num-actors": actors,
        "num-learners": learners if learners > 1 else 0,
        "streams-per-actor": STREAMS // actors,
        "batch-size": STREAMS,
        "total-steps": 10**12,
        "log-steps": 20_000,
        "checkpoint-minutes": 1000,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory(prefix="r2ac-processes-") as folder, tempfile.TemporaryFile() as log:
        run = Path(folder) / "run"
        process = start_group([python, *R2AC[1:], "train", TASK, *words, "--run-dir", str(run)], log)

        def sample(least: int) -> tuple[Counter[str], list[Row]]:
            """The seconds, and the lines, of which there are ``least`` or more, as soon as another one is written."""
            until, known = time.monotonic() + START_SECONDS, max(len(read_lines(run)), least - 1)
            while len(read_lines(run)) <= known:
                if process.poll() is not None or time.monotonic() > until:
                    raise MethodFailed(f"no lines: {last_line(log)}")
                time.sleep(0.02)
            return seconds_by_role(process.pid), read_lines(run)

        try:
            before, (*_, first) = sample(3)
            time.sleep(seconds)
            after, lines = sample(0)
        finally:
            stop_group(process)
    new = [line for line in lines if line["env_steps"] > first["env_steps"]]
    updates = (lines[-1]["env_steps"] - first["env_steps"]) / (
        STREAMS * preset(TASK, algorithm="vtrace").rollout_length
    )
    steps, wall = ((lines[-1][name] - first[name]) for name in ("env_steps", "wall_time"))
    means = {name: statistics.mean(line.get(key, 0.0) for line in new) for name, key in WAITS.items()}
    spent = {name: 1000 * (after[name] - before[name]) / updates for name in ROLES}
    return {"steps_per_second": steps / wall, **spent, **means}


COLUMNS = [
    *own_columns("version", "actors x learners", "gradient", "core"),
    Column("steps/s", lambda row: row["steps_per_second"], ",.0f"),
    *(Column(f"{name}, processor ms an update", lambda row, name=name: row[name], ".2f") for name in ROLES),
    Column("a bare update", lambda row: row["bare"], ".2f"),
    *(Column(name.replace("_", "'s "), lambda row, name=name: row[name], ".2f") for name in WAITS),
]
PART_COLUMNS = [
    *own_columns("version", "gradient", "core"),
    *(Column(name, lambda row, name=name: row["parts"][name], ".2f") for name in (*PARTS, "all")),
]


def medians(rows: Sequence[Row]) -> Row:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def draw(figure: Any, figures: Row) -> None:
    """A bar for each training, its roles one upon another."""
    axes, rows = figure.subplots(), figures["processes"]
    labels, bottom = [f"{row['version']}\n{row['actors x learners']}" for row in rows], [0.0] * len(rows)
    for name, colour in zip(ROLES, COLOURS, strict=False):
        heights = [row[name] for row in rows]
        axes.bar(labels, heights, bottom=bottom, label=name, color=colour)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_ylabel("processor ms an update")
    axes.legend()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, help="of a measurement, by default 20")
    parser.add_argument("--before-python", help="the Python of an environment with another version of r2ac")
    parser.add_argument("--splits", nargs="+", metavar="ACTORSxLEARNERS", help="by default 1x1, 2x1, 4x1, 2x2 and 4x2")
    parser.add_argument("--cores", nargs="+", default=["elstm"], help="names that --core takes, by default elstm")
    parser.add_argument("--bare", nargs=2, metavar=("GRADIENT", "CORE"), help="time updates alone, and print JSON")
    options = parser.parse_args(arguments)
    if options.bare:
        print(json.dumps({"bare": bare(*options.bare), "parts": parts(*options.bare)}))
        return
    head = header(open_device(parser, options), options)
    splits = [split for split in SPLITS if f"{split[0]}x{split[1]}" in (options.splits or [f"{split[0]}x{split[1]}"])]
    if not splits:
        parser.error(f"--splits has none of {', '.join(f'{actors}x{learners}' for actors, learners, _ in SPLITS)}")
    rounds, seconds = options.rounds or (1 if options.quick else 2), options.seconds or (3 if options.quick else 20)
    print_header(head, f"{rounds} rounds")
    pythons = {"now": sys.executable, **({"before": options.before_python} if options.before_python else {})}
    found: dict[tuple[str, int, int, str, str], list[Row]] = {}
    for number in range(rounds):
        for split in [(*split, core) for split in splits[: 1 if options.quick else None] for core in options.cores]:
            for version in list(pythons)[:: 1 if number % 2 else -1]:
                row = measure(pythons[version], *split, seconds)
                with tempfile.TemporaryFile() as log:
                    row |= run_json((pythons[version], __file__, "--bare", *split[2:]), log, START_SECONDS)
                found.setdefault((version, *split), []).append(row)
                what = "{}x{} {} {}".format(*split)
                speed = f"{row['steps_per_second']:,.0f} steps/s"
                print(f"round {number + 1} of {rounds}, {version}, {what}: {speed}", file=sys.stderr, flush=True)
    rows: list[Row] = []
    for (version, actors, learners, gradient, core), each in found.items():
        kind = {"version": version, "actors x learners": f"{actors} x {learners}", "gradient": gradient, "core": core}
        of_parts = medians([row["parts"] for row in each])
        rows.append({**kind, **medians([{**row, "parts": 0.0} for row in each]), "parts": of_parts})
    print_table("Processor time", COLUMNS, rows)
    print_table("A bare update, processor ms", PART_COLUMNS, rows)
    write_files("processes", options, {**head, "rounds": rounds, "processes": rows}, [], draw)


if __name__ == "__main__":
    main()
