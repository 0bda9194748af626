"""A training at full speed for half an hour: does anything grow, or slow down?

    python benchmarks/soak.py                          memory/tmaze through Ray, 30 minutes
    python benchmarks/soak.py --minutes 5 --flags "procgen/chaser --encoder nature --num-actors 1"

Every few seconds it notes the resident memory and the open files of the training's process and of all processes below
it, and takes steps and queue length from the run's metrics.jsonl. After the warm-up (the first fifth of the time) it
fits a line to the memory of each process, compares the files at the beginning and the end, and the steps a second in
the first and the last quarter.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import numpy as np
from report import (
    Column,
    Goal,
    Row,
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

WARM_UP = 0.2
LEAST_GROWTH_MB = 4.0
"""Growth below this, or below 1 % of a process, is noise: a heap of Python breathes by as much."""


@dataclass
class Watched:
    """What was seen of a process."""

    name: str
    seconds: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def row(self, warm_up: float) -> Row:
        """Its memory and files after the warm-up."""
        seconds, memory = np.array(self.seconds), np.array(self.resident_mb)
        kept = seconds >= warm_up
        slope, level = np.polyfit(seconds[kept], memory[kept], 1)
        growth = slope * (seconds[-1] - warm_up)
        files = np.array(self.files)[kept]
        quarter = max(1, len(files) // 4)
        return {
            "process": self.name,
            "resident_mb": float(level + slope * warm_up),
            "growth_mb": float(growth),
            "noise_mb": float(np.std(memory[kept] - (level + slope * seconds[kept]))),
            "files": float(np.median(files[:quarter])),
            "files_at_the_end": float(np.median(files[-quarter:])),
        }


def look(pid: int) -> tuple[float, int]:
    """Resident memory in 10^6 bytes and open files. Raises OSError where the process is gone."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{pid}/fd"))


def soak(flags: Sequence[str], seconds: float, interval: float) -> tuple[list[Watched], list[dict[str, Any]], int]:
    """Train for so long; what was seen of processes that lived to the end, the lines of metrics.jsonl, and how many
    rollouts of whole actors may be in flight."""
    watched: dict[int, Watched] = {}
    with tempfile.TemporaryDirectory(prefix="r2ac-soak-") as folder:
        run = Path(folder) / "run"
        endless = ["--total-steps", str(10**12), "--log-steps", "100000", "--checkpoint-minutes", "1"]
        command = [*R2AC, "train", *replace_flags(flags, endless), "--run-dir", str(run)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            while not read_lines(run):
                if process.poll() is not None:
                    raise SystemExit(f"the training ended with exit code {process.returncode}")
                time.sleep(0.5)
            began = time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                if process.poll() is not None:
                    raise SystemExit(f"the training ended after {now:.0f} s with exit code {process.returncode}")
                for pid, name in processes_below(process.pid).items():
                    try:
                        memory, files = look(pid)
                    except OSError:
                        continue
                    each = watched.setdefault(pid, Watched(name))
                    each.seconds.append(now)
                    each.resident_mb.append(memory)
                    each.files.append(files)
                time.sleep(interval)
            lines = read_lines(run)
            config = json.loads((run / "config.json").read_text())
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lasting = [each for each in watched.values() if each.seconds[-1] >= seconds - 3 * interval - 2]
    return lasting, lines, config["num_actors"] * config["rollouts_in_flight"]


def speeds(lines: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Steps a second in the first and the last quarter of the time after the warm-up."""
    times = np.array([line["wall_time"] for line in lines])
    steps = np.array([line["env_steps"] for line in lines])
    begin = times[0] + WARM_UP * (times[-1] - times[0])
    quarter = (times[-1] - begin) / 4

    def speed(low: float, high: float) -> float:
        inside = np.flatnonzero((times >= low) & (times <= high))
        return float((steps[inside[-1]] - steps[inside[0]]) / (times[inside[-1]] - times[inside[0]]))

    return speed(begin, begin + quarter), speed(times[-1] - quarter, times[-1])


COLUMNS = [
    *own_columns("process"),
    Column("resident, MB", lambda row: row["resident_mb"], ",.1f"),
    Column("growth after the warm-up, MB", lambda row: row["growth_mb"], "+,.2f"),
    Column("noise (standard deviation), MB", lambda row: row["noise_mb"], ",.2f"),
    Column("open files", lambda row: row["files"], ",.0f"),
    Column("at the end", lambda row: row["files_at_the_end"], ",.0f"),
]


def draw(figure: Any, figures: Row) -> None:
    """Memory of the processes, and steps a second, over the minutes."""
    memory, speed = figure.subplots(1, 2)
    for name, (seconds, resident) in figures["memory"].items():
        memory.plot(np.array(seconds) / 60, resident, label=name)
    memory.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    memory.legend(fontsize="x-small")
    minutes, steps = np.array(figures["steps_per_second"]).T
    speed.plot(minutes, steps)
    speed.set(xlabel="minutes", ylabel="steps a second", ylim=(0, None))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, watch, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=None, help="how long, by default 30")
    parser.add_argument("--flags", default="memory/tmaze --algorithm vtrace", help="the task and flags of r2ac train")
    options = parser.parse_args(arguments)
    device = open_device(parser, options)
    minutes = options.minutes or (0.2 if options.quick else 30)
    head = header(device, options)
    print_header(head, f"r2ac train {options.flags}, {minutes} minutes")
    watched, lines, in_flight = soak(shlex.split(options.flags), 60 * minutes, interval=0.5 if options.quick else 5)
    warm_up = WARM_UP * 60 * minutes
    rows = [each.row(warm_up) for each in watched]
    first, last = speeds(lines)
    queue = max(line.get("throughput/queue", 0) for line in lines)
    print_table("Processes", COLUMNS, rows)
    goals = [
        Goal(
            f"{row['process']}: growth over 1 % or {LEAST_GROWTH_MB:.0f} MB",
            row["growth_mb"] / max(LEAST_GROWTH_MB, row["resident_mb"] / 100),
            1.0,
            False,
        )
        for row in rows
    ]
    goals += [
        Goal("more open files at the end", sum(row["files_at_the_end"] - row["files"] for row in rows), 0.0, False),
        Goal("rollouts that waited at most", float(queue), float(in_flight), False),
        Goal("steps a second, last quarter over first", last / first, 0.95, True),
    ]
    print_goals(goals)
    shown = sorted(watched, key=lambda each: -each.resident_mb[-1])[:6]
    figures = {
        **head,
        "flags": options.flags,
        "minutes": minutes,
        "processes": rows,
        "speeds": [first, last],
        "memory": {f"{n + 1} {each.name}": (each.seconds, each.resident_mb) for n, each in enumerate(shown)},
        "steps_per_second": [(line["wall_time"] / 60, line["throughput/steps_per_second"]) for line in lines],
    }
    write_files("soak", options, figures, goals, draw)


if __name__ == "__main__":
    main()
