"""What the files of experiments/ say."""

import tomllib
from pathlib import Path

import pytest

from r2ac.launch.experiments import experiment as module
from r2ac.launch.experiments.experiment import Experiment, estimated_hours, find_experiment, read_experiments
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import training_config

FILES = sorted(module.FOLDER.glob("*.toml"))
GRID = """
title = "Grid"
shows = "Nothing."
figure = "L"
speed = 1000.0

[[small]]
seeds = 2
values.L = [4, 8]
values.T = [1, 2]
tasks."maze, L = {L}" = "memory/tmaze --corridor-length {L} --total-steps 6k"
agents."RTRL, T = {T}" = "--rollout-length {T}"
agents."whole episodes" = "--gradient tbptt --rollout-length {L}"

[[paper]]
seeds = 3
tasks.nothing = "memory/nothing"
agents.RTRL = ""
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    (tmp_path / "grid.toml").write_text(GRID)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return find_experiment("grid", "small")


def test_a_block_is_spelt_out(grid: Experiment) -> None:
    assert grid.tasks == ["maze, L = 4", "maze, L = 8"]
    assert grid.agents == ["RTRL, T = 1", "RTRL, T = 2", "whole episodes"]
    words = {(one.task, one.agent, one.seed): " ".join(one.words) for one in grid.trainings}
    assert len(words) == len(grid.trainings) == 2 * 3 * 2
    maze = "memory/tmaze --corridor-length 8 --total-steps 6k"
    assert words["maze, L = 8", "RTRL, T = 2", 1] == f"{maze} --rollout-length 2"
    assert words["maze, L = 8", "whole episodes", 2] == f"{maze} --gradient tbptt --rollout-length 8"


def test_other_numbers_of_seeds(grid: Experiment) -> None:
    assert [one.seed for one in grid.with_seeds(1).trainings] == [1] * 6
    assert sorted({one.seed for one in grid.with_seeds(5).trainings}) == [1, 2, 3, 4, 5]
    assert grid.with_seeds(None) is grid


def test_hours_are_those_of_the_budgets_until_something_was_measured(grid: Experiment) -> None:
    assert estimated_hours(grid, grid.trainings, {}) == pytest.approx(12 * 6 / 3600)

    class Measured:
        cpu_seconds = 36.0

    known = {("maze, L = 4", "RTRL, T = 1", 1): Measured()}
    assert estimated_hours(grid, grid.trainings, known) == pytest.approx((10 * 6 + 2 * 36) / 3600)


def test_what_cannot_run_says_why(grid: Experiment) -> None:
    assert grid.problems() == {}
    paper = find_experiment("grid", "paper")
    assert "there is no task 'memory/nothing'" in paper.problems()["nothing"]
    assert estimated_hours(paper, paper.trainings, {}) == 0


def test_what_there_is_not_is_refused(grid: Experiment) -> None:
    with pytest.raises(ConfigError, match="there is no experiment 'gird'; the experiments are grid"):
        find_experiment("gird", "small")
    with pytest.raises(ConfigError, match="--scale is gpu, but grid has small and paper"):
        find_experiment("grid", "gpu")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_in_order(path: Path) -> None:
    """Labels of claims and of published numbers are rows and columns; the first and the last cell can be trained."""
    scales = {each.scale: each for each in read_experiments() if each.name == path.stem}
    assert scales.keys() == tomllib.loads(path.read_text()).keys() & {"small", "gpu", "paper"}
    for experiment in scales.values():
        assert len({one.key for one in experiment.trainings}) == len(experiment.trainings)
    small = scales["small"]
    for claim in small.claims:
        assert claim.agent in small.agents
        assert set(claim.tasks) <= set(small.tasks)
    assert all(column.keys() <= set(small.tasks) for column in small.published.values())
    able = [one for one in small.trainings if one.task not in small.problems()]
    for training in (able[0], able[-1]):
        training_config(training.words[0], training.words[1:]).check()
