"""The statistics over tasks of Agarwal et al. 2021, for a reader who has never met them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from markupsafe import Markup

from r2ac.launch.evaluation.statistics import performance_profile
from r2ac.launch.report.blocks import Section, html
from r2ac.launch.report.figures import draw_intervals, draw_profiles
from r2ac.launch.report.format import counted, listed, percent_estimate
from r2ac.launch.report.scores import Comparison, EvalSetting, RunScore, compare, improvements

CITATION = (
    "Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, “Deep reinforcement learning at the edge of the "
    "statistical precipice” (NeurIPS; arXiv 2108.13264)"
)
_STATISTICS = {
    "iqm": (
        "Interquartile mean (IQM)",
        "The mean of the middle half of all runs, the lowest and the highest quarter left out (section 4.3).",
    ),
    "mean": ("Mean", "The mean over all runs, every task counting the same."),
    "median": ("Median", "The median over tasks of the mean over runs."),
    "optimality_gap": (
        "Optimality gap",
        "How much is missing to 100 % on average, more than 100 % counting as 100 %; lower is better (section 4.3).",
    ),
}
_THRESHOLDS = 101


def aggregate_section(setting: EvalSetting | None, results: Sequence[RunScore]) -> Section:
    """Of the results of one setting, the statistics of each configuration over the tasks that all of them share."""
    comparison = compare(results)
    if setting is not None and comparison is not None:
        blocks = [*_statistics(setting, comparison), *_improvements(comparison)]
    else:
        why = (
            "no run has been evaluated (r2ac evaluate RUN plays whole episodes)"
            if setting is None
            else "there is no task with reference scores that all evaluated configurations share"
        )
        blocks = [html.text(f"There are no statistics over tasks: {why}.", "missing")]
    return Section("aggregates", "Over tasks", blocks)


def _statistics(setting: EvalSetting, comparison: Comparison) -> list[Markup]:
    introduction = (
        f"Of {counted(len(comparison.tasks), 'task')}, {setting}. The unit is a training run (a seed): its score on a "
        "task is the mean over its evaluation episodes, normalised with the task's reference scores. The statistics "
        f"are those of {CITATION}."
    )
    aggregates = comparison.aggregates()
    figures = []
    for name, (title, meaning) in _STATISTICS.items():
        rows = [(c.number, c.name, attrgetter(name)(of)) for c, of in aggregates.items()]
        label = f"{title}: {'; '.join(f'{name}: {percent_estimate(estimate)}' for _, name, estimate in rows)}"
        figures.append(html.figure(draw_intervals(rows, "normalised score", label), title, meaning))
    table = []
    for configuration, of in aggregates.items():
        counts = [len(runs) for runs in comparison.scores[configuration].values()]
        statistics = {title: percent_estimate(attrgetter(name)(of)) for name, (title, _) in _STATISTICS.items()}
        runs = " to ".join(dict.fromkeys(map(str, (min(counts), max(counts)))))
        table.append({"configuration": html.named(configuration), **statistics, "runs a task": runs})
    intervals = "" if comparison.most_runs == 1 else ", with 95 % stratified bootstrap intervals"
    return [
        html.text(introduction),
        *_caveats(comparison),
        html.legend(comparison.scores),
        html.figures([*figures, _profile_figure(comparison)]),
        html.table(f"Normalised scores over tasks{intervals}", table, range(1, 6)),
        html.details(f"The tasks ({len(comparison.tasks)})", [html.text(listed(comparison.tasks, most=1000))]),
    ]


def _caveats(comparison: Comparison) -> list[Markup]:
    """Why the numbers say less than they seem to."""
    blocks = []
    fewest = min(len(runs) for by_task in comparison.scores.values() for runs in by_task.values())
    if comparison.left_out:
        missing = f"Not every configuration has scores on {listed(comparison.left_out)}: left out of this section."
        blocks.append(html.text(missing, "alert"))
    if comparison.most_runs == 1:
        blocks.append(html.text("There is a single run on every task: too little data for intervals.", "missing"))
        return blocks
    if fewest == 1:
        single = "Some tasks have a single run, which adds nothing to the width of an interval: true ones are wider."
        blocks.append(html.text(single, "alert"))
    elif fewest < 5:
        few = f"With {fewest} runs of a task intervals are too narrow: take them as a hint."
        blocks.append(html.text(few, "alert"))
    if min(sum(map(len, by_task.values())) for by_task in comparison.scores.values()) < 4:
        blocks.append(html.text("With fewer than 4 runs in all no quarter can be left out: the IQM is the mean."))
    return blocks


def _profile_figure(comparison: Comparison) -> Markup:
    scores = [score for by_task in comparison.scores.values() for runs in by_task.values() for score in runs]
    thresholds = np.linspace(min(0.0, *scores), max(1.0, *scores), _THRESHOLDS)
    profiles = [(c.number, performance_profile(by_task, thresholds)) for c, by_task in comparison.scores.items()]
    names = listed(c.name for c in comparison.scores)
    svg = draw_profiles(profiles, f"Performance profiles of {names}: the share of runs above each normalised score")
    band = "" if comparison.most_runs == 1 else ", with pointwise 95 % bands"
    meaning = f"Which share of the runs scores above τ, every task counting the same{band}; higher is better"
    return html.figure(svg, "Performance profiles", f"{meaning} (section 4.2).")


def _improvements(comparison: Comparison) -> list[Markup]:
    title = html.heading("Probability of improvement")
    found, configurations = improvements(comparison), len(comparison.scores)
    if configurations == 1:
        return []
    if not found:
        why = (
            "only one of the runs and the baseline has been evaluated"
            if any(c.baseline for c in comparison.scores)
            else f"there are {configurations} configurations: name with --baseline the runs to compare with"
        )
        return [title, html.text(f"Pairs are not compared: {why}.", "missing")]
    meaning = (
        "P(X > Y): how likely a run of X beats a run of Y on a task drawn at random, equal scores counting one half "
        "(section 4.3). An interval wholly above 50 % speaks for X, one wholly below for Y."
    )
    rows = [(each.ours.number, f"{each.ours.name} > {each.theirs.name}", each.estimate) for each in found]
    label = "; ".join(f"{name}: {percent_estimate(estimate)}" for _, name, estimate in rows)
    svg = draw_intervals(rows, "P(X > Y)", f"Probability of improvement: {label}", middle=0.5)
    table = [
        {
            "X": html.named(each.ours),
            "Y": html.named(each.theirs),
            "P(X > Y)": percent_estimate(each.estimate),
            "tasks": str(len(comparison.tasks)),
        }
        for each in found
    ]
    intervals = "" if found[0].estimate.low is None else ", with 95 % stratified bootstrap intervals"
    return [
        title,
        html.text(meaning),
        html.figures([html.figure(svg, "X beats Y", "The line at 50 %: neither is better.")]),
        html.table(f"Probability of improvement{intervals}", table, range(2, 4)),
    ]
