"""What the benchmarks share around their measurements: arguments, the header, tables, goals, files."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from r2ac.kernels import kernels_for
from r2ac.launch.runtime.process import available_cores, set_up_process
from r2ac.learner import use_matmul_precision

Row = dict[str, Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def count(text: str) -> int:
    """A whole number of at least 1, as argparse wants to be told."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto (the GPU where there is one), cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=count, default=available_cores(), help="CPU threads")
    parser.add_argument("--rounds", type=count, help="rounds in which the methods take turns")
    parser.add_argument(
        "--matmul-precision", choices=["highest", "high"], default="highest", help="high: TF32 on a GPU"
    )
    parser.add_argument("--quick", action="store_true", help="a small check, whose figures mean nothing")
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent / "results", help="for JSON and PNG")
    return parser


def open_device(parser: argparse.ArgumentParser, options: argparse.Namespace) -> torch.device:
    """Set up the process and the device that the arguments name; what cannot be ends with exit code 2."""
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        parser.error(f"--device is {name!r}, but it must be auto, cpu, cuda or cuda:<number>")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and not device.index < torch.cuda.device_count():
        parser.error(f"--device is {name}, but torch sees {torch.cuda.device_count()} CUDA GPUs")
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output-dir {options.output_dir}: {error.strerror}")
    if not os.access(options.output_dir, os.W_OK):
        parser.error(f"--output-dir {options.output_dir} cannot be written to")
    set_up_process(options.threads)
    use_matmul_precision(options.matmul_precision)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def header(device: torch.device, options: argparse.Namespace) -> Row:
    """Where, with what and when the figures were made."""
    on_gpu = device.type == "cuda"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: found for name in ("triton", "ray") if (found := _version(name))}
    if on_gpu:
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{_processor()}, {options.threads} threads",
        "versions": versions,
        "kernels": kernels_for(torch.empty(0, device=device)).name,
        "matmul_precision": options.matmul_precision,
        "date": str(date.today()),
        "command": shlex.join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def print_header(head: Row, more: str) -> None:
    """In one paragraph."""
    versions = ", ".join(f"{name} {value}" for name, value in head["versions"].items())
    print(
        f"{head['device']}; {versions}; {head['kernels']} kernels; matmul precision {head['matmul_precision']}; "
        f"{more}; {head['date']}\n{head['command']}"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    heading: str
    cell: Callable[[Row], float | int | str | None]
    form: str = ""
    """How a number is written, for :func:`format`."""


def own_columns(*names: str) -> list[Column]:
    """Columns of what the rows hold by the columns' names."""
    return [Column(name, itemgetter(name)) for name in names]


def print_table(title: str, columns: Sequence[Column], rows: Iterable[Row], note: str = "") -> None:
    """A table in Markdown; what was not measured is a dash."""
    print(f"\n**{title}**\n\n{note + chr(10) * 2 if note else ''}| " + " | ".join(c.heading for c in columns) + " |")
    print("|" + "--:|" * len(columns))
    for row in rows:
        cells = (column.cell(row) for column in columns)
        texts = ("-" if cell is None else format(cell, c.form) for cell, c in zip(cells, columns, strict=True))
        print("| " + " | ".join(texts) + " |")
    sys.stdout.flush()


def scaled(value: float | None, factor: float) -> float | None:
    """For columns in milliseconds, percent and the like."""
    return None if value is None else value * factor


@dataclass(frozen=True)
class Goal:
    """What is aimed at, and what was measured."""

    text: str
    measured: float | None
    bound: float
    at_least: bool
    """Whether the bound is the least or the most that the goal allows."""

    @property
    def verdict(self) -> str:
        """Whether it was met."""
        if self.measured is None:
            return "not measured"
        return "met" if (self.measured >= self.bound if self.at_least else self.measured <= self.bound) else "missed"

    def to_json(self) -> Row:
        """For the file."""
        bound = f"{'>=' if self.at_least else '<='} {self.bound}"
        return {"goal": self.text, "measured": self.measured, "bound": bound, "verdict": self.verdict}

    @staticmethod
    def from_json(row: Row) -> Goal:
        """From what :meth:`to_json` gave."""
        sign, bound = row["bound"].split()
        return Goal(row["goal"], row["measured"], float(bound), sign == ">=")


def print_goals(goals: Sequence[Goal]) -> None:
    """The goals of this device as a table."""
    columns = [
        Column("goal", lambda row: row["goal"]),
        Column("bound", lambda row: row["bound"]),
        Column("measured", lambda row: row["measured"], ".3f"),
        Column("", lambda row: row["verdict"]),
    ]
    print_table("Goals", columns, [goal.to_json() for goal in goals])


def write_files(
    script: str, options: argparse.Namespace, figures: Row, goals: Sequence[Goal], draw: Callable[[Any, Row], None]
) -> None:
    """The figures as JSON, and their plot where matplotlib is there.

    Args:
        script: what the files' names begin with; the device follows.
        figures: the header with the tables; the goals are added.
        draw: draws them on an empty figure of matplotlib.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", figures["device"].lower()).strip("-")
    path = options.output_dir / f"{script}-{slug}{'-quick' if options.quick else ''}.json"
    path.write_text(json.dumps({**figures, "goals": [goal.to_json() for goal in goals]}, indent=2) + "\n")
    print(f"\nFigures: {path}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No plot was drawn: matplotlib is not installed.")
        return
    figure = Figure(figsize=(12, 4), layout="constrained")
    draw(figure, figures)
    figure.suptitle(f"{figures['device']}, {figures['date']}", fontsize="medium")
    figure.savefig(path.with_suffix(".png"), dpi=120)
    print(f"Plot: {path.with_suffix('.png')}")
