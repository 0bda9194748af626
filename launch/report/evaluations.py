"""What the evaluations of a study have found: a drawing and a row for each task and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean, stdev

from markupsafe import Markup

from r2ac.launch.evaluation.evaluate import Evaluation
from r2ac.launch.plots.reference_lines import score_lines
from r2ac.launch.report.blocks import Section, html
from r2ac.launch.report.figures import Bar, draw_bars, draw_grouped_bars
from r2ac.launch.report.format import capitalised, count_range, counted, listed, number, percent, spread
from r2ac.launch.report.scores import EvalSetting, RunScore, transferred_results
from r2ac.launch.report.study import Configuration, Study
from r2ac.launch.runtime.progress import short_count
from r2ac.launch.train.resume import newest_step

_TASKS_A_DRAWING = 10
_MOST_REMARKS = 6
_ByConfiguration = dict[Configuration, list[RunScore]]
_Grouped = dict[str, _ByConfiguration]


def evaluation_section(study: Study, results: Mapping[EvalSetting, Sequence[RunScore]]) -> Section:
    """Each evaluation setting by itself; first what there is no evaluation of."""
    blocks = _missing(study)
    if results:
        explained = (
            "A run's return on a task is the mean over its evaluation episodes, played by its newest evaluated "
            "checkpoint; normalised, it is 0 % at the task's low reference score and 100 % at its high one. Bars, and "
            "the numbers beside the names, are means over the runs of a configuration ± the standard deviation of the "
            "runs (n - 1); dots are runs."
        )
        blocks.append(html.text(explained))
    for setting, own in results.items():
        blocks += _setting_blocks(setting, own)
    transferred = transferred_results(study)
    if transferred:
        caption = "Results on tasks that the run was not trained on; they count in no mean of this page"
        blocks += [html.heading("Tasks that were not trained on"), _run_table(transferred, caption)]
    return Section("evaluation", "Evaluation", blocks)


def _missing(study: Study) -> list[Markup]:
    """What there is no evaluation of, and which command would change that."""
    blocks = [
        html.text(f"No evaluation of {run.name}: {run.evaluation_problem}.", "missing")
        for run in study.runs
        if run.evaluation_problem is not None
    ]
    without = [run for run in study.runs if not run.evaluations and run.evaluation_problem is None]
    if ours := [run.name for run in without if run.config]:
        blocks.append(html.text(f"Not evaluated: {listed(ours)}. r2ac evaluate RUN plays whole episodes.", "missing"))
    if foreign := [run.name for run in without if not run.config]:
        blocks.append(html.text(f"Runs of other programs have no evaluation here: {listed(foreign)}.", "missing"))
    return blocks


def _setting_blocks(setting: EvalSetting, results: Sequence[RunScore]) -> list[Markup]:
    by_task: _Grouped = {}
    for result in results:
        by_task.setdefault(result.task, {}).setdefault(result.configuration, []).append(result)
    figures = [_task_figure(task, by_configuration, setting) for task, by_configuration in by_task.items()]
    return [
        html.heading(capitalised(str(setting))),
        *_warnings(by_task),
        html.legend(result.configuration for result in results),
        html.figures([*figures, *_normalised_figures(by_task, setting)]),
        html.folded_table("Means over runs", f"Means over runs: {setting}", _mean_rows(by_task), range(2, 7)),
        html.details(f"Every run ({len(results)})", [_run_table(results, f"Every run: {setting}")]),
    ]


def _warnings(by_task: _Grouped) -> list[Markup]:
    """What makes results harder to compare than they look."""
    sentences: dict[str, None] = {}
    for task, by_configuration in by_task.items():
        own = [result for results in by_configuration.values() for result in results]
        for result in own:
            evaluation, newest = result.evaluation, newest_step(result.run.path)
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
            values = "; ".join(f"{name} is {listed(dict.fromkeys(o.get(name) for o in options))}" for name in differing)
            sentences[f"Episodes of {task} were played in environments that differ: {values}."] = None
    blocks = [html.text(sentence, "alert") for sentence in sentences]
    if len(blocks) <= _MOST_REMARKS:
        return blocks
    rest = blocks[_MOST_REMARKS:]
    return [*blocks[:_MOST_REMARKS], html.details(f"{counted(len(rest), 'more remark')} of this kind", rest)]


def _bars(by_configuration: _ByConfiguration, normalised: bool) -> list[Bar]:
    """A bar for each configuration that has values."""
    bars = []
    for configuration, results in by_configuration.items():
        values = _scores(results) if normalised else _returns(results)
        if values:
            error = stdev(values) if len(values) > 1 else None
            text = spread(values, percents=normalised)
            bars.append(Bar(configuration.number, configuration.name, mean(values), text, error, tuple(values)))
    return bars


def _task_figure(task: str, by_configuration: _ByConfiguration, setting: EvalSetting) -> Markup:
    bars = _bars(by_configuration, normalised=False)
    label = f"Evaluation returns on {task}, {setting}: {'; '.join(f'{bar.name}: {bar.text}' for bar in bars)}"
    references = {r.evaluation.reference_scores for results in by_configuration.values() for r in results}
    return html.figure(draw_bars(bars, "return", label, score_lines(references)), task)


def _normalised_figures(by_task: _Grouped, setting: EvalSetting) -> list[Markup]:
    """The normalised scores of all tasks that have some, so many tasks a drawing."""
    groups = {task: bars for task, results in by_task.items() if (bars := _bars(results, normalised=True))}
    figures, tasks = [], list(groups)
    for start in range(0, len(tasks), _TASKS_A_DRAWING):
        some = {task: groups[task] for task in tasks[start : start + _TASKS_A_DRAWING]}
        values = "; ".join(f"{task}, {bar.name}: {bar.text}" for task, bars in some.items() for bar in bars)
        svg = draw_grouped_bars(some, "normalised score", f"Normalised scores, {setting}: {values}")
        figures.append(html.figure(svg, "Normalised scores"))
    return figures


def _mean_rows(by_task: _Grouped) -> list[dict[str, str]]:
    return [
        {
            "task": task,
            "configuration": html.named(configuration),
            "runs": str(len(results)),
            "return": spread(_returns(results)),
            "normalised": spread(scores, percents=True) if (scores := _scores(results)) else "no reference",
            "episodes a run": " or ".join(dict.fromkeys(_episodes(result.evaluation) for result in results)),
            "steps": count_range(result.evaluation.env_steps for result in results),
        }
        for task, by_configuration in by_task.items()
        for configuration, results in by_configuration.items()
    ]


def _run_table(results: Sequence[RunScore], caption: str) -> Markup:
    """Each result by itself, with what is needed to repeat it."""
    rows = []
    for result in results:
        evaluation, episodes = result.evaluation, result.evaluation.episodes
        changed = f" with other {', '.join(evaluation.changed)}" if evaluation.changed else ""
        normalised = evaluation.normalised_return
        row = {
            "run": result.run.name,
            "task": result.task,
            "configuration": result.configuration.name,
            "seed": "unknown" if result.run.seed is None else str(result.run.seed),
            "return": spread(evaluation.seed_means),
            "normalised": "" if normalised is None else percent(normalised),
            "episodes": _episodes(evaluation),
            "mean length": number(mean(episode.length for episode in episodes)),
            "cut off": percent(mean(episode.truncated for episode in episodes)),
            "steps": short_count(evaluation.env_steps),
            "checkpoint": f"{evaluation.checkpoint.name} ({evaluation.sha256[:12]})",
            "manner": f"{evaluation.protocol}{changed}, {evaluation.config.split}",
            "date (UTC)": (evaluation.date or "")[:16].replace("T", " "),
            "versions": listed(f"{name} {version}" for name, version in evaluation.versions.items()),
        }
        rows.append(row)
    note = "; return: mean over evaluation seeds ± their standard deviation; cut off: by a limit, not by the task"
    return html.table(caption + note, rows, range(3, 10))


def _returns(results: Sequence[RunScore]) -> list[float]:
    return [result.evaluation.mean_return for result in results]


def _scores(results: Sequence[RunScore]) -> list[float]:
    scores = [result.evaluation.normalised_return for result in results]
    return [score for score in scores if score is not None]


def _episodes(evaluation: Evaluation) -> str:
    return f"{len(evaluation.seeds_played)} x {evaluation.config.episodes}"
