"""``r2ac report``: one page about runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from r2ac.launch.runs.run_groups import first_place
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.flags import require_runs
from r2ac.launch.settings.parser import parse


@dataclass(frozen=True)
class ReportArguments:
    """Write one HTML page about runs, which needs nothing beside itself: learning curves, evaluations, statistics over
    tasks with intervals, settings, throughput and an episode of each agent."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN …")]
    """Run directories, directories that hold some at any depth, or directories with event files of other programs."""
    baseline: tuple[Path, ...] = ()
    """Runs that the others are compared with; without any, 2 to 4 configurations are compared pair by pair."""
    output: Path | None = None
    """The page (.html); report.html in the first run if not given."""
    title: str = ""
    """Of the page; the tasks if not given."""
    episodes: bool = True
    """Play an episode with the newest checkpoint of the first run of each configuration."""


def report_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac report RUN … [--baseline RUN …] [--flags]``: 1 where a path is no run, or a run is damaged."""
    parsed = parse(ReportArguments, "r2ac report", arguments)
    require_runs(parsed.runs, "report")
    from r2ac.launch.evaluation.evaluation_progress import EpisodeProgress
    from r2ac.launch.report import EXTENSIONS, write_report
    from r2ac.launch.watching.pictures import check_output

    output = parsed.output or first_place(parsed.runs) / "report.html"
    if parsed.output is not None:
        # Before episodes are played.
        check_output(output, EXTENSIONS)
    left_out: list[str] = []
    try:
        with EpisodeProgress(console, "report") as progress:
            written = write_report(
                parsed.runs,
                output,
                parsed.baseline,
                parsed.title,
                parsed.episodes,
                left_out=left_out,
                watch=progress.update,
            )
    finally:
        print_failures(left_out)
    print_table(console, "report", [], {"page": written})
    return 1 if left_out else 0
