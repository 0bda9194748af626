"""``r2ac report``: where the page is written, and what is refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from r2ac.launch.commands.report import report_command
from r2ac.launch.evaluation.results_file import FORMAT, FORMAT_VERSION
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.settings.config import ConfigError
from r2ac.learner.checkpoint import load_checkpoint, save_checkpoint


def report(*arguments: object) -> int:
    return report_command([str(word) for word in arguments], Console(quiet=True))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_the_page_is_written_into_the_first_run(run: Path) -> None:
    assert report(run, "--no-episodes", "--title", "A & B") == 0
    page = (run / "report.html").read_text()
    assert "<title>A &amp; B</title>" in page
    assert "<h2" in page
    assert "Episodes" not in page


def test_the_page_is_written_where_it_is_wanted(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "page.htm"
    assert report(run, "--output", output, "--no-episodes") == 0
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert not (run / "report.html").exists()


def test_runs_that_follow_the_flag_are_the_baseline(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    assert report(run, "--output", tmp_path / "page.html", "--no-episodes", "--baseline", other) == 0
    assert "rtrl (baseline)" in (tmp_path / "page.html").read_text()


def test_settings_that_the_names_leave_out_are_counted_below_the_curves(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["learner"]["algorithm"] = "stream"
    config["agent"]["input_scale"] = 7.0
    (other / "config.json").write_text(json.dumps(config))
    assert report(run, other, "--output", tmp_path / "page.html", "--no-episodes") == 0
    assert "1 other setting differs, too: input_scale (see the settings)." in (tmp_path / "page.html").read_text()


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="r2ac report needs at least one run directory"):
        report()
    with pytest.raises(RunError, match="nowhere does not exist"):
        report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty is not a run directory: it holds no config\.json"):
        report(tmp_path / "empty")
    (run / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        report(run)
    assert not list(tmp_path.rglob("*.html"))


def test_what_is_no_run_does_not_keep_the_others(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = Path(shutil.copytree(run, tmp_path / "damaged"))
    (damaged / "config.json").write_text("{")
    capsys.readouterr()
    assert report(tmp_path / "nowhere", run, damaged, "--no-episodes", "--baseline", tmp_path / "lost") == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("r2ac: ") for line in errors] == [True] * 3
    assert "nowhere does not exist" in errors[0]
    assert "damaged/config.json is damaged" in errors[1]
    assert "lost does not exist" in errors[2]
    assert "rtrl ends at" in (run / "report.html").read_text()
    assert not (tmp_path / "nowhere").exists()


def test_what_is_damaged_in_a_run_is_told_and_the_page_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").write_text("nonsense\n")
    (run / "evaluation.json").write_text("{")
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.write_bytes(b"damaged")
    capsys.readouterr()
    assert report(run) == 1
    metrics, evaluation, episode = capsys.readouterr().err.splitlines()
    assert metrics.startswith(f"r2ac: {run}/metrics.jsonl is damaged: line 1")
    assert evaluation.startswith(f"r2ac: {run}/evaluation.json is damaged")
    assert episode.startswith(f"r2ac: no episode of {run}: {run}/checkpoints/step_000000002000.safetensors is damaged")
    page = (run / "report.html").read_text()
    assert page.count("is damaged") >= 3
    assert "The configurations" in page


def test_a_place_that_cannot_be_written_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"page\.png must end in \.html, \.htm"):
        report(run, "--output", tmp_path / "page.png")
    with pytest.raises(RunError, match="a file stands where a folder should be"):
        report(run, "--output", run / "config.json" / "page.html")


def test_runs_of_other_programs_have_their_curves(run: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "PPO_1"
    with SummaryWriter(str(foreign)) as writer:
        for step in (1000, 2000):
            writer.add_scalar("rollout/ep_rew_mean", step / 1000, step)
    assert report(run, foreign, "--output", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert "PPO_1 ends at 2.000 after 2k steps" in page
    assert "(no task)" not in page
    assert "Runs of other programs have no evaluation here" in page
    assert "The settings of runs of other programs are not known: PPO_1" in page
    assert "A run of another program has no checkpoint that can play here" in page


def test_a_run_that_tells_no_task_has_no_empty_cell(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "PPO_1")) as writer:
        writer.add_scalar("rollout/ep_rew_mean", 1.0, 100)
    assert report(tmp_path / "PPO_1", "--output", tmp_path / "page.html") == 0
    # Of the drawing, of the configuration, and of the end of its curve.
    assert (tmp_path / "page.html").read_text().count(">(no task)<") == 3


def test_a_run_that_has_only_begun_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "config.json", begun)
    assert report(begun) == 0
    assert capsys.readouterr().err == ""
    page = (begun / "report.html").read_text()
    assert "There is no learning curve to draw." in page
    assert "No run has lines in metrics.jsonl" in page
    assert "No episode: there is no checkpoint" in page
    (begun / "metrics.jsonl").write_text('{"env_steps": 10, "env_frames": 10, "wall_time": 1.5}\n')
    assert report(begun) == 0
    assert f"No learning curve: {begun} has not measured episode_return" in (begun / "report.html").read_text()


def test_a_run_of_a_module_that_is_not_here_has_its_curves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {"task": "gym/no_such_module:Env-v0", "env": {}}
    (run / "config.json").write_text(json.dumps(json.loads((run / "config.json").read_text()) | gone))
    file = find_checkpoint(run)
    checkpoint = load_checkpoint(file)
    checkpoint.config.update(gone)
    save_checkpoint(file, checkpoint)
    result = {"checkpoint": str(file), "sha256": "0", "env_steps": 1, **gone}
    results = {"format": FORMAT, "format_version": FORMAT_VERSION, "results": [result]}
    (run / "evaluation.json").write_text(json.dumps(results))
    capsys.readouterr()
    assert report(run) == 0
    assert capsys.readouterr().err == ""
    page = (run / "report.html").read_text()
    assert "Learning curves on gym/no_such_module:Env-v0: rtrl ends at" in page
    assert page.count("No module named") == 2, "of the evaluation and of the episode"


def test_a_run_on_several_tasks_has_a_curve_for_each(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "task": "memory/tmaze,memory/parity"}))
    rows = [
        {"env_steps": 100 * i, "env_frames": 100 * i, "wall_time": i, "returns/tmaze": 0.5, "returns/parity": 0.25}
        for i in range(1, 4)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report(run, "--no-episodes") == 0
    page = (run / "report.html").read_text()
    assert "Learning curves on memory/tmaze: rtrl ends at 0.500 after 300 steps" in page
    assert "Learning curves on memory/parity: rtrl ends at 0.250 after 300 steps" in page
