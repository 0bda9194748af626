"""Pictures of learning curves: what is drawn, and that a picture comes out."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from r2ac.launch.cli import main
from r2ac.launch.plots.curves import make_panels
from r2ac.launch.plots.plot import draw, plot_runs, spaced
from r2ac.launch.plots.reference_lines import Line
from r2ac.launch.runs.run_groups import group_runs
from r2ac.launch.runtime.errors import RunDirectoryError, RunError


def make_run(
    path: Path, *, task: str = "memory/tmaze", seed: int = 1, gradient: str = "rtrl", best: float = 10.0, **more: Any
) -> Path:
    path.mkdir(parents=True)
    config = {"task": task, "seed": seed, "run_dir": str(path), "agent": {"gradient": gradient}}
    (path / "config.json").write_text(json.dumps({**config, **more}))
    rows = [
        {"env_steps": 100 * i, "env_frames": 400 * i, "wall_time": 36.0 * i, "episode_return": best * i / 20 + seed}
        for i in range(20)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_two_groups(folder: Path, task: str = "memory/tmaze") -> list[Path]:
    return [
        make_run(folder / f"{gradient}{seed}", task=task, seed=seed, gradient=gradient, best=best)
        for seed in (1, 2, 3)
        for gradient, best in (("rtrl", 10.0), ("tbptt", 2.0))
    ]


def drawn(runs: list[Path], x: Any = "steps", smoothing: float | None = 0, band: Any = "std", **more: Any) -> Figure:
    return draw(make_panels(group_runs(runs), x, "episode_return", smoothing, band), x, "episode_return", band, **more)


def curves_of(axes: Axes) -> dict[str, Any]:
    """The drawn lines by their entries in the legend."""
    return dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))


def legend_of(figure: Figure | Axes) -> list[str]:
    legend = figure.legends[0] if isinstance(figure, Figure) else figure.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def svg_text(path: Path) -> str:
    """The text of a picture: matplotlib writes every piece as a comment beside its shapes."""
    return path.read_text()


@pytest.mark.parametrize(("x", "end"), [("steps", 1900), ("frames", 7600), ("hours", 11.4)])
def test_mean_and_band_are_drawn(tmp_path: Path, x: Any, end: float) -> None:
    (axes,) = drawn(make_two_groups(tmp_path), x).axes
    line = curves_of(axes)["gradient=rtrl (mean ± std of 3 seeds)"]
    at, mean = line.get_data()
    assert (at[0], at[-1]) == (0, pytest.approx(end))
    np.testing.assert_allclose(mean, np.interp(at, [0, end], [2, 11.5]))
    # The seeds 1, 2 and 3 are added to the returns: the deviation is 1 everywhere.
    edges = axes.collections[0].get_paths()[0].vertices
    for height, value in ((edges[:, 1].min(), 1.0), (edges[:, 1].max(), 12.5)):
        assert height == pytest.approx(value)


@pytest.mark.parametrize(
    ("band", "text", "width"),
    [
        ("std", "mean ± std of 3 seeds", 1.0),
        ("stderr", "mean ± stderr of 3 seeds", 1 / np.sqrt(3)),
        ("bootstrap", "mean of 3 seeds, 95 % bootstrap interval", 1.0),
    ],
)
def test_the_legend_says_which_band_is_drawn(tmp_path: Path, band: str, text: str, width: float) -> None:
    (axes,) = drawn(make_two_groups(tmp_path)[0::2], band=band).axes
    assert legend_of(axes) == [text]
    edges = axes.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(edges[edges[:, 0] == 0][:, 1].max(), 2 + width)


def test_the_same_seed_twice_is_no_second_seed(tmp_path: Path) -> None:
    (axes,) = drawn([make_run(tmp_path / name, seed=1) for name in "ab"]).axes
    assert legend_of(axes) == ["mean ± std of 2 runs"]


def test_a_run_that_tells_no_seed_is_a_run(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "PPO_1")) as writer:
        writer.add_scalar("rollout/ep_rew_mean", 1.0, 2048)
    (axes,) = drawn([tmp_path / "PPO_1"]).axes
    assert legend_of(axes) == ["PPO_1 (1 run)"]
    assert axes.get_lines()[0].get_marker() == "o"


def test_several_tasks_are_panels_with_one_legend(tmp_path: Path) -> None:
    runs = [run for task in ("memory/tmaze", "procgen/chaser") for run in make_two_groups(tmp_path / task, task)]
    figure = drawn(runs)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["memory/tmaze", "procgen/chaser"]
    assert legend_of(figure) == ["gradient=rtrl (mean ± std of 3 seeds)", "gradient=tbptt (mean ± std of 3 seeds)"]
    colours = [[line.get_color() for line in curves_of(axes).values()] for axes in figure.axes]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 2


def test_panels_whose_colours_differ_in_meaning_have_their_own_legends(tmp_path: Path) -> None:
    runs = [*make_two_groups(tmp_path), make_run(tmp_path / "other", task="procgen/chaser")]
    figure = drawn(runs)
    assert not figure.legends
    assert legend_of(figure.axes[1]) == ["gradient=rtrl (1 seed)"]


def test_many_panels_are_small(tmp_path: Path) -> None:
    rows = {"env_steps": 10, **{f"returns/{name}": 1.0 for name in ("bigfish", "bossfight", "caveflyer", "chaser")}}
    games = ["climber", "coinrun", "dodgeball", "fruitbot", "heist", "jumper"]
    run = make_run(tmp_path / "run", task="procgen")
    (run / "metrics.jsonl").write_text(json.dumps(rows | {f"returns/{name}": 2.0 for name in games}) + "\n")
    figure = drawn([run])
    assert len(figure.axes) == 10
    assert legend_of(figure) == ["1 seed"]
    assert figure.get_figwidth() > figure.get_figheight()


def test_lines_are_drawn_and_named_apart(tmp_path: Path) -> None:
    lines = [Line("high", 8.0), Line("low", 1.0), Line("RTRL", 8.01, "paper")]
    (axes,) = drawn([make_run(tmp_path / "run")], lines={"memory/tmaze": lines}).axes
    heights = [line.get_ydata()[0] for line in axes.get_lines() if len(line.get_ydata()) == 2]
    assert sorted(heights) == [1.0, 8.0, 8.01]
    texts = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert texts["RTRL"] - texts["high"] > 0.03
    assert legend_of(axes) == ["1 seed", "Irie et al. 2024: test return after training, mean ± std"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.3))
def test_spaced_names_keep_their_order_their_distance_and_their_middle(heights: list[float], gap: float) -> None:
    heights.sort()
    placed = np.array(spaced(heights, gap))
    assert (np.diff(placed) >= gap - 1e-9).all()
    assert placed.mean() == pytest.approx(np.mean(heights))
    if len(heights) < 2 or np.diff(heights).min() >= gap:
        np.testing.assert_allclose(placed, heights, atol=1e-9)


@pytest.mark.parametrize("x", ["steps", "frames", "hours"])
def test_a_picture_comes_out(tmp_path: Path, x: Any) -> None:
    output = tmp_path / "figures" / "curves.png"
    lines = {"memory/tmaze": {"chance": 0.5}}
    assert plot_runs(make_two_groups(tmp_path), output, x=x, lines=lines) == output
    pixels = matplotlib.image.imread(output)[..., :3]
    assert pixels.shape == (960, 1440, 3)
    # Both groups have their lines; the legend alone has 290 pixels of a colour.
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(pixels - np.array(colour) / 255).max(axis=-1) < 0.02).sum() > 500


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    runs = [*make_two_groups(tmp_path), make_run(tmp_path / "other", task="atari/Qbert", rollout_length=50)]
    text = svg_text(plot_runs(runs, tmp_path / "curves.svg", smoothing=300, paper=True))
    for words in (
        "memory/tmaze",
        "atari/Qbert",
        "environment steps",
        "episode return",
        "gradient=rtrl (mean ± std of 3 seeds)",
        "gradient=tbptt (mean ± std of 3 seeds)",
        "trailing mean of 300 steps",
        "1.6k",
        "human",
        "RTRL: 12,484 ± 1,524",
    ):
        assert f"<!-- {words} -->" in text, words


def test_what_is_not_smoothed_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "<!-- not smoothed -->" in svg_text(plot_runs([run], tmp_path / "a.svg", smoothing=0))


@pytest.mark.parametrize(
    ("seconds", "unit", "tick", "window"),
    [(18000, "hours", "4", "0.1 hours"), (684, "minutes", "10", "0.24 minutes"), (50, "seconds", "40", "1.08 seconds")],
)
def test_time_is_told_in_a_unit_that_can_be_read(
    tmp_path: Path, seconds: float, unit: str, tick: str, window: str
) -> None:
    run = make_run(tmp_path / "run")
    rows = [{"env_steps": i, "wall_time": seconds * i / 10, "episode_return": i} for i in range(11)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = svg_text(plot_runs([run], tmp_path / "curves.svg", x="hours"))
    for words in (unit, tick, f"trailing mean of {window}"):
        assert f"<!-- {words} -->" in text, words
    assert "\nmemory/tmaze,,mean,0.0" in plot_runs([run], tmp_path / "curves.csv", x="hours").read_text()


def test_a_panel_without_a_task_says_so(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "PPO_1")) as writer:
        writer.add_scalar("rollout/ep_rew_mean", 1.0, 2048)
    assert [axes.get_title(loc="left") for axes in drawn([tmp_path / "PPO_1"]).axes] == ["(no task)"]


def test_a_pdf_can_be_written(tmp_path: Path) -> None:
    assert plot_runs([make_run(tmp_path / "run")], tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_table_can_be_written(tmp_path: Path) -> None:
    output = plot_runs([make_run(tmp_path / "run")], tmp_path / "curves.csv")
    assert output.read_text().startswith("task,label,seed,x,y,low,high,")


@pytest.mark.parametrize("name", ["curves.jpeg", "curves", "curves.png.txt"])
def test_another_extension_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match=rf"{name}: its name must end in \.png, \.svg, \.pdf, \.csv$"):
        plot_runs([make_run(tmp_path / "run")], tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"x": "days"}, "the x axis cannot be 'days': choose steps, frames, hours"),
        ({"band": "minmax"}, "the band cannot be 'minmax': choose std, stderr, bootstrap"),
        ({"smoothing": -1}, "the smoothing window cannot be -1: it is a number of steps, 0 or more"),
        ({"smoothing": float("nan")}, "the smoothing window cannot be nan"),
        ({"metric": "happiness"}, r"has not measured happiness \(it has measured env_frames, env_steps, episode_ret"),
        ({"paper": True}, "the paper has no results of memory/tmaze; it has some of atari/Breakout, "),
        ({"paper": True, "metric": "env_steps"}, "the paper's results are returns and cannot be drawn over env_steps"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    output = tmp_path / "curves.png"
    with pytest.raises(RunError, match=sentence):
        plot_runs([make_run(tmp_path / "run")], output, **settings)
    assert not output.exists()


def test_what_cannot_be_plotted_is_one_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    output = tmp_path / "curves.png"
    with pytest.raises(RunDirectoryError, match="missing does not exist"):
        plot_runs([run, tmp_path / "missing"], output)
    with pytest.raises(RunDirectoryError, match="missing does not exist"):
        plot_runs([tmp_path / "missing"], output, left_out=[])
    with pytest.raises(RunError, match="name at least one run directory"):
        plot_runs([], output)
    with pytest.raises(RunError, match="in a picture, not in a table of curves"):
        plot_runs([run], tmp_path / "curves.csv", paper=True)
    for name in ("curves.png", "curves.csv"):
        with pytest.raises(RunError, match="cannot be written: a file stands where a folder should be"):
            plot_runs([run], run / "config.json" / name)
    assert not output.exists()


def test_what_cannot_be_drawn_does_not_keep_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("good", "begun", "damaged", "late")
    good, begun, damaged, late = (make_run(tmp_path / name, seed=seed) for seed, name in enumerate(names))
    (begun / "metrics.jsonl").unlink()
    (damaged / "metrics.jsonl").write_text("{\n{}\n")
    missing = tmp_path / "missing"
    assert main(["plot", *map(str, (missing, good, begun, damaged, late))]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("r2ac: ") for line in errors] == [True] * 3
    assert all(any(str(path) in line for line in errors) for path in (missing, begun, damaged))
    assert (good / "curves.png").exists()
    assert not missing.exists()
    assert main(["plot", str(begun), str(missing), "--output", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert not (tmp_path / "a.png").exists()
    assert main(["plot", str(good)]) == 0


def test_runs_without_a_mean_do_not_keep_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gradients = ("rtrl", "rtrl", "tbptt")
    first, second, other = (make_run(tmp_path / f"{i}", seed=i, gradient=name) for i, name in enumerate(gradients))
    row = {"env_steps": 10**6, "episode_return": 1.0}
    (second / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    output = tmp_path / "curves.svg"
    assert main(["plot", *map(str, (first, second, other)), "--output", str(output)]) == 1
    assert "share no range of steps" in capsys.readouterr().err
    assert "<!-- gradient=tbptt (1 seed) -->" in svg_text(output)


def test_what_the_labels_leave_out_is_drawn_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ppo = {"learner": {"algorithm": "ppo"}, "agent": {"input_scale": 2.0, "readout": "mlp"}}
    runs = [make_run(tmp_path / "vtrace", learner={"algorithm": "vtrace"}), make_run(tmp_path / "ppo", **ppo)]
    note = "2 other settings differ, too: input_scale, readout"
    labels = ["algorithm=vtrace (1 seed)", "algorithm=ppo (1 seed)", note]
    assert legend_of(drawn(runs).axes[0]) == labels
    other = [make_run(tmp_path / "other" / name, task="memory/copy", **more) for name, more in (("a", {}), ("b", ppo))]
    assert legend_of(drawn([*runs, *other])) == labels
    for name in ("curves.png", "curves.csv"):
        assert main(["plot", *map(str, runs), "--output", str(tmp_path / name)]) == 0
        assert f"memory/tmaze  {note}" in capsys.readouterr().out
    assert legend_of(drawn(runs[:1]).axes[0]) == ["1 seed"]
