"""The page about runs: its numbers against the files that they come from, what it says where something is missing, and
that it refers to nothing beside itself."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import pytest

from r2ac.launch.cli import main
from r2ac.launch.report import write_report
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.settings.presets import preset
from r2ac.learner.checkpoint import load_checkpoint, save_checkpoint

TrainTiny = Callable[..., Path]
TASKS = ("memory/match_to_sample", "memory/tmaze")
# Chance and best of both tasks.
LOW, HIGH = 0.5, 1.0
VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&$\x1b"


class Page(HTMLParser):
    """What a reader of a page meets: tables by their captions, text, and every tag with its attributes."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._open: list[str] = []
        self._caption, self._cell = "", False
        self.feed(self.source)
        self.close()
        assert not self._open

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "figcaption":
            self._caption = ""
        elif tag == "table":
            assert self._caption
            assert self._caption not in self.tables
            self.tables[self._caption] = []
        elif tag == "tr":
            self.tables[self._caption].append([])
        elif tag in ("th", "td"):
            self.tables[self._caption][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.texts.append(data)
        if "figcaption" in self._open:
            self._caption += data.strip()
        elif {"th", "td"} & set(self._open):
            self.tables[self._caption][-1][-1] += data

    def rows(self, caption: str) -> list[dict[str, str]]:
        """Of the one table whose caption begins so."""
        (found,) = [rows for name, rows in self.tables.items() if name.startswith(caption)]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


def make_page(output: Path, runs: Sequence[Path], **options: Any) -> Page:
    return Page(write_report(runs, output, **{"episodes": False, **options}))


@pytest.fixture(scope="module")
def folder(train_tiny: TrainTiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of RTRL and of TBPTT on two tasks, evaluated; tests that change one take a copy."""
    folder = tmp_path_factory.mktemp("report")
    for gradient, seed in product(("rtrl", "tbptt"), (1, 2)):
        flags = {"--gradient": gradient, "--seed": seed}
        train_tiny(folder / f"tmaze-{gradient}{seed}", flags)
        words = [str(word) for pair in flags.items() for word in pair]
        sizes = [
            "--algorithm",
            "vtrace",
            "--num-actors",
            "0",
            "--streams-per-actor",
            "8",
            "--batch-size",
            "8",
            "--rollout-length",
            "5",
            "--hidden-size",
            "8",
        ]
        steps = ["--total-steps", "2000", "--log-steps", "200", "--run-dir", str(folder / f"match-{gradient}{seed}")]
        assert main(["train", "memory/match_to_sample", *sizes, *steps, *words]) == 0
    runs = [str(run) for run in sorted(folder.iterdir())]
    assert main(["evaluate", *runs, "--workers", "0", "--episodes", "6", "--seeds", "2"]) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return make_page(tmp_path_factory.mktemp("page") / "report.html", [folder])


def evaluated(run: Path) -> dict[str, Any]:
    (result,) = json.loads((run / "evaluation.json").read_text())["results"]
    return result


def run_return(run: Path) -> float:
    return mean(episode["episode_return"] for episode in evaluated(run)["episodes"])


def scores(folder: Path, gradient: str) -> dict[str, list[float]]:
    """Task -> normalised score of each run, from the episodes on file."""
    return {
        task: [(run_return(run) - LOW) / (HIGH - LOW) for run in sorted(folder.glob(f"{name}-{gradient}?"))]
        for task, name in zip(TASKS, ("match", "tmaze"), strict=True)
    }


def number_of(text: str) -> float:
    """``-12.5 % [...]`` -> -0.125."""
    return float(text.split(" %")[0].replace(",", "")) / 100


def interval_of(text: str) -> tuple[float, float]:
    low, high = text.split("[")[1].rstrip("]").split(", ")
    return float(low) / 100, float(high) / 100


def iqm(values: Sequence[float]) -> float:
    cut = len(values) // 4
    return mean(sorted(values)[cut : len(values) - cut])


def test_the_returns_of_the_evaluation_are_those_on_file(folder: Path, page: Page) -> None:
    rows = page.rows("Means over runs")
    assert [row["task"] for row in rows] == [task for task in TASKS for _ in range(2)]
    for row in rows:
        gradient = row["configuration"].removeprefix("gradient=")
        returns = [run_return(run) for run in folder.glob(f"{row['task'][7:12].rstrip('_')}-{gradient}?")]
        assert len(returns) == int(row["runs"]) == 2
        assert row["return"] == f"{mean(returns):.3f} ± {stdev(returns):.3f}"
        normalised = [100 * (value - LOW) / (HIGH - LOW) for value in returns]
        assert row["normalised"] == f"{mean(normalised):,.1f} ± {stdev(normalised):.1f} %"
        assert (row["episodes a run"], row["steps"]) == ("2 x 6", "2k")


def test_every_run_is_told_with_its_checkpoint_and_versions(folder: Path, page: Page) -> None:
    rows = {Path(row["run"]).name: row for row in page.rows("Every run: protocol default")}
    assert set(rows) == {run.name for run in folder.iterdir()}
    for name, row in rows.items():
        result = evaluated(folder / name)
        assert row["checkpoint"] == f"{Path(result['checkpoint']).name} ({result['sha256'][:12]})"
        assert row["versions"] == ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        assert row["mean length"] == f"{mean(episode['length'] for episode in result['episodes']):.3f}"
        assert row["seed"] == name[-1]


def test_statistics_over_tasks_and_their_intervals(folder: Path, page: Page) -> None:
    """Of 2 runs on 2 tasks there are 16 resamples, each drawn with probability 1/16 > 2.5 %: an interval reaches from
    the lowest to the highest of them."""
    statistics: dict[str, Callable[[list[list[float]]], float]] = {
        "Interquartile mean (IQM)": lambda tasks: iqm([score for runs in tasks for score in runs]),
        "Mean": lambda tasks: mean(score for runs in tasks for score in runs),
        "Median": lambda tasks: median(mean(runs) for runs in tasks),
        "Optimality gap": lambda tasks: mean(max(1 - score, 0) for runs in tasks for score in runs),
    }
    rows = page.rows("Normalised scores over tasks")
    assert [row["configuration"] for row in rows] == ["gradient=rtrl", "gradient=tbptt"]
    for row in rows:
        own = list(scores(folder, row["configuration"].removeprefix("gradient=")).values())
        drawn = [list(pair) for pair in product(*(list(product(runs, repeat=2)) for runs in own))]
        assert len(drawn) == 16
        for name, statistic in statistics.items():
            assert number_of(row[name]) == pytest.approx(statistic(own), abs=6e-4)
            every = [statistic([list(runs) for runs in tasks]) for tasks in drawn]
            assert interval_of(row[name]) == pytest.approx((min(every), max(every)), abs=6e-4)
        assert row["runs a task"] == "2"
    assert "With 2 runs of a task intervals are too narrow" in page.text


def test_probability_of_improvement_counts_the_pairs(folder: Path, page: Page) -> None:
    (row,) = page.rows("Probability of improvement")
    ours, theirs = scores(folder, "rtrl"), scores(folder, "tbptt")
    wins = [
        np.sign(a - b) / 2 + 0.5 for task in TASKS for a, b in product(ours[task], theirs[task])
    ]  # as many pairs on each task
    assert (row["X"], row["Y"], row["tasks"]) == ("gradient=rtrl", "gradient=tbptt", "2")
    assert number_of(row["P(X > Y)"]) == pytest.approx(np.mean(wins), abs=6e-4)


def test_the_best_configuration_is_named_at_the_top(folder: Path, page: Page) -> None:
    means = {name: iqm([s for runs in scores(folder, name).values() for s in runs]) for name in ("rtrl", "tbptt")}
    best = max(means, key=lambda name: means[name])
    assert f"Best of 2 configurations by normalised score: gradient={best}, {100 * means[best]:,.1f} %" in page.text
    assert "8 runs of 2 configurations on 2 tasks." in page.text


def test_where_the_learning_curves_end(folder: Path, page: Page) -> None:
    """Lines are 200 steps apart and the window of the trailing mean is 40: nothing is smoothed. Of two runs the
    interval of the mean reaches from one to the other."""
    rows = page.rows("Where the curves end")
    for row in rows:
        pattern = f"{row['task'][7:12].rstrip('_')}-{row['configuration'].removeprefix('gradient=')}?"
        points = [
            [(line["env_steps"], line["episode_return"]) for line in read_metrics(run) if "episode_return" in line]
            for run in folder.glob(pattern)
        ]
        last = min(run[-1][0] for run in points)
        ends = [float(np.interp(last, *zip(*run, strict=True))) for run in points]
        assert row["return"] == f"{mean(ends):.3f}"
        assert row["95 % interval"] == f"{min(ends):.3f} to {max(ends):.3f}"
    assert len(rows) == 4


def test_settings_that_differ_are_told_with_their_tasks(page: Page) -> None:
    rows = {row["setting"]: row for row in page.rows("Settings that differ")}
    assert (rows["agent.gradient"]["gradient=rtrl"], rows["agent.gradient"]["gradient=tbptt"]) == ("rtrl", "tbptt")
    assert "4 (memory/tmaze)" in rows["env.corridor_length"]["gradient=rtrl"].split("\n")
    assert "seed" not in rows
    assert "agent.hidden_size" not in rows


def test_the_page_refers_to_nothing_beside_itself(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                assert value is not None
                assert value.startswith("data:") or value.removeprefix("#") in ids
            elif value and "url(" in value:
                assert value.removeprefix("url(#").removesuffix(")") in ids
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "@import" not in page.source
    assert len(page.source.encode()) < 5_000_000


def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
    names = [tag for tag, _ in page.tags]
    assert names.count("h1") == 1
    assert names.count("h2") == 5
    drawings = [attributes for tag, attributes in page.tags if tag == "svg" and "viewbox" in attributes]
    labels = [a["aria-label"] for a in drawings if a.get("class") == "plot"]
    assert len(labels) == 2 + 3 + 5 + 1 + 3
    assert all(labels)
    assert any("gradient=rtrl ends at" in str(label) for label in labels)
    assert all(a.get("aria-hidden") == "true" for a in drawings if a.get("class") != "plot")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags


def test_a_baseline_is_compared_with_and_not_the_others(folder: Path, tmp_path: Path) -> None:
    runs, baseline = sorted(folder.glob("*-rtrl?")), sorted(folder.glob("*-tbptt?"))
    page = make_page(tmp_path / "page.html", runs, baseline=baseline, title="Mine")
    (row,) = page.rows("Probability of improvement")
    assert (row["X"], row["Y"]) == ("gradient=rtrl", "gradient=tbptt (baseline)")
    assert "Mine" in page.texts
    with pytest.raises(RunError, match="rtrl1 is named both as a run and as the baseline"):
        write_report(runs, tmp_path / "page.html", baseline=[folder])


def test_equal_settings_are_told_apart_from_their_baseline(folder: Path, tmp_path: Path) -> None:
    page = make_page(tmp_path / "page.html", [folder / "tmaze-rtrl1"], baseline=[folder / "tmaze-rtrl2"])
    assert [row["configuration"] for row in page.rows("The configurations")] == ["rtrl", "rtrl (baseline)"]


def test_single_runs_have_no_intervals(folder: Path, tmp_path: Path) -> None:
    page = make_page(tmp_path / "page.html", [folder / "tmaze-rtrl1", folder / "match-rtrl1"])
    (row,) = page.rows("Normalised scores over tasks")
    assert "[" not in row["Mean"]
    assert "a single run on every task: too little data for intervals" in page.text
    assert {row["95 % interval"] for row in page.rows("Where the curves end")} == {"one run"}
    assert "Every configuration has a single run on a task" in page.text


def test_what_is_missing_is_told_and_the_rest_reported(folder: Path, tmp_path: Path) -> None:
    for name in ("bare", "damaged", "empty", "whole"):
        shutil.copytree(folder / "tmaze-rtrl1", tmp_path / name)
    (tmp_path / "bare" / "evaluation.json").unlink()
    (tmp_path / "damaged" / "evaluation.json").write_text("{")
    for file in [*(tmp_path / "empty").glob("events*"), tmp_path / "empty" / "metrics.jsonl"]:
        file.unlink()
    page = make_page(tmp_path / "page.html", [tmp_path])
    assert f"Not evaluated: {tmp_path / 'bare'}. r2ac evaluate RUN" in page.text
    assert (
        f"No evaluation of {tmp_path / 'damaged'}: {tmp_path / 'damaged' / 'evaluation.json'} is damaged" in page.text
    )
    assert f"No learning curve: {tmp_path / 'empty'} holds no metrics.jsonl" in page.text
    assert len(page.rows("Every run: protocol")) == 2
    assert len(page.rows("Steps and time")) == 3
    assert "More than one run of rtrl on memory/tmaze has the seed 1" in page.text


def test_nothing_evaluated_is_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tmaze-rtrl1", tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    page = make_page(tmp_path / "page.html", [tmp_path / "run"])
    assert "There are no statistics over tasks: no run has been evaluated (r2ac evaluate RUN" in page.text
    assert "No run has been evaluated. Result by its learning curve: rtrl" in page.text
    short = shutil.copytree(folder / "tmaze-tbptt1", tmp_path / "short")
    (short / "evaluation.json").unlink()
    lines = (short / "metrics.jsonl").read_text().splitlines(keepends=True)[:-3]
    (short / "metrics.jsonl").write_text("".join(lines))
    page = make_page(tmp_path / "page.html", [tmp_path / "run", short])
    assert f"at step {json.loads(lines[-1])['env_steps']:,}, where the first of the curves ends" in page.text


def test_markup_in_the_names_and_files_of_a_run_is_text(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(HOSTILE.replace("/", "|").encode() + b"\xff")
    shutil.copytree(folder / "tmaze-rtrl1", run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "learner": {"note": HOSTILE}, "seed": HOSTILE}))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["results"][0] |= {"versions": {HOSTILE: HOSTILE}, "sha256": HOSTILE, "protocol": HOSTILE}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    runs = [run, folder / "tmaze-rtrl2"]
    page = make_page(tmp_path / "page.html", runs, title=HOSTILE, episodes=True)
    test_the_page_refers_to_nothing_beside_itself(page)
    # Nothing but what the page itself is made of.
    assert all(str(a.get("src")).startswith("data:image/png;base64,") for tag, a in page.tags if tag == "img")
    shown = HOSTILE.replace("\x1b", "\ufffd")
    assert page.rows("The configurations")[0]["configuration"].startswith(f"note={shown}")
    for caption in (f"Every run: protocol {shown}", "Settings that differ"):
        assert any(shown in field for row in page.rows(caption) for field in row.values())
    assert f"protocol {shown}" in page.text


def test_episodes_are_shown_with_what_is_remembered(folder: Path, tmp_path: Path) -> None:
    page = make_page(tmp_path / "page.html", [folder / "tmaze-rtrl1"], episodes=True)
    (picture,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert "At the last step the cell state names the cue" in str(picture["alt"])
    assert "after 2k steps of training: return" in page.text
    labels = [a.get("aria-label") or "" for tag, a in page.tags if tag == "svg"]
    assert any(label.startswith("Observations, actions and value estimates") for label in labels)
    assert {"up", "down"} <= set(page.texts)


def test_an_agent_that_cannot_play_is_told(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "tmaze-rtrl1", run)
    file = find_checkpoint(run)
    checkpoint = load_checkpoint(file)
    # A task of an engine that is not there, or that shows what this agent cannot see.
    checkpoint.config.clear()
    checkpoint.config.update(preset("dmlab/rooms_watermaze").to_json())
    save_checkpoint(file, checkpoint)
    page = make_page(tmp_path / "page.html", [run], episodes=True)
    assert "No episode: " in page.text
    file.write_bytes(b"no checkpoint")
    assert f"No episode: {file}" in make_page(tmp_path / "page.html", [run], episodes=True).text


def test_what_went_wrong_in_a_run_stands_out(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "tmaze-rtrl1", run)
    rows = [{**row, "learner/stream_resets": 2, "throughput/actor_restarts": i == 5} for i, row in
            enumerate(read_metrics(run))]  # fmt: skip
    rows = [{**row, "throughput/actor_restarts": int(row["throughput/actor_restarts"])} for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = make_page(tmp_path / "page.html", [run])
    assert f"{run}: 2 stream resets, 1 actor restart." in page.text
    (row,) = page.rows("Steps and time")
    assert (row["stream resets"], row["actor restarts"], row["skipped updates"]) == ("2", "1", "0")
    assert ("strong", {"class": "alert"}) in page.tags


def test_an_old_evaluation_is_pointed_out(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "tmaze-rtrl1", run)
    file = find_checkpoint(run)
    shutil.copy(file, file.with_name("step_000000009000.safetensors"))
    page = make_page(tmp_path / "page.html", [run])
    assert f"{run} was evaluated on memory/tmaze after 2k steps and has come to 9k." in page.text
