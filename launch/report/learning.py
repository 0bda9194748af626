"""Learning curves of a study, a drawing for each task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from r2ac.envs import InvalidOption
from r2ac.launch.plots.curves import GroupCurve, Panel, make_panels
from r2ac.launch.plots.reference_lines import reference_lines
from r2ac.launch.report.blocks import Section, html
from r2ac.launch.report.figures import StyledCurve, draw_curves
from r2ac.launch.report.format import counted, number
from r2ac.launch.report.study import Configuration, Study
from r2ac.launch.runs.run_groups import NO_TASK
from r2ac.launch.runtime.progress import short_count

_METRIC = "episode_return"
_POINTS = 140
"""Of a curve: what can be seen at the width of a drawing."""
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
    owner_of = {id(group): configuration for configuration in study.configurations for group in configuration.groups}
    groups = [group for configuration in study.configurations for group in configuration.groups]
    panels = make_panels(groups, "steps", _METRIC, band="bootstrap", left_out=left_out)
    return LearningCurves(
        tuple((panel, tuple(owner_of[id(curve.group)] for curve in panel.curves)) for panel in panels),
        tuple(f"No learning curve: {problem}." for problem in left_out),
    )


def learning_section(curves: LearningCurves) -> Section:
    blocks = [html.text(problem, "missing") for problem in curves.problems]
    if not curves.panels:
        blocks.append(html.text("There is no learning curve to draw.", "missing"))
        return Section("learning", "Learning curves", blocks)
    band = (
        "Bands are 95 % bootstrap intervals of that mean, at each step by itself; of a single run there is none, and "
        "of two or three runs they are too narrow."
        if any(curve.band is not None for panel, _ in curves.panels for curve in panel.curves)
        else "Every configuration has a single run on a task: there is nothing to draw a band from."
    )
    introduction = (
        "Return of the training episodes over environment steps: the mean over the runs of a configuration, each "
        f"smoothed by a trailing mean. {band}"
    )
    caption = "Where the curves end: the mean over runs of the smoothed training return, at the last step that all have"
    blocks = [
        html.text(introduction),
        html.legend(owner for _, owners in curves.panels for owner in owners),
        *blocks,
        html.figures([_figure(panel, owners, len(curves.panels)) for panel, owners in curves.panels]),
        html.folded_table("Where the curves end", caption, _end_rows(curves), range(2, 6)),
    ]
    return Section("learning", "Learning curves", blocks)


def _figure(panel: Panel, owners: tuple[Configuration, ...], panels: int) -> Markup:
    points = max(40, min(_POINTS, _MOST_POINTS // (panels * len(owners))))
    curves = [_curve(curve, owner.number, points) for curve, owner in zip(panel.curves, owners, strict=True)]
    ends = "; ".join(
        f"{owner.name} ends at {number(float(curve.mean[-1]))} after {short_count(float(curve.grid[-1]))} steps"
        for curve, owner in zip(panel.curves, owners, strict=True)
    )
    try:
        lines = reference_lines(panel.task, [curve.group for curve in panel.curves])
    except InvalidOption:
        lines = []
    label = f"Learning curves on {panel.task or 'the task'}: {ends}"
    svg = draw_curves(curves, "environment steps", "return", label, lines)
    window = f"Trailing mean of {short_count(panel.window)} steps" if panel.window else "Not smoothed"
    runs = sorted({len(curve.runs) for curve in panel.curves})
    note = f" {panel.note} (see the settings)." if panel.note else ""
    counts = " or ".join(counted(n, "run") for n in runs)
    return html.figure(svg, panel.task or NO_TASK, f"{window}; {counts} a curve.{note}")


def _curve(curve: GroupCurve, number: int, points: int) -> StyledCurve:
    chosen = np.unique(np.linspace(0, len(curve.grid) - 1, points).round().astype(int))
    band = None if curve.band is None else (curve.band[0][chosen], curve.band[1][chosen])
    return StyledCurve(number, curve.grid[chosen], curve.mean[chosen], band)


def _end_rows(curves: LearningCurves) -> list[dict[str, str]]:
    return [
        {
            "task": panel.task or NO_TASK,
            "configuration": html.named(owner),
            "runs": str(len(curve.runs)),
            "steps": short_count(float(curve.grid[-1])),
            "return": number(float(curve.mean[-1])),
            "95 % interval": " to ".join(number(float(edge[-1])) for edge in curve.band) if curve.band else "one run",
        }
        for panel, owners in curves.panels
        for curve, owner in zip(panel.curves, owners, strict=True)
    ]
