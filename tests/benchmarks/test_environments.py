"""The benchmark of the environments: every suite that runs here is measured, and its methods play the same task."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from r2ac.envs import find_task, make_vector
from r2ac.envs.procgen_engine import ENVPOOL, PACKAGE

Modules = Callable[[str], ModuleType]
TASKS = {
    "memory/tmaze": {"vector", "singles"},
    "memory/copy": {"vector"},
    "gym/CartPole-v1": {"vector", "singles", "engine"},
    "popgym/RepeatPreviousEasy": {"vector", "singles", "engine"},
    "procgen/chaser": {"vector", "singles", "engine"},
}


def runs_here(task: str) -> bool:
    is_envpool = task.startswith("procgen") and PACKAGE is ENVPOOL
    return find_task(task).suite.missing() is None and not is_envpool


@pytest.mark.slow
def test_a_small_run_measures_every_task(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    arguments = ["--streams", "2", "3", "--steps", "3", "--rounds", "2", "--tasks", *TASKS, "dmlab/rooms_watermaze"]
    printed = run_benchmark("environments", *arguments)
    (path,) = tmp_path.glob("environments-*-quick.json")
    assert path.with_suffix(".png").stat().st_size > 0
    figures = json.loads(path.read_text())
    rows = {(row["task"], row["streams"]): row for row in figures["environments"]}
    assert rows.keys() >= {(task, streams) for task in TASKS if runs_here(task) for streams in (2, 3)}
    for (task, _), row in rows.items():
        speeds = row["steps_per_second"]
        measured = {name for name, speed in speeds.items() if speed is not None}
        assert measured - {"envpool"} == TASKS.get(task, {"vector"})
        assert all(len(each) == 2 and min(each) > 0 for each in row["steps_per_second_of_rounds"].values())
        assert (row["over singles"] is None) == (speeds["singles"] is None)
        assert (row["of the engine"] is None) == (speeds["engine"] is None)
    if not runs_here("dmlab/rooms_watermaze"):
        assert "dmlab/rooms_watermaze is left out: " in printed
    if runs_here("procgen/chaser"):
        assert [goal["bound"] for goal in figures["goals"]] == 2 * [">= 3.0", ">= 0.8"]


@pytest.mark.parametrize("task", ["atari/Breakout", "procgen/chaser", "memory/tmaze", "gym/CartPole-v1"])
def test_a_single_environment_shows_and_takes_the_same(module: Modules, task: str) -> None:
    if not runs_here(task):
        pytest.skip("the engine is not installed")
    if task.startswith("atari"):
        pytest.importorskip("cv2")
    vector = make_vector(task, 1, 0)
    vector.reset()
    single = module("environments").make_single(task, 0)
    seen, _ = single.reset(seed=0)
    shape = vector.single_observation_space.shape
    assert shape is not None
    assert sorted(np.shape(seen)) == sorted(shape)
    assert single.observation_space.dtype == vector.single_observation_space.dtype
    assert single.action_space == vector.single_action_space
    vector.close()


@pytest.mark.parametrize("task", ["atari/Breakout", "procgen/chaser"])
def test_the_engine_is_the_one_below_the_vector_environment(module: Modules, task: str) -> None:
    """Its step gives images of the same size."""
    if not runs_here(task):
        pytest.skip("the engine is not installed")
    methods, num_actions = module("environments").make_methods(task, 2, 1)
    assert num_actions == (18 if task.startswith("atari") else 15)
    seen = methods["vector"](np.zeros(2, dtype=np.int64))[0]
    shown = methods["engine"](np.zeros(2, dtype=np.int64))
    if shown is not None:
        assert shown[0].shape == seen.shape
