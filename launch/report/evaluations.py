"""What the evaluations of a study have found: a drawing and a row for each task and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean, stdev

from r2ac.launch.evaluation.evaluate import Evaluation
from r2ac.launch.plots.reference_lines import Line
from r2ac.launch.report.blocks import (
    Block,
    Cell,
    Details,
    Figure,
    Figures,
    Heading,
    Legend,
    Section,
    Table,
    Text,
    folded,
)
from r2ac.launch.report.figures import Bar, draw_bars, draw_grouped_bars
from r2ac.launch.report.format import count_range, counted, listed, number, percent, spread
from r2ac.launch.report.scores import EvalSetting, RunScore, transferred_results
from r2ac.launch.report.study import Configuration, StudiedRun, Study
from r2ac.launch.report.svg import swatch
from r2ac.launch.runtime.progress import short_count

_TASKS_A_DRAWING = 10


def evaluation_section(study: Study, results: Mapping[EvalSetting, Sequence[RunScore]]) -> Section:
    """Each manner of playing by itself; first what there is no evaluation of."""
    blocks: list[Block] = _missing(study)
    if results:
        explained = (
            "A run's return on a task is the mean over its evaluation episodes, played by its newest evaluated "
            "checkpoint; normalised, it is 0 % at the task's low reference score and 100 % at its high one. Bars, and "
            "the numbers beside the names, are means over the runs of a configuration ± the standard deviation of the "
            "runs (n - 1); dots are runs."
        )
        blocks.append(Text(explained))
    for manner, own in results.items():
        blocks += _manner_blocks(manner, own)
    transferred = transferred_results(study)
    if transferred:
        caption = "Results on tasks that the run was not trained on; they count in no mean of this page"
        blocks += [Heading("Tasks that were not trained on"), _run_table(transferred, caption)]
    return Section("evaluation", "Evaluation", tuple(blocks))


def _missing(study: Study) -> list[Block]:
    """What cannot be told, and which command would change that."""
    blocks: list[Block] = [
        Text(f"No evaluation of {run.name}: {run.evaluation_problem}.", "missing")
        for run in study.runs
        if run.evaluation_problem is not None
    ]
    without = [run for run in study.runs if not run.evaluations and run.evaluation_problem is None]
    foreign = [run.name for run in without if not run.config]
    ours = [run.name for run in without if run.config]
    if ours:
        blocks.append(Text(f"Not evaluated: {listed(ours)}. r2ac evaluate RUN plays whole episodes.", "missing"))
    if foreign:
        blocks.append(Text(f"Runs of other programs have no evaluation here: {listed(foreign)}.", "missing"))
    return blocks


def _manner_blocks(manner: EvalSetting, results: Sequence[RunScore]) -> list[Block]:
    by_task = _by_task_and_configuration(results)
    statement = str(manner)
    known = {result.configuration.number: result.configuration for result in results}
    figures = [_task_figure(task, by_configuration, manner) for task, by_configuration in by_task.items()]
    legend = Legend(tuple(swatch(known[n].name, n) for n in sorted(known)))
    run_table = _run_table(results, f"Every run: {statement}")
    return [
        Heading(statement[0].upper() + statement[1:]),
        *_warnings(by_task),
        legend,
        Figures(tuple(figures + _normalised_figures(by_task, manner))),
        folded(_table(by_task, f"Means over runs: {statement}"), "Means over runs"),
        Details(f"Every run ({len(run_table.rows)})", (run_table,)),
    ]


_Grouped = dict[str, dict[Configuration, list[RunScore]]]


def _by_task_and_configuration(results: Sequence[RunScore]) -> _Grouped:
    """Tasks in the order in which they are first met, configurations in their own."""
    found: _Grouped = {}
    for result in sorted(results, key=lambda result: result.configuration.number):
        found.setdefault(result.task, {}).setdefault(result.configuration, []).append(result)
    return found


def _warnings(by_task: _Grouped) -> list[Block]:
    """What makes results harder to compare than they look."""
    sentences: dict[str, None] = {}
    for task, by_configuration in by_task.items():
        own = [result for results in by_configuration.values() for result in results]
        for result in own:
            evaluation, newest = result.evaluation, result.run.checkpoint_steps
            if not evaluation.complete:
                played, asked = len(evaluation.seeds_played), evaluation.config.seeds
                sentences[f"{result.run.name} has played {played} of {asked} evaluation seeds of {task}."] = None
            if newest is not None and newest > evaluation.env_steps:
                at, since = short_count(evaluation.env_steps), short_count(newest)
                sentences[f"{result.run.name} was evaluated on {task} after {at} steps and has come to {since}."] = None
        steps = {result.evaluation.env_steps for result in own}
        if len(steps) > 1:
            sentences[f"Checkpoints on {task} differ in their age: {count_range(steps)} steps."] = None
        options = [asdict(result.evaluation.environment) for result in own]
        differing = [name for name in options[0] if any(o.get(name) != options[0][name] for o in options)]
        if differing:
            told = "; ".join(f"{name} is {listed(dict.fromkeys(o.get(name) for o in options))}" for name in differing)
            sentences[f"Episodes of {task} were played in environments that differ: {told}."] = None
    shown = list(sentences)
    blocks: list[Block] = [Text(sentence, "alert") for sentence in shown[:6]]
    if len(shown) > 6:
        rest = tuple(Text(sentence, "alert") for sentence in shown[6:])
        blocks.append(Details(f"{counted(len(rest), 'more remark')} of this kind", rest))
    return blocks


def _bar(configuration: Configuration, values: Sequence[float], told: str) -> Bar:
    error = stdev(values) if len(values) > 1 else None
    return Bar(configuration.number, configuration.name, mean(values), told, error, tuple(values))


def _task_figure(
    task: str, by_configuration: Mapping[Configuration, Sequence[RunScore]], manner: EvalSetting
) -> Figure:
    bars = []
    for configuration, results in by_configuration.items():
        returns = _returns(results)
        bars.append(_bar(configuration, returns, spread(returns)))
    label = f"Evaluation returns on {task}, {manner}: {'; '.join(f'{bar.name}: {bar.told}' for bar in bars)}"
    references = {r.evaluation.reference_scores for results in by_configuration.values() for r in results} - {None}
    lines: dict[Line, None] = {}
    for scores in references:
        if scores is not None:
            lines |= dict.fromkeys([Line(scores.low_name, scores.low), Line(scores.high_name, scores.high)])
    return Figure(draw_bars(bars, "return", label, list(lines)), task)


def _normalised_figures(by_task: _Grouped, manner: EvalSetting) -> list[Figure]:
    """The normalised scores of all tasks that have some, so many tasks a drawing."""
    groups = {}
    for task, by_configuration in by_task.items():
        bars = []
        for configuration, results in by_configuration.items():
            scores = _scores(results)
            if scores:
                bars.append(_bar(configuration, scores, spread(scores, percents=True)))
        if bars:
            groups[task] = bars
    figures, tasks = [], list(groups)
    for start in range(0, len(tasks), _TASKS_A_DRAWING):
        some = {task: groups[task] for task in tasks[start : start + _TASKS_A_DRAWING]}
        told = "; ".join(f"{task}, {bar.name}: {bar.told}" for task, bars in some.items() for bar in bars)
        svg = draw_grouped_bars(some, "normalised score", f"Normalised scores, {manner}: {told}")
        figures.append(Figure(svg, "Normalised scores"))
    return figures


def _table(by_task: _Grouped, caption: str) -> Table:
    columns = ("task", "configuration", "runs", "return", "normalised", "episodes a run", "steps")
    rows = []
    for task, by_configuration in by_task.items():
        for configuration, results in by_configuration.items():
            scores = _scores(results)
            row = (
                task,
                Cell(configuration.name, swatch(configuration.name, configuration.number)),
                str(len(results)),
                spread(_returns(results)),
                spread(scores, percents=True) if scores else "no reference",
                " or ".join(dict.fromkeys(_episodes(result.evaluation) for result in results)),
                count_range(result.evaluation.env_steps for result in results),
            )
            rows.append(row)
    return Table(caption, columns, rows, frozenset(columns[2:]))


def _run_table(results: Sequence[RunScore], caption: str) -> Table:
    """Each result by itself, with what is needed to repeat it."""
    names = ("run", "task", "configuration", "seed", "return", "normalised", "episodes", "mean length", "cut off")
    columns = (*names, "steps", "checkpoint", "manner", "date (UTC)", "versions")
    rows = []
    for result in results:
        evaluation, episodes = result.evaluation, result.evaluation.episodes
        row = (
            result.run.name,
            result.task,
            result.configuration.name,
            _seed(result.run),
            spread(evaluation.seed_means),
            "" if evaluation.normalised_return is None else percent(evaluation.normalised_return),
            _episodes(evaluation),
            number(mean(episode.length for episode in episodes)),
            percent(mean(episode.truncated for episode in episodes)),
            short_count(evaluation.env_steps),
            f"{evaluation.checkpoint.name} ({evaluation.sha256[:12]})",
            _manner(evaluation),
            (evaluation.date or "")[:16].replace("T", " "),
            listed(f"{name} {version}" for name, version in evaluation.versions.items()),
        )
        rows.append(row)
    note = "; return: mean over evaluation seeds ± their standard deviation; cut off: by a limit, not by the task"
    return Table(caption + note, columns, rows, frozenset((*columns[3:9], "steps")))


def _returns(results: Sequence[RunScore]) -> list[float]:
    return [result.evaluation.mean_return for result in results]


def _scores(results: Sequence[RunScore]) -> list[float]:
    scores = [result.evaluation.normalised_return for result in results]
    return [score for score in scores if score is not None]


def _episodes(evaluation: Evaluation) -> str:
    return f"{len(evaluation.seeds_played)} x {evaluation.config.episodes}"


def _manner(evaluation: Evaluation) -> str:
    """The protocol, what is not as it says, and the split."""
    changed = f" with other {', '.join(evaluation.changed)}" if evaluation.changed else ""
    return f"{evaluation.protocol}{changed}, {evaluation.config.split}"


def _seed(run: StudiedRun) -> str:
    return "unknown" if run.seed is None else str(run.seed)
