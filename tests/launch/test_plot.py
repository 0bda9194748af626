"""Learning curves: which runs belong together, what their mean is, and that a picture comes out."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ac.launch.errors import RunDirectoryError, RunError
from r2ac.launch.plot import differing_fields, group_label, group_runs, mean_curve, plot_runs, shared_grid, smooth


def make_run(
    path: Path, *, task: str = "memory/tmaze", seed: int = 1, gradient: str = "rtrl", rows: Any = None, **more: Any
) -> Path:
    path.mkdir(parents=True)
    config = {"task": task, "seed": seed, "run_dir": str(path), "agent": {"gradient": gradient}}
    (path / "config.json").write_text(json.dumps({**config, **more}))
    if rows is None:
        best = {"rtrl": 10, "tbptt": 2}[gradient]
        rows = [
            {"env_steps": 100 * i, "env_frames": 400 * i, "episode_return": best * i / 20 + seed} for i in range(20)
        ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_two_groups(folder: Path, task: str = "memory/tmaze") -> list[Path]:
    return [
        make_run(folder / f"{gradient}{seed}", task=task, seed=seed, gradient=gradient)
        for seed in (1, 2, 3)
        for gradient in ("rtrl", "tbptt")
    ]


def test_seeds_of_one_setting_are_one_group(tmp_path: Path) -> None:
    runs = make_two_groups(tmp_path)
    rtrl, tbptt = group_runs(runs)
    assert rtrl.runs == tuple(runs[0::2])
    assert tbptt.runs == tuple(runs[1::2])
    assert rtrl.seeds == (1, 2, 3)
    assert differing_fields([rtrl, tbptt]) == ["agent.gradient"]
    assert group_label(rtrl, ["agent.gradient"]) == "gradient=rtrl"


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (group,) = group_runs([run, tmp_path / "." / "run" / ".." / "run", str(run)])
    assert group.runs == (run,)


def test_the_number_of_actors_is_a_difference(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(n), num_actors=n) for n in (1, 2)]
    assert differing_fields(group_runs(runs)) == ["num_actors"]


def test_labels_name_only_what_differs_within_a_task(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"learner": {"rate": 1, "rollout_length": 10}, "env": {"rate": 5}},
        {"learner": {"rate": 2, "rollout_length": 10}, "env": {"rate": 6}},
        {"learner": {"rate": 2, "rollout_length": 10}, "env": {"rate": 6}, "agent": {"gradient": "rtrl", "size": 3}},
    ]
    runs = [make_run(tmp_path / str(i), **more) for i, more in enumerate(settings)]
    # Another task always has other settings; alone in its panel, it needs no label for them.
    runs.append(make_run(tmp_path / "other", task="atari/Breakout", learner={"rollout_length": 50}))
    groups = group_runs(runs)
    names = differing_fields(groups)
    assert sorted(names) == ["agent.size", "env.rate", "learner.rate"]
    assert group_label(groups[2], ["learner.rate", "env.rate", "agent.size"]) == "learner.rate=2, env.rate=6, size=3"
    assert group_label(groups[0], ["agent.size"]) == "size=unset"


def test_the_mean_curve_by_hand() -> None:
    grid = np.array([10.0, 15.0, 20.0])
    rising = (np.array([0.0, 20.0]), np.array([0.0, 2.0]))
    flat = (np.array([10.0, 30.0]), np.array([3.0, 3.0]))
    mean, deviation = mean_curve([rising, flat], grid)
    np.testing.assert_allclose(mean, [2.0, 2.25, 2.5])
    np.testing.assert_allclose(deviation, np.array([2.0, 1.5, 1.0]) / np.sqrt(2))
    alone, none = mean_curve([rising], grid)
    np.testing.assert_allclose(alone, [1.0, 1.5, 2.0])
    np.testing.assert_array_equal(none, [0.0, 0.0, 0.0])


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
    np.testing.assert_array_equal(got_x, x)
    if window == 0:
        np.testing.assert_array_equal(got_y, y)
        return
    expected = [y[(x > at - window) & (x <= at)].mean() for at in x]
    np.testing.assert_allclose(got_y, expected, atol=1e-9)


@pytest.mark.parametrize("x", ["steps", "frames"])
def test_a_picture_comes_out(tmp_path: Path, x: Any) -> None:
    output = tmp_path / "figures" / "curves.png"
    lines = {"memory/tmaze": {"chance": 0.5}}
    assert plot_runs(make_two_groups(tmp_path), output, x=x, reference_lines=lines) == output
    pixels = matplotlib.image.imread(output)[..., :3]
    assert pixels.shape == (960, 1440, 3)
    # Both groups have their lines; the legend alone has 290 pixels of a colour.
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(pixels - np.array(colour) / 255).max(axis=-1) < 0.02).sum() > 500


def svg_text(path: Path) -> str:
    """The text of a picture: matplotlib writes every piece as a comment beside its shapes."""
    return path.read_text()


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    runs = make_two_groups(tmp_path)
    runs.append(make_run(tmp_path / "other", task="procgen/chaser"))
    text = svg_text(
        plot_runs(runs, tmp_path / "curves.svg", smoothing=300, reference_lines={"procgen/chaser": {"best": 13.0}})
    )
    for words in (
        "memory/tmaze",
        "procgen/chaser",
        "environment steps",
        "episode return",
        "gradient=rtrl (mean ± std of 3 seeds)",
        "gradient=tbptt (mean ± std of 3 seeds)",
        "gradient=rtrl (1 seed)",
        "trailing mean of 300 steps",
        "1.6k",
        "best",
    ):
        assert f"<!-- {words} -->" in text, words


def test_the_same_seed_twice_is_no_second_seed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, seed=1) for name in "ab"]
    text = svg_text(plot_runs(runs, tmp_path / "curves.svg", smoothing=0))
    assert "<!-- mean ± std of 2 runs -->" in text
    assert "<!-- not smoothed -->" in text


def test_a_pdf_can_be_written(tmp_path: Path) -> None:
    assert plot_runs([make_run(tmp_path / "run")], tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_values_that_are_absent_or_null_are_no_points(tmp_path: Path) -> None:
    rows = [{"env_steps": 0}, {"env_steps": 10, "episode_return": None}, {"env_steps": 20, "episode_return": 1.0}]
    run = make_run(tmp_path / "run", rows=rows)
    text = svg_text(plot_runs([run], tmp_path / "curves.svg", smoothing=0))
    assert "<!-- 1 seed -->" in text


@pytest.mark.parametrize("name", ["curves.jpeg", "curves", "curves.png.txt"])
def test_another_extension_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match=rf"{name}: its name must end in \.png, \.svg, \.pdf$"):
        plot_runs([make_run(tmp_path / "run")], tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "is empty: the run has measured nothing yet"),
        ([{"env_steps": 1, "loss/total": 2.0}], r"has not measured episode_return \(it has measured env_steps, loss"),
    ],
)
def test_a_run_with_nothing_to_plot_is_one_sentence(tmp_path: Path, rows: list[Any], sentence: str) -> None:
    with pytest.raises(RunDirectoryError, match=sentence):
        plot_runs([make_run(tmp_path / "run", rows=rows)], tmp_path / "curves.png")


def test_what_cannot_be_plotted_is_one_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    output = tmp_path / "curves.png"
    with pytest.raises(RunDirectoryError, match="missing does not exist"):
        plot_runs([run, tmp_path / "missing"], output)
    with pytest.raises(RunError, match="name at least one run directory"):
        plot_runs([], output)
    with pytest.raises(RunError, match="the x axis cannot be 'hours': choose steps or frames"):
        plot_runs([run], output, x="hours")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="the smoothing window cannot be -1"):
        plot_runs([run], output, smoothing=-1)
    with pytest.raises(RunError, match="cannot be written: a file stands where a folder should be"):
        plot_runs([run], run / "config.json" / "curves.png")
    late = make_run(tmp_path / "late", seed=5, rows=[{"env_steps": 9000, "episode_return": 1.0}])
    with pytest.raises(RunDirectoryError, match="share no range of steps"):
        plot_runs([run, late], output)
    (run / "config.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="names no task"):
        plot_runs([run], output)
    assert not output.exists()
