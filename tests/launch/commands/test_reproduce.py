"""`r2ac reproduce`."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from r2ac.launch.cli import main
from r2ac.launch.experiments import experiment as module
from r2ac.launch.runs.metrics import MetricsWriter, read_metrics

Capture = pytest.CaptureFixture[str]
TINY = """
title = "Tiny"
shows = "Nothing."
episodes = 4

[[small]]
seeds = 1
[small.tasks]
maze = \"\"\"memory/tmaze --corridor-length 4 --streams-per-actor 8 --hidden-size 8 --rollout-length 5
    --log-steps 200 --total-steps 2000\"\"\"
missing = "memory/nothing"
[small.agents]
RTRL = ""
TBPTT = "--gradient tbptt"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reproduce(*arguments: str) -> int:
    return main(["reproduce", *arguments])


def trainings(place: Path) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = json.loads((place / "results" / "tiny-small.json").read_text())["trainings"]
    return values


def test_the_list_says_where_it_looked_for_results(place: Path, capsys: Capture) -> None:
    assert reproduce() == 0
    assert f"in {place / 'results'}, which does not exist (--results-dir)" in capsys.readouterr().out
    assert reproduce("--results-dir", str(place)) == 0
    listed = capsys.readouterr().out
    assert f"in {place} (--results-dir)" in listed
    assert "CPU hours for all" in listed


@pytest.mark.slow
def test_what_is_missing_is_made_once(place: Path, capsys: Capture) -> None:
    assert reproduce() == 0
    listed = capsys.readouterr().out
    assert "tiny        small     0   4" in listed
    assert "tiny (small) cannot be whole here: there is no task 'memory/nothing'" in listed

    assert reproduce("tiny", "--tasks", "maze", "--jobs", "0") == 1
    printed = capsys.readouterr()
    assert "2 trainings, 2 to make" in printed.out
    assert "r2ac: there is no task 'memory/nothing'" in printed.err
    first = trainings(place)
    assert [(one["task"], one["agent"], one["seed"]) for one in first] == [("maze", "RTRL", 1), ("maze", "TBPTT", 1)]
    for one in first:
        assert one["steps"] == 2000
        assert len(one["curve"]) == 40
        assert one["cpu_seconds"] > 0
        assert one["reference"] == [0.5, 1]
    page = (place / "docs" / "study.md").read_text()
    assert "2 of 4 trainings" in page
    assert (place / "docs" / "study" / "tiny-small.svg").is_file()

    # On file: nothing is made. Without the file the runs are there: nothing is trained, and the numbers are the same.
    runs = {path: path.read_bytes() for path in place.glob("runs/**/metrics.jsonl")}
    assert len(runs) == 2
    reproduce("tiny", "--jobs", "0")
    assert "2 trainings, all made" in capsys.readouterr().out
    (place / "results" / "tiny-small.json").unlink()
    reproduce("tiny", "--jobs", "0")
    assert {path: path.read_bytes() for path in place.glob("runs/**/metrics.jsonl")} == runs
    volatile = ("cpu_seconds", "peak_mb", "date")
    assert [{**one, **dict.fromkeys(volatile)} for one in trainings(place)] == [
        {**one, **dict.fromkeys(volatile)} for one in first
    ]

    # Other settings are another training.
    text = TINY.replace("--gradient tbptt", "--gradient tbptt --hidden-size 4")
    (place / "experiments" / "tiny.toml").write_text(text)
    reproduce("tiny", "--jobs", "0")
    assert "1 to make in about 1 CPU minutes; 1 of them had other settings" in capsys.readouterr().out
    assert "--hidden-size 4" in trainings(place)[1]["command"]

    # A preset that has changed shows in the digest alone.
    results, page = place / "results" / "tiny-small.json", place / "docs" / "study.md"
    assert "2 of 4 trainings, " in page.read_text()
    results.write_text(results.read_text().replace(trainings(place)[1]["digest"], "0"))
    reproduce("tiny", "--no-train")
    assert "1 of 4 trainings, " in page.read_text()
    assert len(trainings(place)) == 2


@pytest.mark.slow
def test_an_interrupted_training_goes_on(place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    write, lines = MetricsWriter.write, list[int]()

    def interrupted(self: MetricsWriter, *arguments: Any) -> None:
        write(self, *arguments)
        lines.append(1)
        if len(lines) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(MetricsWriter, "write", interrupted)
    assert reproduce("tiny", "--jobs", "0") == 128 + signal.SIGTERM
    assert "the same command goes on" in capsys.readouterr().out
    assert trainings(place) == []
    (run,) = place.glob("runs/study/*/memory-tmaze")
    begun = read_metrics(run)
    assert begun[-1]["env_steps"] < 2000
    reproduce("tiny", "--jobs", "0")
    assert "2 of 2  maze, TBPTT, seed 1: " in capsys.readouterr().out
    rows = read_metrics(run)
    assert rows[: len(begun)] == begun
    assert rows[-1]["env_steps"] == 2000
    assert len(trainings(place)) == 2


@pytest.mark.slow
def test_side_by_side(place: Path, capsys: Capture) -> None:
    """In processes of their own; one that fails says why and does not keep the others."""
    (place / "experiments" / "tiny.toml").write_text(TINY.replace("missing =", "gone =").replace("/nothing", "/tmaze"))
    (place / "experiments" / "tiny.toml").write_text(TINY.replace('missing = "memory/nothing"', ""))
    reproduce("tiny", "--jobs", "0", "--no-train")
    assert not (place / "results").exists()
    assert reproduce("tiny", "--jobs", "2") == 0
    assert [one["steps"] for one in trainings(place)] == [2000, 2000]
    assert all(100 < one["peak_mb"] < 4000 and one["cpu_seconds"] > 0.5 for one in trainings(place))
    # A run that is damaged.
    (place / "results" / "tiny-small.json").unlink()
    run = next(place.glob("runs/study/*/memory-tmaze"))
    (run / "config.json").write_text("{")
    capsys.readouterr()
    assert reproduce("tiny", "--jobs", "2") == 1
    assert "failed" in capsys.readouterr().err
    assert len(trainings(place)) == 1
    shutil.rmtree(run.parent)


@pytest.mark.parametrize("flags", [["--results-dir", "/proc/mine"], ["--page", "/proc/mine/page.md"]])
def test_what_cannot_be_written_is_told_before_anything_is_trained(
    place: Path, capsys: Capture, flags: list[str]
) -> None:
    assert reproduce("tiny", "--jobs", "0", *flags) == 2
    assert f"r2ac: {flags[1]}" in capsys.readouterr().err
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tny"], "there is no experiment 'tny'; the experiments are tiny"),
        (["tiny", "--scale", "paper"], "--scale is paper, but tiny has small"),
        (["tiny", "--seeds", "0"], "--seeds is 0, but it must be at least 1"),
        (["tiny", "--jobs", "-1"], "--jobs is -1, but it must be at least 0"),
        (["tiny", "--tasks", "mazes"], "--tasks is mazes, but it must be among 'maze', 'missing'"),
        (["tiny", "--tasks", "missing"], "nothing of tiny can run here: there is no task 'memory/nothing'"),
    ],
)
def test_what_cannot_be_is_refused(place: Path, capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert reproduce(*arguments) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert [path.name for path in place.iterdir()] == ["experiments"]
