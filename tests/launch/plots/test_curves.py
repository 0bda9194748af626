"""Points of runs, their smoothing and mean, and what stands in which panel."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter

from r2ac.launch.plots.curves import Axis, Panel, make_panels, mean_curve, read_curves, shared_grid, smooth
from r2ac.launch.runs.metrics import MetricsWriter
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.runs.run_groups import group_runs
from r2ac.launch.runtime.errors import RunDirectoryError


def make_run(path: Path, task: str, rows: Sequence[dict[str, Any]], seed: int = 1, **more: Any) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"task": task, "seed": seed, **more}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_rows(values: Sequence[float | None], key: str = "episode_return") -> list[dict[str, Any]]:
    """Value i after 100 (i + 1) steps, 400 (i + 1) frames and half an hour each."""
    return [
        {"env_steps": 100 * i, "env_frames": 400 * i, "wall_time": 1800.0 * i, key: value}
        for i, value in enumerate(values, start=1)
    ]


def panels_of(runs: Sequence[Path], metric: str = "episode_return", **more: Any) -> list[Panel]:
    return make_panels(group_runs(runs), "steps", metric, smoothing=0, **more)


def test_the_mean_curve_and_its_bands_by_hand() -> None:
    grid = np.array([10.0, 15.0, 20.0])
    rising = (np.array([0.0, 20.0]), np.array([0.0, 2.0]))
    flat = (np.array([10.0, 30.0]), np.array([3.0, 3.0]))
    deviation = np.array([2.0, 1.5, 1.0]) / np.sqrt(2)
    # Of two runs, the interval of the mean is from one to the other.
    for band, below in (("std", deviation), ("stderr", deviation / np.sqrt(2)), ("bootstrap", [1.0, 0.75, 0.5])):
        mean, edges = mean_curve([rising, flat], grid, band)  # type: ignore[arg-type]
        np.testing.assert_allclose(mean, [2.0, 2.25, 2.5])
        assert edges is not None
        np.testing.assert_allclose(edges, [mean - below, mean + below])
        alone, none = mean_curve([rising], grid, band)  # type: ignore[arg-type]
        np.testing.assert_allclose(alone, [1.0, 1.5, 2.0])
        assert none is None


def test_the_grid_is_what_all_curves_share() -> None:
    def curve(start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([start, stop]), np.zeros(2)

    np.testing.assert_allclose(shared_grid([curve(0, 30), curve(10, 50)], points=3), [10, 20, 30])
    assert shared_grid([curve(0, 10), curve(20, 30)]).size == 0
    assert shared_grid([curve(0, 10), curve(10, 30)]).tolist() == [10.0]


@given(
    points=st.lists(st.tuples(st.integers(0, 50), st.floats(-100, 100)), min_size=1, max_size=30),
    window=st.integers(0, 60),
)
def test_smoothing_is_the_mean_over_the_window(points: list[tuple[int, float]], window: int) -> None:
    x, y = np.array(sorted(points, key=lambda point: point[0]), dtype=np.float64).T
    got_x, got_y = smooth((x, y), window)
    np.testing.assert_array_equal(got_x, x if window else np.unique(x))
    expected = [y[(x > at - window) & (x <= at) | (x == at)].mean() for at in got_x]
    np.testing.assert_allclose(got_y, expected, atol=1e-9)


def test_a_huge_value_is_in_its_windows_alone() -> None:
    x, y = np.arange(6.0), np.array([1.0, 1e20, 1.0, 2.0, 3.0, 4.0])
    assert smooth((x, y), 2)[1].tolist()[3:] == [1.5, 2.5, 3.5]


def test_without_smoothing_a_curve_is_as_measured_and_the_mean_where_several_were_at_once() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 2.0, 3.0]), np.array([0.1, 1.0, 2.0, 6.0, 1e-17])
    got_x, got_y = smooth((x, y), 0)
    assert (got_x.tolist(), got_y.tolist()) == ([1.0, 2.0, 3.0], [0.1, 3.0, 1e-17])
    assert smooth((x, y), 1e-30)[1].tolist()[1:4] == [3.0] * 3, "a window that vanishes beside x"


@pytest.mark.parametrize(("x", "at"), [("steps", [100, 300]), ("frames", [400, 1200]), ("hours", [0.5, 1.5])])
def test_points_are_where_the_metric_is_a_number(tmp_path: Path, x: Axis, at: list[float]) -> None:
    run = make_run(tmp_path / "run", "memory/tmaze", [*make_rows([5.0, None, 7.0]), {"env_steps": 400}])
    ((task, (got_x, got_y)),) = read_curves(run, "memory/tmaze", x, "episode_return").items()
    assert task == "memory/tmaze"
    assert (got_x.tolist(), got_y.tolist()) == (at, [5.0, 7.0])


def test_event_files_say_what_metrics_jsonl_said(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"task": "memory/tmaze"})
    with MetricsWriter(run, None) as writer:
        for step in (10, 20, 30):
            writer.write(step, 4 * step, step / 10, {"episode_return": step / 4, "loss": float("nan")})
    run.close()
    before = read_curves(run.path, "memory/tmaze", "steps", "episode_return")
    run.metrics_path.unlink()
    after = read_curves(run.path, "memory/tmaze", "steps", "episode_return")
    np.testing.assert_array_equal(before["memory/tmaze"], after["memory/tmaze"])
    with pytest.raises(RunDirectoryError, match="which count no frames: choose --x steps or hours"):
        read_curves(run.path, "memory/tmaze", "frames", "episode_return")
    with pytest.raises(RunDirectoryError, match="has measured no finite value of loss"):
        read_curves(run.path, "memory/tmaze", "steps", "loss")


def test_event_files_of_another_program(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "PPO_1")) as writer:
        began = 2_000_000_000.0
        for i in range(5):
            writer.add_scalar("rollout/ep_rew_mean", 10 * i, 2048 * i, walltime=began + 3600 * i)
            writer.add_scalar("train/loss", 1.0, 2048 * i, walltime=began + 3600 * i)
    ((x, y),) = read_curves(tmp_path / "PPO_1", "", "steps", "episode_return").values()
    assert (x.tolist(), y.tolist()) == ([0, 2048, 4096, 6144, 8192], [0, 10, 20, 30, 40])
    ((hours, _),) = read_curves(tmp_path / "PPO_1", "", "hours", "train/loss").values()
    np.testing.assert_allclose(np.diff(hours), 1.0)
    sentence = r"has not measured loss \(it has measured rollout/ep_rew_mean, train/loss\)"
    with pytest.raises(RunDirectoryError, match=sentence):
        read_curves(tmp_path / "PPO_1", "", "steps", "loss")


def test_a_run_on_several_tasks_has_a_panel_for_each(tmp_path: Path) -> None:
    tasks = "procgen/chaser,procgen/maze,procgen/heist"
    rows = [
        {"env_steps": step, "episode_return": 9.0, "returns/chaser": step / 10, "returns/maze": 1.0}
        for step in (10, 20, 30)
    ]
    several = make_run(tmp_path / "several", tasks, rows)
    chaser, maze = panels_of([several])
    assert (chaser.task, maze.task) == ("procgen/chaser", "procgen/maze")
    assert chaser.curves[0].mean[-1] == 3.0
    assert chaser.curves[0].label == ""
    (other,) = panels_of([several], "env_steps")
    assert other.task == tasks


def test_a_run_on_a_list_stands_beside_a_run_on_one_of_its_tasks(tmp_path: Path) -> None:
    rows = [{"env_steps": 10, "returns/rooms_watermaze": 1.0, "returns/natlab_fixed_large_map": 2.0}]
    everything = make_run(tmp_path / "all", "dmlab-30", rows)
    alone = make_run(tmp_path / "alone", "dmlab/rooms_watermaze", make_rows([5.0]))
    watermaze, natlab = panels_of([everything, alone])
    assert (watermaze.task, natlab.task) == ("dmlab/rooms_watermaze", "dmlab/natlab_fixed_large_map")
    assert [curve.label for curve in watermaze.curves] == ["trained on dmlab-30", ""]
    assert [curve.label for curve in natlab.curves] == ["trained on dmlab-30"]


def test_a_seed_that_has_not_measured_a_task_is_left_out_there(tmp_path: Path) -> None:
    both = {"env_steps": 10, "returns/chaser": 1.0, "returns/maze": 2.0}
    one = {"env_steps": 10, "returns/chaser": 3.0}
    runs = [
        make_run(tmp_path / f"{seed}", "procgen/chaser,procgen/maze", [row], seed=seed)
        for seed, row in enumerate([both, one])
    ]
    chaser, maze = panels_of(runs)
    assert (chaser.curves[0].seeds, maze.curves[0].seeds) == ((0, 1), (0,))
    assert (chaser.curves[0].mean.tolist(), maze.curves[0].mean.tolist()) == ([2.0], [2.0])


def test_runs_of_another_program_share_the_panel_of_the_task(tmp_path: Path) -> None:
    foreign = tmp_path / "QbertNoFrameskip-v4__ppo_atari__3__1700000000"
    with SummaryWriter(str(foreign)) as writer:
        writer.add_scalar("charts/episodic_return", 4.0, 100)
    runs = [make_run(tmp_path / "run", "atari/Qbert", make_rows([5.0])), foreign]
    (panel,) = panels_of(runs)
    assert [curve.label for curve in panel.curves] == ["r2ac", "ppo_atari"]
    assert [curve.seeds for curve in panel.curves] == [(1,), (3,)]


def test_the_window_is_a_fiftieth_of_the_longest_run(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{n}", "memory/tmaze", make_rows([1.0] * n), seed=n) for n in (10, 37)]
    (panel,) = make_panels(group_runs(runs), "steps", "episode_return")
    assert panel.window == 70
    (panel,) = make_panels(group_runs(runs), "hours", "episode_return", smoothing=2.5)
    assert panel.window == 2.5


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "is empty: the run has measured nothing yet"),
        ([{"env_steps": 1, "loss/total": 2.0}], "has not measured episode_return: no episode has ended in it yet"),
        (
            [{"env_steps": 1, "episode_return": None}],
            "has measured no finite value of episode_return together with env_steps",
        ),
    ],
)
def test_a_run_with_nothing_to_plot_is_one_sentence(tmp_path: Path, rows: list[Any], sentence: str) -> None:
    with pytest.raises(RunDirectoryError, match=sentence):
        panels_of([make_run(tmp_path / "run", "memory/tmaze", rows)])


def test_runs_that_cannot_be_read_or_averaged_are_one_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "memory/tmaze", make_rows([1.0, 2.0]))
    late = make_run(tmp_path / "late", "memory/tmaze", [{"env_steps": 9000, "episode_return": 1.0}], seed=5)
    with pytest.raises(RunDirectoryError, match="share no range of steps and cannot be averaged"):
        panels_of([run, late])
    (run / "metrics.jsonl").write_text('{"env_steps": 1}\n{"env_st\n{"env_steps": 3}\n')
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl is damaged: line 2"):
        panels_of([run])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match=r"run holds no metrics\.jsonl: nothing was measured there"):
        panels_of([run])
