"""How fast the runs of a study went, how old the weights were that acted, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from r2ac.launch.plots.curves import is_number, measured_points
from r2ac.launch.report.blocks import Section, html
from r2ac.launch.report.figures import StyledCurve, draw_curves, thinned
from r2ac.launch.report.format import capitalised, counted, listed
from r2ac.launch.report.study import Configuration, StudiedRun, Study
from r2ac.launch.runtime.progress import short_count

_FIGURES = (
    ("throughput/steps_per_second", "Speed", "environment steps a second"),
    ("policy_lag/mean", "Policy lag", "updates between the weights that acted and those that learn, mean"),
    ("throughput/learner_wait", "Learner's wait", "share of the time in which the learner waits for rollouts"),
)
_COUNTS = (
    ("learner/skipped_updates", "skipped update"),
    ("learner/stream_resets", "stream reset"),
    ("throughput/actor_restarts", "actor restart"),
    ("throughput/engine_restarts", "engine restart"),
)
"""What should stay 0."""
_TIME = "wall_time"
_POINTS, _MOST_POINTS = 80, 9_000
"""Of a curve, and of all curves of a drawing."""
_UNITS = (("hours", 3600.0, 2 * 3600.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))
"""(name, seconds, the shortest run whose axis is in it)."""
_CAPTION = "Steps and time of the last line that was measured; the others are means over the lines, and counts"


def throughput_section(study: Study) -> Section:
    """Drawings over wall-clock time, a line for each run, and a table of the runs."""
    blocks = [
        html.text(f"Nothing is known of the course of {run.name}: {run.metrics_problem}.", "missing")
        for run in study.runs
        if run.metrics_problem is not None
    ]
    pairs = [(configuration, run) for configuration in study.configurations for run in configuration.runs if run.rows]
    if pairs:
        figures = [figure for key, title, y in _FIGURES if (figure := _figure(pairs, key, title, y)) is not None]
        table = html.table(_CAPTION, [_row(configuration, run) for configuration, run in pairs], range(2, 11))
        blocks += [
            *_trouble([run for _, run in pairs]),
            html.legend(configuration for configuration, _ in pairs),
            html.figures(figures),
            html.details(f"Every run ({len(pairs)})", [table]),
        ]
    else:
        blocks.append(html.text("No run has lines in metrics.jsonl, which hold its speed.", "missing"))
    return Section("throughput", "Throughput and policy lag", blocks)


def total(counts: Iterable[float]) -> int:
    """What a counter has come to, which begins at 0 anew where a process took over: the sum of its rises."""
    result, before = 0.0, 0.0
    for count in counts:
        result += count - before if count >= before else count
        before = count
    return int(result)


def _trouble(runs: Sequence[StudiedRun]) -> list[Markup]:
    """One paragraph for each run with something that should not have happened."""
    blocks = []
    for run in runs:
        found = [counted(n, noun) for key, noun in _COUNTS if (n := total(measured_points(run.rows, _TIME, key)[1]))]
        if found:
            blocks.append(html.text(f"{run.name}: {listed(found)}.", "alert"))
    if not blocks:
        nouns = [f"{noun}s" for _, noun in _COUNTS]
        blocks = [html.text(f"No {', '.join(nouns[:-1])} or {nouns[-1]} in any of {counted(len(runs), 'run')}.")]
    return blocks


def _figure(pairs: Sequence[tuple[Configuration, StudiedRun]], key: str, title: str, y: str) -> Markup | None:
    """None where no run has measured it."""
    curves = [(configuration.number, *measured_points(run.rows, _TIME, key)) for configuration, run in pairs]
    curves = [(number, at, values) for number, at, values in curves if len(at)]
    if not curves:
        return None
    longest = max(float(at[-1]) for _, at, _ in curves)
    unit, seconds = next((name, seconds) for name, seconds, least in _UNITS if longest >= least)
    points = max(20, min(_POINTS, _MOST_POINTS // len(curves)))
    thin = [StyledCurve(number, *thinned(at / seconds, values, points)) for number, at, values in curves]
    means = [f"{float(values.mean()):.4g}" for _, _, values in curves]
    label = f"{title}, {y}, over {unit}; mean of each run: {listed(means)}"
    svg = draw_curves(thin, unit, "", label, height=2.2, from_zero=True)
    return html.figure(svg, title, f"{capitalised(y)}.")


def _row(configuration: Configuration, run: StudiedRun) -> dict[str, str]:
    end = run.rows[-1].get(_TIME)
    seconds = float(end) if is_number(end) else 0.0
    counts = {f"{noun}s": total(measured_points(run.rows, _TIME, key)[1]) for key, noun in _COUNTS}
    return {
        "run": run.name,
        "configuration": html.named(configuration),
        "steps": short_count(run.steps or 0),
        "time": _duration(seconds) if seconds > 0 else "",
        "steps a second": short_count((run.steps or 0) / seconds) if seconds > 0 else "",
        "policy lag": _mean(run, "policy_lag/mean"),
        "learner's wait": _mean(run, "throughput/learner_wait"),
        **{name: html.alert(f"{count:,}") if count else "0" for name, count in counts.items()},
    }


def _mean(run: StudiedRun, key: str) -> str:
    _, values = measured_points(run.rows, _TIME, key)
    return f"{float(values.mean()):.3g}" if len(values) else ""


def _duration(seconds: float) -> str:
    """``1 h 05 min``, ``2 min 10 s``, ``22 s``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:,} h {minute:02d} min" if hours else f"{minute} min {second:02d} s" if minute else f"{second} s"
