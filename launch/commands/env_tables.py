"""What `r2ac envs` shows: every suite and task, what an agent sees and does there, and whether it can run here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from math import prod

from rich.console import Console
from rich.table import Table
from rich.text import Text

from r2ac.envs import SUITES, Spaces, Suite, Task, make_vector
from r2ac.envs.action_spaces import actions_text
from r2ac.envs.engine_check import engine_problems
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.presets import preset_options

_UNKNOWN = "–"  # noqa: RUF001 (a dash, as it is printed)


def print_overview(console: Console) -> None:
    """Every suite in a few lines, with the names of its tasks; no environment is made."""
    problems = engine_problems(list(SUITES.values()))
    for suite in SUITES.values():
        _print_head(console, suite, problems[suite.name])
        tasks = suite.tasks
        console.print(f"  {_common(tasks)}", markup=False, soft_wrap=True)
        names = "  ".join(task.name for task in tasks)
        console.print(f"  {len(tasks)} tasks: {names}\n", markup=False)
    console.print("r2ac envs SUITE and r2ac envs SUITE/TASK show more, r2ac envs shows all.", soft_wrap=True)


def _common(tasks: Sequence[Task]) -> str:
    """The observations, actions and scores of a suite's tasks together, without their engine."""
    spaces, scores = [task.spaces() for task in tasks], [task.reference_scores() for task in tasks]
    known = [each for each in spaces if each is not None]
    parts = []
    if len(known) == len(tasks):
        small, large = (pick(known, key=lambda each: prod(each.shape)) for pick in (min, max))
        same = small.shape == large.shape
        parts.append(f"observation {_observation(small)}{'' if same else f' to {list(large.shape)}'}")
        parts.append(f"{_range([each.actions for each in known if each.actions is not None])} actions")
    frames = _range([task.frames_per_step() for task in tasks])
    parts.append(f"{frames} {'frame' if frames == '1' else 'frames'} a step")
    scored = [each for each in scores if each is not None]
    if scored:
        which = "all" if len(scored) == len(tasks) else f"{len(scored)} tasks"
        parts.append(f"scores of {which}: {scored[0].low_name} and {scored[0].high_name}")
    return "; ".join(parts)


def print_suites(console: Console, suites: Sequence[Suite]) -> None:
    """One line for each task; what only an engine knows is shown where it can run."""
    problems = engine_problems(suites)
    for suite in suites:
        problem = problems[suite.name]
        _print_head(console, suite, problem)
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        scores = [task.reference_scores() for task in suite.tasks]
        low, high = next(((s.low_name, s.high_name) for s in scores if s is not None), ("", ""))
        table.add_column("  task", no_wrap=True)
        table.add_column("observation", no_wrap=True)
        for column in ("actions", "frames/step", *((low, high) if low else ())):
            table.add_column(column, justify="right", no_wrap=True)
        for task, score in zip(suite.tasks, scores, strict=True):
            both = ("", "") if score is None else (f"{score.low:,.6g}", f"{score.high:,.6g}")
            frames = str(task.frames_per_step())
            table.add_row(f"  {task.name}", *_seen(task, problem), frames, *(both if low else ()))
        console.print(table)
        for task in suite.tasks:
            if text := suite.describe(task.short_name):
                console.print(f"  {task.short_name}: {text}", markup=False, soft_wrap=True)
        console.print()


def _print_head(console: Console, suite: Suite, problem: str | None) -> None:
    console.print(Text.assemble((suite.name, "bold"), f"  {suite.summary}"), soft_wrap=True)
    state = "runs here" if problem is None else f"cannot run here: {problem}"
    console.print(f"  {state}", markup=False, soft_wrap=True)


def print_task(console: Console, task: Task) -> None:
    """All about one task."""
    problem = engine_problems([task.suite])[task.suite.name]
    (observation, actions), scores = _seen(task, problem), task.reference_scores()
    options = preset_options(task.name)
    rows: list[tuple[str, object]] = [
        ("suite", task.suite.summary),
        *([("task", text)] if (text := task.suite.describe(task.short_name)) else []),
        ("here", "runs" if problem is None else f"cannot run: {problem}"),
        ("observation", observation),
        ("actions", actions),
        ("frames a step", task.frames_per_step()),
    ]
    if scores is not None:
        rows += [("scores", f"{scores.low_name} {scores.low:,.6g}, {scores.high_name} {scores.high:,.6g}")]
    if task.suite.presets:
        rows += [("presets", ", ".join(task.suite.presets))]
    read = [field.name for field in fields(options) if task.reads(field.name)]
    rows += [("options", "  ".join(f"{name}={getattr(options, name)!r}" for name in read))]
    print_table(console, task.name, rows)
    console.print(f"\nr2ac train {task.name} --help explains the options.", markup=False, soft_wrap=True)


def _seen(task: Task, problem: str | None) -> tuple[str, str]:
    """Observation and number of actions, from the suite or the engine; dashes where that cannot run here."""
    spaces = task.spaces()
    if problem is None and (spaces is None or spaces.actions is None):
        with closing(make_vector(task.name, 1, 0)) as env:
            shape, dtype = env.single_observation_space.shape, env.single_observation_space.dtype
            return _observation(Spaces(shape or (), str(dtype), None)), actions_text(env.single_action_space)
    if spaces is None:
        return _UNKNOWN, _UNKNOWN
    return _observation(spaces), _UNKNOWN if spaces.actions is None else str(spaces.actions)


def _observation(spaces: Spaces) -> str:
    return f"{spaces.dtype} {list(spaces.shape)}"


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"
