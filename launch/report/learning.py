"""Learning curves of a study, a drawing for each task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r2ac.envs import InvalidOption
from r2ac.launch.plots.curves import GroupCurve, Panel, make_panels
from r2ac.launch.plots.reference_lines import Line, reference_lines
from r2ac.launch.report.blocks import Block, Cell, Figure, Figures, Legend, Section, Table, Text, folded
from r2ac.launch.report.figures import Drawn, draw_curves
from r2ac.launch.report.format import counted, number
from r2ac.launch.report.study import Configuration, Study
from r2ac.launch.report.svg import swatch
from r2ac.launch.runs.run_groups import NO_TASK
from r2ac.launch.runtime.progress import short_count

_METRIC = "episode_return"
_POINTS = 140
"""Of a curve: what can be told apart at the width of a drawing."""
_MOST_POINTS = 24_000
"""Of all drawings together; where there are many curves, each has fewer."""


@dataclass(frozen=True)
class LearningCurves:
    """The curves that could be made, and why others could not."""

    panels: tuple[tuple[Panel, tuple[Configuration, ...]], ...]
    """Each with the configurations of its curves, in their order."""
    problems: tuple[str, ...]


def learning_curves(study: Study) -> LearningCurves:
    """Episode returns over environment steps: mean over the runs of a configuration and 95 % bootstrap interval.

    Runs that have measured none, and groups whose runs share no range of steps, are left out and named.
    """
    left_out: list[str] = []
    owners = [(group, configuration) for configuration in study.configurations for group in configuration.groups]
    panels = make_panels([group for group, _ in owners], "steps", _METRIC, band="bootstrap", left_out=left_out)
    return LearningCurves(
        tuple(
            (panel, tuple(next(c for group, c in owners if group is curve.group) for curve in panel.curves))
            for panel in panels
        ),
        tuple(f"No learning curve: {problem}." for problem in left_out),
    )


def learning_section(curves: LearningCurves) -> Section:
    """A drawing for each task, and a table of where the curves end."""
    blocks: list[Block] = [Text(problem, "missing") for problem in curves.problems]
    if not curves.panels:
        return Section("learning", "Learning curves", (*blocks, Text("There is no learning curve to draw.", "missing")))
    known = {configuration.number: configuration for _, owners in curves.panels for configuration in owners}
    several = any(curve.band is not None for panel, _ in curves.panels for curve in panel.curves)
    shown = (
        "Return of the training episodes over environment steps: the mean over the runs of a configuration, each "
        "smoothed by a trailing mean."
    )
    band = (
        " Bands are 95 % bootstrap intervals of that mean, at each step by itself; of a single run there is none, and "
        "of two or three runs they are too narrow."
        if several
        else " Every configuration has a single run on a task: there is nothing to draw a band from."
    )
    figures = tuple(_figure(panel, owners, len(curves.panels)) for panel, owners in curves.panels)
    blocks[:0] = [Text(shown + band), Legend(tuple(swatch(known[n].name, n) for n in sorted(known)))]
    return Section(
        "learning", "Learning curves", (*blocks, Figures(figures), folded(_table(curves), "Where the curves end"))
    )


def _figure(panel: Panel, owners: tuple[Configuration, ...], panels: int) -> Figure:
    points = max(40, min(_POINTS, _MOST_POINTS // (panels * len(owners))))
    drawn = [_drawn(curve, owner.number, points) for curve, owner in zip(panel.curves, owners, strict=True)]
    ends = "; ".join(
        f"{owner.name} ends at {number(float(curve.mean[-1]))} after {short_count(float(curve.grid[-1]))} steps"
        for curve, owner in zip(panel.curves, owners, strict=True)
    )
    label = f"Learning curves on {panel.task or 'the task'}: {ends}"
    svg = draw_curves(drawn, "environment steps", "return", label, _lines(panel))
    window = f"Trailing mean of {short_count(panel.window)} steps" if panel.window else "Not smoothed"
    runs = sorted({len(curve.runs) for curve in panel.curves})
    return Figure(svg, panel.task or NO_TASK, f"{window}; {' or '.join(counted(n, 'run') for n in runs)} a curve.")


def _drawn(curve: GroupCurve, owner: int, points: int) -> Drawn:
    chosen = np.unique(np.linspace(0, len(curve.grid) - 1, points).round().astype(int))
    band = None if curve.band is None else (curve.band[0][chosen], curve.band[1][chosen])
    return Drawn(owner, curve.grid[chosen], curve.mean[chosen], band)


def _lines(panel: Panel) -> list[Line]:
    try:
        return reference_lines(panel.task, [curve.group for curve in panel.curves])
    except InvalidOption:
        return []


def _table(curves: LearningCurves) -> Table:
    """Where each curve ends."""
    rows = []
    for panel, owners in curves.panels:
        for curve, owner in zip(panel.curves, owners, strict=True):
            interval = "one run" if curve.band is None else " to ".join(number(float(edge[-1])) for edge in curve.band)
            rows.append(
                (
                    panel.task or NO_TASK,
                    Cell(owner.name, swatch(owner.name, owner.number)),
                    str(len(curve.runs)),
                    short_count(float(curve.grid[-1])),
                    number(float(curve.mean[-1])),
                    interval,
                )
            )
    columns = ("task", "configuration", "runs", "steps", "return", "95 % interval")
    caption = "Where the curves end: the mean over runs of the smoothed training return, at the last step that all have"
    return Table(caption, columns, rows, frozenset(columns[2:]))
