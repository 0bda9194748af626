"""The page: all sections, put into ``page.html``."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup

from r2ac.launch.report.aggregates import aggregate_section
from r2ac.launch.report.blocks import FOLDER, TEMPLATES
from r2ac.launch.report.episodes_section import episode_section
from r2ac.launch.report.evaluations import evaluation_section
from r2ac.launch.report.format import clean, listed
from r2ac.launch.report.learning import learning_curves, learning_section
from r2ac.launch.report.scores import newest_results
from r2ac.launch.report.settings_section import settings_section
from r2ac.launch.report.study import Study, read_study
from r2ac.launch.report.summary_section import configuration_table, repeated_seeds, summary
from r2ac.launch.report.throughput import throughput_section
from r2ac.launch.runs.run_directory import write_atomically
from r2ac.launch.runtime.errors import RunError, os_errors_as

EXTENSIONS = (".html", ".htm")
_VERSIONS = ("r2ac", "torch", "numpy", "gymnasium", "matplotlib")


def write_report(
    runs: Sequence[Path],
    output: Path,
    baseline: Sequence[Path] = (),
    title: str = "",
    episodes: bool = True,
    now: datetime | None = None,
    left_out: list[str] | None = None,
    watch: Callable[[int, int], None] = lambda played, total: None,
) -> Path:
    """Write one HTML page about ``runs``, compared with ``baseline``, into ``output`` and return its path.

    The page names what is missing or damaged in a run; ``left_out`` takes a sentence about what is damaged, and
    ``watch`` the number of episodes that have been played, and of all. Raises RunError where a path is no run
    (``left_out`` takes the sentences instead, as long as a run is left), or ``output`` cannot be written.
    """
    if output.suffix.lower() not in EXTENSIONS:
        raise RunError(f"a report cannot be written to {output}: its name must end in {', '.join(EXTENSIONS)}")
    study = read_study(runs, baseline, left_out)
    if not study.runs:
        raise RunError(left_out.pop() if left_out else "there is nothing to report on: name at least one run directory")
    text = render(study, title, episodes, now or datetime.now(UTC), left_out, watch)
    with os_errors_as(RunError, f"{output} cannot be written"):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, text)
    return output


def render(
    study: Study,
    title: str,
    episodes: bool,
    now: datetime,
    left_out: list[str] | None = None,
    watch: Callable[[int, int], None] = lambda played, total: None,
) -> str:
    """The page as HTML, which refers to nothing beside itself; ``left_out`` and ``watch`` as in `write_report`."""
    curves = learning_curves(study)
    results = newest_results(study)
    main, compared = next(iter(results.items()), (None, []))
    sections = [
        learning_section(curves),
        evaluation_section(study, results),
        aggregate_section(main, compared),
        settings_section(study),
        throughput_section(study),
        *([episode_section(study, left_out, watch)] if episodes else []),
    ]
    tasks = list(dict.fromkeys(task for configuration in study.configurations for task in configuration.tasks))
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    page = TEMPLATES.get_template("page.html").render(
        title=title or f"r2ac: {listed(tasks, most=3) or 'training runs'}",
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        summary=summary(study, results, curves),
        made=f"Made on {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC with {versions}, Python {platform.python_version()}.",
        configurations=configuration_table(study),
        remarks=repeated_seeds(study),
        sections=sections,
    )
    return clean(page.strip()) + "\n"
