"""Checks and measures all that matters on a GPU, in about eight minutes, what matters most first.

    python benchmarks/gpu_check.py                        on a machine with a GPU; torch with NumPy and triton will do
    python benchmarks/gpu_check.py --seconds 120 --only start waits captures
    python benchmarks/gpu_check.py --quick --device cpu   a dry run of the check itself, with Triton's interpreter

Sections are on their own: what fails in one does not keep the next from running, and one for which the time does not
last is left out. After an error that leaves the GPU unusable for the process, those that follow run in a new one. The
JSON is written after each. The exit code is 1 where anything failed; goals that are missed are printed, and are
no failure.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import _path  # noqa: F401
import torch
from gpu_checks.beside import measure_beside
from gpu_checks.kernels import check_kernels
from gpu_checks.session import Section, Session
from gpu_checks.speed import measure_presets, measure_roofline
from gpu_checks.suite import run_suite
from gpu_checks.updates import check_captures, check_start, check_threads, check_waits
from report import Column, Goal, Row, header, make_parser, open_device, print_goals, print_header, print_table

GRACE_SECONDS = 20
"""After its time the check is ended, wherever it hangs: what was found by then is written."""

RESTART_SECONDS = 20
"""With less time left no new process is worth its start."""


@dataclass(frozen=True)
class CheckPart:
    """A section of the check."""

    run: Callable[[Session], None]
    least: float
    """Seconds without which it is not begun."""
    most: float
    """Seconds after which it begins nothing new."""


PARTS = {
    "start": CheckPart(check_start, 5, 30),
    "waits": CheckPart(check_waits, 5, 40),
    "captures": CheckPart(check_captures, 10, 90),
    "kernels": CheckPart(check_kernels, 10, 80),
    "threads": CheckPart(check_threads, 10, 30),
    "roofline": CheckPart(measure_roofline, 20, 100),
    "presets": CheckPart(measure_presets, 20, 90),
    "beside": CheckPart(measure_beside, 20, 30),
    "tests": CheckPart(run_suite, 20, 600),
}


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, torch.device]:
    """The arguments; what cannot be ends with exit code 2."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=_seconds, default=460.0, help="time for all of it, 460 by default")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these sections alone")
    parser.add_argument("--after", type=_earlier, help="the JSON of a check: what it found is kept, and this is added")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        # Triton asks for it when it is imported.
        os.environ["TRITON_INTERPRET"] = "1"
    device = open_device(parser, options)
    if device.type == "cpu" and not options.quick:
        seen = f"torch {torch.__version__} sees no CUDA GPU" if options.device == "auto" else "--device is cpu"
        parser.error(f"{seen}: only a dry run of the check itself is possible, with --quick")
    return options, device


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _earlier(text: str) -> Row:
    try:
        found = json.loads(Path(text).read_text())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error}") from error
    if not isinstance(found, dict) or not {"command", "sections", "goals"} <= found.keys():
        raise argparse.ArgumentTypeError(f"{text} is not the JSON of a check")
    return found


def write(path: Path, head: Row, session: Session) -> None:
    """What was found by now."""
    found = {name: asdict(section) for name, section in session.sections.items()}
    goals = [goal.to_json() for goal in session.goals]
    partly = path.with_suffix(".partly")
    partly.write_text(json.dumps({**head, "sections": found, "goals": goals}, indent=2, default=str) + "\n")
    partly.replace(path)


def take_up(earlier: Row, head: Row, session: Session) -> Row:
    """What an earlier check found, into the session; returns the head with the command of that check."""
    session.sections |= {name: Section(**section) for name, section in earlier["sections"].items()}
    session.goals += map(Goal.from_json, earlier["goals"])
    return {**head, "command": earlier["command"]}


def go_on(path: Path, options: argparse.Namespace, rest: Sequence[str], seconds: float) -> None:
    """Let a new process take the place of this one, for the rest of the sections; does not return."""
    print(f"\nA new process goes on with {', '.join(rest)}.", flush=True)
    arguments = ["--device", options.device, "--seconds", f"{seconds:.0f}", "--threads", str(options.threads)]
    arguments += ["--matmul-precision", options.matmul_precision, "--output-dir", str(options.output_dir)]
    arguments += [*(["--quick"] if options.quick else []), "--after", str(path), "--only", *rest]
    os.execv(sys.executable, [sys.executable, str(Path(__file__).resolve()), *arguments])


def print_page(session: Session) -> bool:
    """What passed, what failed, what was left out, and the goals. Returns whether nothing failed."""
    columns = [
        Column("section", lambda row: row["name"]),
        Column("", lambda row: row["verdict"]),
        Column("s", lambda row: row["seconds"], ".1f"),
        Column("failures", lambda row: len(row["failures"])),
    ]
    rows = [{"name": name, **asdict(section)} for name, section in session.sections.items()]
    print_table("Sections", columns, rows)
    failures = [f"{row['name']}: {failure}" for row in rows for failure in row["failures"]]
    for failure in failures:
        print(f"FAILED {failure}")
    if session.goals:
        print_goals(session.goals)
    for row in rows:
        if cases := row["figures"].get("left out"):
            print(f"LEFT OUT for want of time: {row['name']}: {', '.join(cases)}")
    print(f"\n{len(failures)} failures" if failures else "\nAll that was checked passed.", flush=True)
    return not failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, write; returns the exit code."""
    options, device = parse(arguments)
    head = header(device, options)
    print_header(head, f"{options.seconds:g} s")
    slug = re.sub(r"[^a-z0-9]+", "-", head["device"].lower()).strip("-")
    path = options.output_dir / f"gpu_check-{slug}{'-quick' if options.quick else ''}.json"
    session = Session(device, options.quick, options.seconds)
    if options.after is not None:
        head = take_up(options.after, head, session)
    names = [name for name in PARTS if name in options.only]
    faulthandler.dump_traceback_later(options.seconds + GRACE_SECONDS, exit=True, file=sys.__stderr__)
    try:
        for number, name in enumerate(names, start=1):
            part = PARTS[name]
            session.run(name, part.least, part.most, part.run)
            write(path, head, session)
            if session.is_lost and names[number:] and session.left() > RESTART_SECONDS:
                go_on(path, options, names[number:], session.left())
    finally:
        faulthandler.cancel_dump_traceback_later()
    passed = print_page(session)
    print(f"Figures: {path}")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
