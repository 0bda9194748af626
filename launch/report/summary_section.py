"""The top of the page: its result in a few sentences, and a table of the configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np
from markupsafe import Markup

from r2ac.agents.config import gradient_of
from r2ac.launch.evaluation.statistics import Estimate
from r2ac.launch.report.blocks import html
from r2ac.launch.report.format import count_range, counted, listed, number, percent_estimate, spread
from r2ac.launch.report.learning import LearningCurves
from r2ac.launch.report.scores import Comparison, EvalSetting, RunScore, compare
from r2ac.launch.report.study import StudiedRun, Study
from r2ac.launch.runs.run_groups import NO_TASK


def summary(study: Study, results: Mapping[EvalSetting, Sequence[RunScore]], curves: LearningCurves) -> list[str]:
    tasks = {task for configuration in study.configurations for task in configuration.tasks}
    counts = (
        f"{counted(len(study.runs), 'run')} of {counted(len(study.configurations), 'configuration')} on "
        f"{counted(len(tasks), 'task')}."
    )
    return [counts, _result(results, curves)]


def configuration_table(study: Study) -> Markup:
    rows = []
    for configuration in study.configurations:
        runs = configuration.runs
        row = {
            "configuration": html.named(configuration),
            "runs": str(len(runs)),
            "seeds": listed(dict.fromkeys("unknown" if run.seed is None else str(run.seed) for run in runs), most=10),
            "steps": count_range(run.steps for run in runs if run.steps is not None) or "unknown",
            "evaluated": f"{sum(bool(run.evaluations) for run in runs)} of {len(runs)}",
            "agent": listed(dict.fromkeys(_agent(run) for run in runs)),
            "tasks": listed(configuration.tasks or [NO_TASK], most=4),
        }
        rows.append(row)
    return html.table("The configurations: runs with equal settings but for the seed and the task", rows)


def repeated_seeds(study: Study) -> list[Markup]:
    remarks = []
    for configuration in study.configurations:
        for group in configuration.groups:
            repeated = [str(seed) for seed, count in Counter(group.seeds).items() if count > 1 and seed is not None]
            if repeated:
                runs = f"More than one run of {configuration.name} on {group.task} has the seed {listed(repeated)}"
                remarks.append(html.text(f"{runs}: they are not independent.", "alert"))
    return remarks


def _result(results: Mapping[EvalSetting, Sequence[RunScore]], curves: LearningCurves) -> str:
    """The best configuration, by evaluations where there are some, else by the learning curves at the last step that
    all have."""
    for setting, own in results.items():
        comparison = compare(own)
        if comparison is not None:
            return _by_score(comparison, setting)
        if len({result.task for result in own}) == 1:
            return _by_return(own, setting)
    if results:
        return "No configuration can be called the best: those evaluated share no task with reference scores."
    if len(curves.panels) == 1:
        ((panel, owners),) = curves.panels
        # A run that stopped early ends the curve of its configuration: returns at other steps are no comparison.
        step = min(curve.grid[-1] for curve in panel.curves)
        if max(curve.grid[0] for curve in panel.curves) > step:
            return "No run has been evaluated, and the learning curves share no step: none can be called the best."
        returns = [float(np.interp(step, curve.grid, curve.mean)) for curve in panel.curves]
        ends = dict(zip(owners, returns, strict=True))
        first = max(ends, key=lambda owner: ends[owner])
        best = f"{first.name}, with a training return of {number(ends[first])} at step {step:,.0f}"
        if max(curve.grid[-1] for curve in panel.curves) > 1.01 * step:
            best += ", where the first of the curves ends"
        return f"No run has been evaluated. {_best_of(len(ends))} by its learning curve: {best}."
    return "No run has been evaluated: after r2ac evaluate RUN this page says which configuration is best."


def _by_score(comparison: Comparison, setting: EvalSetting) -> str:
    aggregates = comparison.aggregates()
    order = sorted(aggregates, key=lambda c: -aggregates[c].iqm.value)
    tasks = counted(len(comparison.tasks), "task")
    intervals = "in brackets 95 % intervals" if comparison.most_runs > 1 else "single runs: no intervals"
    scores = [f"{configuration.name}, {percent_estimate(aggregates[configuration].iqm)}" for configuration in order]
    after = f"; then {scores[1]}" if len(order) > 1 else ""
    if after and _overlap(*(aggregates[configuration].iqm for configuration in order[:2])):
        after += ", and the intervals overlap"
    return (
        f"{_best_of(len(order))} by normalised score: {scores[0]}{after} (interquartile mean over {tasks}, "
        f"{intervals}; {setting})."
    )


def _overlap(higher: Estimate, lower: Estimate) -> bool:
    return higher.low is not None and lower.high is not None and higher.low <= lower.high


def _by_return(results: Sequence[RunScore], setting: EvalSetting) -> str:
    returns: dict[str, list[float]] = {}
    for result in results:
        returns.setdefault(result.configuration.name, []).append(result.evaluation.mean_return)
    name = max(returns, key=lambda name: mean(returns[name]))
    best = f"{name}, {spread(returns[name])} on {results[0].task}"
    return f"{_best_of(len(returns))} by evaluation return: {best} ({setting})."


def _best_of(configurations: int) -> str:
    return f"Best of {configurations} configurations" if configurations > 1 else "Result"


def _agent(run: StudiedRun) -> str:
    """``rtrl, elstm of 64 units, 17,221 parameters``."""
    agent = run.config.get("agent")
    if not isinstance(agent, dict):
        return "unknown"
    trained_by = gradient_of(agent.get("core"), agent.get("gradient"), agent.get("freeze_core"))
    parts = [trained_by, agent.get("core")]
    size = agent.get("hidden_size")
    layers = agent.get("layers") or 1
    named = ", ".join(str(part) for part in parts if part is not None) + (f" of {size} units" if size else "")
    named += f" in each of {layers} layers" if layers > 1 else ""
    counts = [row["learner/parameters"] for row in run.rows[-1:] if "learner/parameters" in row]
    return ", ".join([named, *(f"{count:,.0f} parameters" for count in counts)])
