"""The training system as a user starts it, measured by what it writes itself: for throughput.py."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from throughput_setting import MethodFailed, Setting, last_line, start_group, stop_group

from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.settings.presets import preset

R2AC = (sys.executable, "-c", "import sys; from r2ac.launch.cli import main; sys.exit(main())")
"""The command ``r2ac`` of this Python."""
LEAVE_OUT = 0.25
"""The share of the time between the first and the last line that counts as start-up."""
START_SECONDS, POLL_SECONDS = 120, 0.2
LEAST_LOG_STEPS = 2000
"""For each second of the measurement: a line a batch would be a hundred lines a second where batches are small."""


def train_arguments(setting: Setting, changes: Mapping[str, object], run_dir: Path) -> list[str]:
    """Of ``r2ac``: a training that does not end by itself, with other flags. In one process it has as many streams as
    all actors have."""
    actors = int(str(changes.get("num-actors", setting.actors)))
    flags = {
        "encoder": setting.encoder,
        "hidden-size": setting.hidden,
        "encoder-features": setting.features,
        "num-actors": actors,
        "streams-per-actor": setting.streams * setting.actors // max(actors, 1),
        "batch-size": setting.batch,
        "rollout-length": setting.length,
        "learner-threads": preset(setting.task, algorithm="vtrace").learner_threads or max(1, setting.threads - actors),
        "device": setting.device,
        "total-steps": 10**12,
        "log-steps": log_steps(setting),
        "checkpoint-minutes": 1000,
        "run-dir": run_dir,
        "algorithm": "vtrace",
        **changes,
    }
    return ["train", setting.task, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


def log_steps(setting: Setting) -> int:
    """Steps between two lines: a batch, or more where that would be too many lines."""
    return max(setting.batch * setting.length, round(LEAST_LOG_STEPS * setting.seconds))


def steady(lines: Sequence[dict[str, Any]], leave_out: float = LEAVE_OUT) -> dict[str, float]:
    """What the lines of metrics.jsonl say of the time after the start-up.

    Args:
        lines: at least two.
        leave_out: the share of the time between the first and the last line that is left out at the beginning.

    Returns:
        ``steps_per_second`` between the first and the last line that are left, and, where the lines have it, what share
        of that time the learner waited (``learner_wait``) and how many updates old the policy was (``policy_lag``).
    """
    first, last = lines[0]["wall_time"], lines[-1]["wall_time"]
    kept = [line for line in lines[:-1] if line["wall_time"] >= first + leave_out * (last - first)] or [lines[-2]]
    kept.append(lines[-1])
    steps, seconds = (kept[-1][name] - kept[0][name] for name in ("env_steps", "wall_time"))
    means = {}
    for name, key in (("throughput/learner_wait", "learner_wait"), ("policy_lag/mean", "policy_lag")):
        values = [line[name] for line in kept[1:] if line.get(name) is not None]
        if values:
            means[key] = sum(values) / len(values)
    return {"steps_per_second": steps / seconds, **means}


def processes_below(root: int) -> dict[int, str]:
    """This process and all below it, with short names."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        except OSError:
            continue
        if state != "Z" and command:
            parents[int(folder.name)] = int(parent)
            words = [word for word in command if not word.startswith("-")]
            script = words[1] if Path(words[0]).name.startswith("python") and len(words) > 1 else words[0]
            names[int(folder.name)] = Path(script).name
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: "learner (r2ac train)" if pid == root else names[pid] for pid in sorted(found) if pid in names}


def role(name: str) -> str:
    """What a process is, by its name."""
    if "RolloutActor" in name:
        return "actors"
    return "learners" if "LearnerProcess" in name or "r2ac train" in name else "others"


def seconds_by_role(root: int) -> Counter[str]:
    """Processor seconds of this process and all below it so far."""
    spent, ticks = Counter[str](), os.sysconf("SC_CLK_TCK")
    for pid, name in processes_below(root).items():
        try:
            numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        spent[role(name)] += (int(numbers[11]) + int(numbers[12])) / ticks
    return spent


def measure_system(setting: Setting, changes: Mapping[str, object], log: IO[bytes]) -> dict[str, float]:
    """Train until there are lines of long enough a time, and stop; returns what :func:`steady` does.

    Raises:
        MethodFailed: if the training ends by itself or writes no lines in time.
    """
    needed = setting.seconds / (1 - LEAVE_OUT)
    with tempfile.TemporaryDirectory(prefix="r2ac-throughput-") as folder:
        run_dir = Path(folder) / "run"
        process = start_group((*R2AC, *train_arguments(setting, changes, run_dir)), log)
        try:
            until = time.monotonic() + START_SECONDS + 4 * needed
            while not long_enough(lines := read_lines(run_dir), needed):
                if process.poll() is not None:
                    raise MethodFailed(f"ended with exit code {process.returncode}: {last_line(log)}")
                if time.monotonic() > until:
                    raise MethodFailed(f"wrote {len(lines)} lines in {START_SECONDS + 4 * needed:.0f} s")
                time.sleep(max(POLL_SECONDS, setting.seconds / 10))
        finally:
            stop_group(process)
    return steady(lines)


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    """The lines that there are so far."""
    try:
        return read_metrics(run_dir)
    except RunDirectoryError:
        return []


def long_enough(lines: Sequence[dict[str, Any]], seconds: float) -> bool:
    """Whether at least three lines span so much time."""
    return len(lines) >= 3 and lines[-1]["wall_time"] - lines[0]["wall_time"] >= seconds
