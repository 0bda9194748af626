"""The statistics over tasks of Agarwal et al. 2021, for a reader who has never met them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from r2ac.launch.evaluation.statistics import performance_profile
from r2ac.launch.report.blocks import Block, Cell, Details, Figure, Figures, Heading, Legend, Section, Table, Text
from r2ac.launch.report.figures import draw_intervals, draw_profiles
from r2ac.launch.report.format import counted, listed, percent_estimate
from r2ac.launch.report.scores import Comparison, EvalSetting, Improvement, RunScore, compare, improvements
from r2ac.launch.report.study import Configuration
from r2ac.launch.report.svg import swatch

CITATION = (
    "Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, “Deep reinforcement learning at the edge of the "
    "statistical precipice” (NeurIPS; arXiv 2108.13264)"
)
_STATISTICS = (
    (
        "iqm",
        "Interquartile mean (IQM)",
        "the mean of the middle half of all runs, the lowest and the highest quarter left out (section 4.3)",
    ),
    ("mean", "Mean", "the mean over all runs, every task counting the same"),
    ("median", "Median", "the median over tasks of the mean over runs"),
    (
        "optimality_gap",
        "Optimality gap",
        "how much is missing to 100 % on average, more than 100 % counting as 100 %; lower is better (section 4.3)",
    ),
)
_THRESHOLDS = 101


def aggregate_section(manner: EvalSetting | None, results: Sequence[RunScore]) -> Section:
    """Of the results of one manner, the statistics of each configuration over the tasks that all of them share."""
    title = "Over tasks"
    comparison = compare(results)
    if manner is None or comparison is None:
        why = (
            "no run has been evaluated (r2ac evaluate RUN plays whole episodes)"
            if manner is None
            else "there is no task with reference scores that all evaluated configurations share"
        )
        return Section("aggregates", title, (Text(f"There are no statistics over tasks: {why}.", "missing"),))
    return Section("aggregates", title, tuple(_blocks(manner, comparison)))


def _blocks(manner: EvalSetting, comparison: Comparison) -> list[Block]:
    unit = (
        f"Of {counted(len(comparison.tasks), 'task')}, {manner}. The unit is a training run (a seed): its score on a "
        "task is the mean over its evaluation episodes, normalised with the task's reference scores. The statistics "
        f"are those of {CITATION}."
    )
    blocks: list[Block] = [Text(unit), *_caveats(comparison)]
    blocks.append(Legend(tuple(swatch(c.name, c.number) for c in comparison.scores)))
    aggregates = comparison.aggregates()
    figures = []
    for name, title, meaning in _STATISTICS:
        rows = [(c.number, c.name, attrgetter(name)(of)) for c, of in aggregates.items()]
        told = "; ".join(f"{label}: {percent_estimate(estimate)}" for _, label, estimate in rows)
        svg = draw_intervals(rows, "normalised score", f"{title}: {told}")
        figures.append(Figure(svg, title, f"{meaning[0].upper()}{meaning[1:]}."))
    figures.append(_profile_figure(comparison))
    blocks.append(Figures(tuple(figures)))
    columns = ("configuration", *(title for _, title, _ in _STATISTICS), "runs a task")
    table: list[tuple[Cell | str, ...]] = [
        (
            Cell(c.name, swatch(c.name, c.number)),
            *(percent_estimate(attrgetter(name)(of)) for name, _, _ in _STATISTICS),
            " to ".join(dict.fromkeys(str(n) for n in _ends([len(runs) for runs in comparison.scores[c].values()]))),
        )
        for c, of in aggregates.items()
    ]
    intervals = "" if comparison.most_runs == 1 else ", with 95 % stratified bootstrap intervals"
    blocks.append(Table(f"Normalised scores over tasks{intervals}", columns, table, frozenset(columns[1:])))
    blocks.append(Details(f"The tasks ({len(comparison.tasks)})", (Text(listed(comparison.tasks, most=1000)),)))
    return blocks + _improvement_blocks(comparison)


def _ends(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts), max(counts)


def _caveats(comparison: Comparison) -> list[Block]:
    """Why the numbers say less than they seem to."""
    blocks: list[Block] = []
    fewest = min(len(runs) for by_task in comparison.scores.values() for runs in by_task.values())
    if comparison.left_out:
        left_out = listed(comparison.left_out)
        blocks.append(Text(f"Not every configuration has scores on {left_out}: left out of this section.", "alert"))
    if comparison.most_runs == 1:
        blocks.append(Text("There is a single run on every task: too little data for intervals.", "missing"))
        return blocks
    if fewest == 1:
        single = "Some tasks have a single run, which adds nothing to the width of an interval: true ones are wider."
        blocks.append(Text(single, "alert"))
    elif fewest < 5:
        blocks.append(Text(f"With {fewest} runs of a task intervals are too narrow: take them as a hint.", "alert"))
    if min(sum(map(len, by_task.values())) for by_task in comparison.scores.values()) < 4:
        blocks.append(Text("With fewer than 4 runs in all no quarter can be left out: the IQM is the mean."))
    return blocks


def _profile_figure(comparison: Comparison) -> Figure:
    scores = [score for by_task in comparison.scores.values() for runs in by_task.values() for score in runs]
    thresholds = np.linspace(min(0.0, *scores), max(1.0, *scores), _THRESHOLDS)
    profiles = [(c.number, performance_profile(by_task, thresholds)) for c, by_task in comparison.scores.items()]
    told = listed(c.name for c in comparison.scores)
    svg = draw_profiles(profiles, f"Performance profiles of {told}: the share of runs above each normalised score")
    band = "" if comparison.most_runs == 1 else ", with pointwise 95 % bands"
    meaning = f"Which share of the runs scores above τ, every task counting the same{band}; higher is better"
    return Figure(svg, "Performance profiles", f"{meaning} (section 4.2).")


def _improvement_blocks(comparison: Comparison) -> list[Block]:
    title: Block = Heading("Probability of improvement")
    found = improvements(comparison)
    if not found:
        configurations = len(comparison.scores)
        if configurations == 1:
            return []
        why = (
            f"there are {configurations} configurations: name with --baseline the runs to compare with"
            if not any(c.baseline for c in comparison.scores)
            else "only one of the runs and the baseline has been evaluated"
        )
        return [title, Text(f"Pairs are not compared: {why}.", "missing")]
    meaning = (
        "P(X > Y): how likely a run of X beats a run of Y on a task drawn at random, equal scores counting one half "
        "(section 4.3). An interval wholly above 50 % speaks for X, one wholly below for Y."
    )
    rows = [(each.ours.number, _pair(each.ours, each.theirs), each.estimate) for each in found]
    told = "; ".join(f"{name}: {percent_estimate(estimate)}" for _, name, estimate in rows)
    svg = draw_intervals(rows, "P(X > Y)", f"Probability of improvement: {told}", middle=0.5)
    figure = Figure(svg, "X beats Y", "The line at 50 %: neither is better.")
    return [title, Text(meaning), Figures((figure,)), _improvement_table(found)]


def _improvement_table(found: Sequence[Improvement]) -> Table:
    columns = ("X", "Y", "P(X > Y)", "tasks")
    rows = [
        (
            Cell(each.ours.name, swatch(each.ours.name, each.ours.number)),
            Cell(each.theirs.name, swatch(each.theirs.name, each.theirs.number)),
            percent_estimate(each.estimate),
            str(each.tasks),
        )
        for each in found
    ]
    intervals = "" if found[0].estimate.low is None else ", with 95 % stratified bootstrap intervals"
    return Table(f"Probability of improvement{intervals}", columns, rows, frozenset(columns[2:]))


def _pair(ours: Configuration, theirs: Configuration) -> str:
    return f"{ours.name} > {theirs.name}"
