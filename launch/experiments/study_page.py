"""The part of an experiment on the page of the study: its table, its figure, its claims, computed from the records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from r2ac.launch.evaluation.statistics import aggregate, bootstrap_mean
from r2ac.launch.experiments.experiment import Claim, Experiment
from r2ac.launch.experiments.records import PARTS, TrainingRecord
from r2ac.launch.plots.plot import PALETTE
from r2ac.launch.runs.run_directory import write_atomically
from r2ac.launch.runtime.errors import RunError, os_errors_as
from r2ac.launch.runtime.progress import short_count

Cells = Mapping[tuple[str, str], Sequence[TrainingRecord]]
"""The records by task and agent, those of one cell in the order of seeds."""
_COLUMNS = 3
_DASHES = ("-", "--", ":", "-.")


def write_part(page: Path, experiment: Experiment, records: Iterable[TrainingRecord]) -> None:
    """Replaces the part of the experiment on the page, or adds it, and draws its figure into a folder beside the page.
    Raises RunError where they cannot be written."""
    cells = cells_of(experiment, records)
    figure = page.parent / page.stem / f"{experiment.name}-{experiment.scale}.svg"
    begin, end = (f"<!-- {word} {experiment.name} {experiment.scale} -->" for word in ("begin", "end"))
    part = f"{begin}\n{part_of(experiment, cells, page.stem)}\n{end}"
    with os_errors_as(RunError, f"{page} cannot be written"):
        text = page.read_text(encoding="utf-8") if page.exists() else "# The study\n"
        before, _, rest = text.partition(begin)
        if rest and end not in rest:
            raise RunError(f"{page} is damaged: {begin} has no {end}")
        after = rest.partition(end)[2] if rest else "\n"
        figure.parent.mkdir(parents=True, exist_ok=True)
        if cells:
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": "r2ac", "font.size": 9.0}):
                _draw(experiment, cells).savefig(figure, metadata={"Date": None})
        write_atomically(page, (before if rest else before.rstrip("\n") + "\n\n") + part + after)


def cells_of(experiment: Experiment, records: Iterable[TrainingRecord]) -> Cells:
    """Without those that the experiment does not have any more, or has by another command."""
    commands = {(training.task, training.agent): training.command for training in experiment.trainings}
    cells: dict[tuple[str, str], list[TrainingRecord]] = {place: [] for place in commands}
    for record in sorted(records, key=lambda record: record.key):
        place = record.task, record.agent
        if commands.get(place) == record.command:
            cells[place].append(record)
    return {place: own for place, own in cells.items() if own}


def part_of(experiment: Experiment, cells: Cells, figures: str = "study") -> str:
    """As Markdown, with a link to the figure in the folder ``figures``."""
    command = f"    r2ac reproduce {experiment.name} --scale {experiment.scale}"
    lines = [f"## {experiment.title}", "", experiment.shows.strip(), "", command, ""]
    if not cells:
        return "\n".join([*lines, "Not measured yet: what is said above is expected."])
    lines += [
        f"![{experiment.title}]({figures}/{experiment.name}-{experiment.scale}.svg)",
        "",
        *_table(experiment, cells),
        "",
    ]
    lines += [_checked(experiment, claim, cells) for claim in experiment.claims]
    return "\n".join([*lines, "", _cost(experiment, cells)])


def score_of(experiment: Experiment, record: TrainingRecord) -> float:
    """What the training is judged by."""
    if experiment.score == "price":
        return 1e6 * record.cpu_seconds / record.steps
    if experiment.score == "unit" and record.reference is not None and record.reference[0] <= 0:
        return (record.result + 1) / 2
    return record.result


def _table(experiment: Experiment, cells: Cells) -> list[str]:
    """Tasks below each other, or agents, where there are more of them and nothing is published beside."""
    tasks = [task for task in experiment.tasks if any(place[0] == task for place in cells)]
    agents = [agent for agent in experiment.agents if any(place[1] == agent for place in cells)]
    if len(agents) > len(tasks) and not experiment.published:
        heads = ["", *tasks]
        rows = [[agent, *(_cell(experiment, cells.get((task, agent))) for task in tasks)] for agent in agents]
    else:
        heads = ["", *agents, *experiment.published]
        rows = [
            [
                task,
                *(_cell(experiment, cells.get((task, agent))) for agent in agents),
                *(column.get(task, "") for column in experiment.published.values()),
            ]
            for task in tasks
        ]
        if experiment.score == "unit" and len(tasks) > 1:
            iqm = [_interquartile_mean(experiment, cells, tasks, agent) for agent in agents]
            rows.append(["IQM over tasks", *iqm, *("" for _ in experiment.published)])
    table = [heads, ["---", *("--:" for _ in heads[1:])], *rows]
    return [f"| {' | '.join(row)} |" for row in table]


def _cell(experiment: Experiment, records: Sequence[TrainingRecord] | None) -> str:
    """``1.00 [0.99, 1.00]``, and below ``3 of 3: 54k steps, 12 s``, the medians of the seeds that solved it."""
    if not records:
        return ""
    if experiment.score == "price":
        cost = mean(score_of(experiment, record) for record in records)
        return f"{cost:.0f} µs<br>{mean(record.peak_mb for record in records):.0f} MB"
    text = _estimate([score_of(experiment, record) for record in records])
    if records[0].threshold is None:
        return text
    solved = [record.solved for record in records if record.solved is not None and record.is_solved]
    text += f"<br>{len(solved)} of {len(records)}"
    if solved:
        text += f": {short_count(median(s for s, _ in solved))} steps, {median(s for _, s in solved):.0f} s"
    return text


def _estimate(values: Sequence[float]) -> str:
    """The mean, and its 95 % bootstrap interval where there are several."""
    interval = bootstrap_mean(np.reshape(values, (-1, 1)))
    form = ".2f" if max(map(abs, values)) >= 0.3 else ".3f"
    text = format(mean(values), form)
    return text if interval is None else f"{text} [{', '.join(format(float(end[0]), form) for end in interval)}]"


def _interquartile_mean(experiment: Experiment, cells: Cells, tasks: Sequence[str], agent: str) -> str:
    if not all((task, agent) in cells for task in tasks):
        return ""
    return str(aggregate({t: [score_of(experiment, r) for r in cells[t, agent]] for t in tasks}).iqm)


def _checked(experiment: Experiment, claim: Claim, cells: Cells) -> str:
    """One line that says whether the records bear the claim out."""
    tasks = claim.tasks or experiment.tasks
    own = {task: cells[task, claim.agent] for task in tasks if (task, claim.agent) in cells}
    missing = f"not measured on {len(tasks) - len(own)} of {len(tasks)} tasks yet" if len(own) < len(tasks) else ""
    made = sum(map(len, own.values()))
    planned = sum(one.agent == claim.agent and one.task in own for one in experiment.trainings)
    so_far, also = ("", "") if made >= planned else (" so far", f"; {made} of {planned} trainings")
    scores = {task: mean(score_of(experiment, record) for record in records) for task, records in own.items()}
    if missing:
        also += f"; {missing}"
    if claim.measure == "above":
        columns = experiment.published.values()
        above = sum(
            all(score > float(column.get(task, "-inf")) for column in columns) for task, score in scores.items()
        )
        if above < claim.at_least <= above + len(tasks) - len(own):
            return f"- {claim.text}: {missing}."
        return f"- {claim.text}: {_verdict(above >= claim.at_least)}{so_far} ({above} of {len(tasks)}{also})."
    kind = "the mean score is"
    if claim.measure == "solved":
        kind = "the share of seeds is"
        scores = {task: mean(record.is_solved for record in records) for task, records in own.items()}
    worst = min(scores, key=lambda task: scores[task], default=None)
    if worst is None or (missing and scores[worst] >= claim.at_least):
        return f"- {claim.text}: {missing}."
    verdict = _verdict(scores[worst] >= claim.at_least)
    where = f"least in {worst}: {scores[worst]:.2f}"
    if not missing and len(set(scores.values())) == 1:
        where = f"{scores[worst]:.2f}{' in each task' if len(scores) > 1 else ''}"
    return f"- {claim.text}: {verdict}{so_far} ({kind} {where}{also})."


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _cost(experiment: Experiment, cells: Cells) -> str:
    records = [record for own in cells.values() for record in own]
    hours = sum(record.cpu_seconds for record in records) / 3600
    dates = sorted({record.date for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    with_what = "; ".join(sorted({record.versions for record in records} | {record.hardware for record in records}))
    judged = {
        "return": "Returns",
        "unit": "Returns, mapped to [0, 1]",
        "prediction": "Mean squared errors of the predicted return, lower is better",
        "price": "Processor time of a step, all told, and the most memory that the process held",
    }[experiment.score]
    if experiment.score in ("return", "unit"):
        of = f"of {experiment.episodes} held-out episodes" if experiment.episodes else "of the last training episodes"
        judged += f" {of}, mean and 95 % bootstrap interval over seeds; seeds that solved it, median steps and seconds"
    made, planned = len(records), len(experiment.trainings)
    trainings = f"{made} trainings" if made == planned else f"{made} of {planned} trainings"
    return f"{judged}. {trainings}, {hours:.2f} CPU hours; {with_what}; {when}."


def _draw(experiment: Experiment, cells: Cells) -> Figure:
    """Panels by task, a line for each agent: over the number in their labels, or learning curves."""
    points = _over_labels(experiment, cells) if experiment.figure else _curves(experiment, cells)
    lines = list(dict.fromkeys(line for panel in points.values() for line in panel))
    columns = max(1, min(_COLUMNS, len(points)))
    rows = max(1, -(-len(points) // columns))
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.6 * rows + 0.16 * len(lines) + 0.3), layout="constrained")
    every: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes, (title, panel) in zip(every, points.items(), strict=False):
        for name, (x, low, middle, high) in panel.items():
            number = lines.index(name)
            style: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)]}
            dash = _DASHES[number // len(PALETTE) % len(_DASHES)]
            axes.plot(x, middle, dash, marker="o" if experiment.figure else "", ms=3, lw=1.5, label=name, **style)
            axes.fill_between(x, low, high, alpha=0.15, lw=0, **style)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel(experiment.figure or "environment steps")
        axes.grid(color="#e6e6e6", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if experiment.figure_y == "solved":
            axes.set_ylim(-0.05, 1.05)
            axes.set_ylabel("seeds that solve it", fontsize=8)
        if experiment.figure:
            axes.set_xscale("log")
            axes.set_xticks(sorted({float(number) for x, *_ in panel.values() for number in x}))
            axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: short_count(value) if value >= 1 else f"{value:g}")
    for unused in every[len(points) :]:
        unused.remove()
    handles = {str(handle.get_label()): handle for axes in every[: len(points)] for handle in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", frameon=False, fontsize=8, ncols=columns)
    return figure


_Points = dict[str, dict[str, Any]]
"""Panel -> line -> x, lower end, middle and upper end, all [P]."""


def _over_labels(experiment: Experiment, cells: Cells) -> _Points:
    """A cell without the number, such as that of an agent that has no rollouts, has no place on the x axis."""
    pattern = re.compile(rf"(.*?),? ?\b{experiment.figure} = ([\d.]+)(.*)")
    found: dict[str, dict[str, list[tuple[Any, ...]]]] = {}
    for place, records in cells.items():
        matches = [pattern.fullmatch(label) for label in place]
        numbers = [float(match[2]) for match in matches if match]
        panel, line = (match[1] + match[3] if match else label for match, label in zip(matches, place, strict=True))
        if experiment.figure_y == "solved":
            values = [float(record.is_solved) for record in records]
        else:
            values = [score_of(experiment, record) for record in records]
        if numbers:
            interval = (float(end[0]) for end in _with_interval(np.reshape(values, (-1, 1))))
            found.setdefault(panel, {}).setdefault(line, []).append((numbers[0], *interval))
    return {panel: {line: np.array(sorted(own)).T for line, own in lines.items()} for panel, lines in found.items()}


def _curves(experiment: Experiment, cells: Cells) -> _Points:
    found: _Points = {}
    for (task, agent), records in cells.items():
        curves = np.array([record.curve for record in records], dtype=float)
        known = np.isfinite(curves).all(axis=0)
        if known.any():
            x = (np.arange(1, PARTS + 1) / PARTS * records[0].steps)[known]
            found.setdefault(task, {})[agent] = (x, *_with_interval(curves[:, known]))
    return found


def _with_interval(values: Any) -> tuple[Any, Any, Any]:
    """[R, P] -> lower end of the bootstrap interval of the mean, mean, upper end, [P] each."""
    array = np.asarray(values, dtype=float)
    middle = array.mean(axis=0)
    low, high = bootstrap_mean(array) or (middle, middle)
    return low, middle, high
