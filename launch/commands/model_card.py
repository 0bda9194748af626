"""The model card of a run: README.md, as the Hugging Face Hub shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from r2ac.launch.evaluation.evaluate import Evaluation
from r2ac.launch.evaluation.results_file import read_evaluation
from r2ac.launch.evaluation.statistics import bootstrap_mean
from r2ac.launch.evaluation.tables import evaluation_markdown
from r2ac.launch.plots.plot import plot_runs
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.run_directory import RunDirectory, write_atomically
from r2ac.launch.runs.tensorboard import flat
from r2ac.launch.runtime.errors import RunDirectoryError, RunError, os_errors_as
from r2ac.launch.runtime.progress import number_text, spread_text


def write_card(path: Path, name: str, licence: str) -> Path:
    """Write README.md, and curves.png where episodes have ended, into the run at ``path``, which is to be the
    repository ``name``; returns the card's path. Raises as `RunDirectory.open` and `TrainedAgent.load`, and RunError
    where nothing can be written or the evaluation is damaged."""
    run = RunDirectory.open(path, for_writing=False)
    trained = TrainedAgent.load(path)
    evaluations = read_evaluation(path) if run.evaluation_path.exists() else ()
    try:
        plot_runs([path], run.curves_path)
        curves = [f"![Learning curve]({run.curves_path.name})"]
    except RunDirectoryError:
        curves = ["No episode has ended."]
    card = path / "README.md"
    with os_errors_as(RunError, f"{card} cannot be written"):
        write_atomically(card, _card(trained, evaluations, curves, name, licence))
    return card


def _card(
    trained: TrainedAgent, evaluations: tuple[Evaluation, ...], curves: list[str], name: str, licence: str
) -> str:
    config, url, short = trained.training, f"hf://{name}", name.partition("/")[2]
    front: dict[str, Any] = {
        "library_name": "r2ac",
        "license": licence,
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "r2ac", *(task.name for task in config.tasks)],
    }
    if evaluations:
        front["model-index"] = [{"name": short, "results": list(map(_result, evaluations))}]
    run = (f"evaluate {url}", f"watch {url}", f"export {url} --onnx agent.onnx")
    settings = flat(config.to_json()).items()
    lines = [
        *("---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "", f"# {short}", ""),
        f"An agent that remembers, trained on `{config.task}` for {trained.env_steps:,} steps with",
        f"[r2ac](https://pypi.org/project/r2ac/): {config.label}, {config.learner.algorithm}, seed {config.seed}.",
        *("", "## How to run it", "", "    pip install 'r2ac[hub]'"),
        *(f"    r2ac {command}" for command in run),
        *("", f"From Python: `r2ac.load({url!r})`.", "", "## Learning", "", *curves, ""),
        *_results(evaluations),
        *("## Settings", "", "| setting | value |", "|---|---|"),
        *(f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in settings),
        *("", f"Licence: {licence}."),
    ]
    return "\n".join(lines) + "\n"


def _results(evaluations: tuple[Evaluation, ...]) -> list[str]:
    if not evaluations:
        return ["## Evaluation", "", "Not evaluated.", ""]
    page = evaluation_markdown(evaluations, []).replace("# Evaluation", "## Evaluation", 1)
    lines = [page]
    for each in evaluations:
        interval = bootstrap_mean(np.array(each.seed_means)[:, None])
        if interval is not None:
            ends = " to ".join(number_text(float(end[0])) for end in interval)
            where = f"{each.task}, split {each.config.split}"
            lines.append(f"- {where}: 95 % bootstrap interval of the mean return over seeds {ends}")
    return [*lines, ""]


def _result(evaluation: Evaluation) -> dict[str, Any]:
    """As the hub's table of results has it."""
    # A number for programs, which read no commas.
    value = spread_text(evaluation.mean_return, evaluation.std_return, 2, " +/- ").replace(",", "")
    kind = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
    metric = {"type": "mean_reward", "name": "mean_reward", "value": value}
    return {"task": kind, "dataset": {"name": evaluation.task, "type": evaluation.task}, "metrics": [metric]}
