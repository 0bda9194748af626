"""r2ac evaluate from end to end: several runs and tasks, side by side in Ray and not, interrupted and gone on with."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from r2ac.envs import SUITES, find_task
from r2ac.envs.dmlab import DmlabOptions
from r2ac.launch.cli import main
from r2ac.launch.evaluation.evaluate import Evaluation
from r2ac.launch.evaluation.results_file import read_evaluation
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runs.suite_run import SuiteRun
from r2ac.launch.settings.config import TrainConfig
from r2ac.learner.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from tests.processes import wait_until

Capture = pytest.CaptureFixture[str]
FLAGS = ["--num-actors", "0", "--streams-per-actor", "8", "--batch-size", "8", "--rollout-length", "5"]
TINY = [*FLAGS, "--hidden-size", "8", "--total-steps", "80"]
FEW = ["--episodes", "4", "--num-envs", "2"]
HERE = ["--workers", "0"]
# About a second for each seed, so that there is time to interrupt them.
MANY = 1500
LONG = ["--episodes", MANY, "--num-envs", "2", *HERE]
MARK = 123_456_789
"""A length that no episode has: where it is still there, nothing was played again."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `suite`, a training on a list of three tasks, and `several`, one agent of two tasks."""
    folder = tmp_path_factory.mktemp("made")
    names = "memory/tmaze,memory/parity,memory/copy"
    assert main(["train", "--suite", names, *TINY, "--run-dir", str(folder / "suite")]) == 0
    flags = ["--pixels", "--sequence-length", "2", "--episode-length", "6", "--lag", "2"]
    names = "memory/copy,memory/repeat_previous"
    assert main(["train", names, *TINY, *flags, "--run-dir", str(folder / "several")]) == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "made"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a run on memory/tmaze."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def suite_at(path: Path) -> SuiteRun:
    suite = SuiteRun.read(path)
    assert suite is not None
    return suite


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def by_task(path: Path) -> dict[str, Evaluation]:
    return {result.task: result for result in read_evaluation(path)}


def mark(path: Path, task: str, seed: int) -> None:
    """Give the first episode of a seed that is on file a length that no episode has."""
    file = path / "evaluation.json"
    values = json.loads(file.read_text())
    (result,) = (result for result in values["results"] if result["task"] == task)
    next(episode for episode in result["episodes"] if episode["seed"] == seed)["length"] = MARK
    file.write_text(json.dumps(values))


def marked(path: Path) -> list[tuple[str, int]]:
    return [(r.task, e.seed) for r in read_evaluation(path) for e in r.episodes if e.length == MARK]


def test_a_run_of_several_tasks_has_a_result_for_each(folder: Path, capsys: Capture) -> None:
    run = folder / "several"
    assert evaluate(run, *FEW, *HERE) == 0
    printed = capsys.readouterr().out
    results = by_task(run)
    assert list(results) == ["memory/copy", "memory/repeat_previous"]
    normalised = []
    for task, result in results.items():
        means = [statistics.mean(e.episode_return for e in result.episodes if e.seed == seed) for seed in range(3)]
        assert len(result.episodes) == 12
        assert result.mean_return == pytest.approx(statistics.mean(means))
        scores = find_task(task).reference_scores(result.training.env)
        assert scores is not None
        normalised.append((statistics.mean(means) - scores.low) / (scores.high - scores.low))
        assert f"{statistics.mean(means):,.3f} ± {statistics.stdev(means):,.3f}" in printed
    assert {e.length for e in results["memory/repeat_previous"].episodes} == {6}
    (means_on_file,) = json.loads((run / "evaluation.json").read_text())["means"]
    assert means_on_file["normalised_return"] == pytest.approx(statistics.mean(normalised))
    assert f"mean of 2 tasks: {100 * statistics.mean(normalised):,.1f} %" in printed
    assert f"mean of 2 tasks: {100 * statistics.mean(normalised):,.1f} %" in (run / "evaluation.md").read_text()


def test_a_directory_of_a_suite_stands_for_its_runs(folder: Path, capsys: Capture) -> None:
    suite = folder / "suite"
    shutil.rmtree(suite / "memory-copy")
    assert evaluate(suite, *FEW, *HERE) == 1
    captured = capsys.readouterr()
    assert f"{suite} has no run on memory/copy yet" in captured.err
    for task in ("memory/tmaze", "memory/parity"):
        (result,) = read_evaluation(Path(suite_at(suite).place_of(find_task(task))))
        assert (result.task, len(result.episodes)) == (task, 12)
    assert "suite, split test: mean of 2 tasks" in captured.out
    page = (suite / "evaluation.md").read_text()
    assert all(words in page for words in ("memory/tmaze", "memory/parity", "mean of 2 tasks"))


@pytest.mark.slow
def test_ray_and_this_process_play_the_same_and_what_fails_does_not_keep_the_rest(
    folder: Path, run: Path, capsys: Capture
) -> None:
    suite, several = folder / "suite", folder / "several"
    damaged = find_checkpoint(Path(suite_at(suite).place_of(find_task("memory/parity"))))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    # No tmaze agent can read what parity shows.
    named = [suite, several, run, "--suite", "memory/tmaze,memory/parity,memory/copy,atari/Pong"]
    capsys.readouterr()
    assert evaluate(*named, *FEW, "--workers", "2") == 1
    errors = capsys.readouterr().err.splitlines()
    sentences = [line for line in errors if line.startswith("r2ac: ")]
    assert sum(str(damaged) in line for line in sentences) == 1
    assert sum(f"{find_checkpoint(run)} cannot play memory/parity" in line for line in sentences) == 1
    # Of four agents two tasks each, and the damaged file; a task that fails is told once and not for each seed.
    assert len(sentences) == 4 * 2 + 1
    assert not any("Traceback" in line for line in errors)
    runs = [suite / "memory-tmaze", suite / "memory-copy", several, run]
    played = [by_task(each) for each in runs]
    assert [list(results) for results in played] == [
        ["memory/tmaze"],
        ["memory/copy"],
        ["memory/copy"],
        ["memory/tmaze"],
    ]
    assert evaluate(*named, *FEW, *HERE, "--fresh") == 1
    for each, before in zip(runs, played, strict=True):
        again = by_task(each)
        assert {task: r.episodes for task, r in again.items()} == {task: r.episodes for task, r in before.items()}
        assert all(len(result.episodes) == 12 for result in again.values())


def test_only_what_is_missing_is_played(folder: Path, run: Path, capsys: Capture) -> None:
    several = folder / "several"
    assert evaluate(several, run, *FEW, *HERE, "--seeds", "2") == 0
    mark(several, "memory/copy", seed=1)
    mark(run, "memory/tmaze", seed=0)
    capsys.readouterr()
    assert evaluate(several, run, *FEW, *HERE) == 0
    assert "12 episodes to play, in 3 parts; 6 of 9 seeds are on file" in capsys.readouterr().out
    assert marked(several) == [("memory/copy", 1)]
    assert marked(run) == [("memory/tmaze", 0)]
    assert evaluate(several, run, *FEW, *HERE) == 0
    assert "to play" not in capsys.readouterr().out
    assert evaluate(run, *HERE, "--num-envs", "2", "--episodes", "3", "--step-timeout", "5") == 2
    captured = capsys.readouterr()
    assert "anew" not in captured.out
    assert "--step-timeout is 5, but it must be 0 with --workers 0" in captured.err
    assert evaluate(run, *HERE, "--num-envs", "2", "--episodes", "3") == 0
    assert "begins anew: episodes was 4, is 3" in capsys.readouterr().out
    assert marked(run) == []
    assert evaluate(several, *FEW, *HERE, "--fresh") == 0
    assert marked(several) == []


def test_a_name_that_is_no_task_does_not_keep_the_rest(run: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert evaluate(run, "--suite", "memory/tmaz,memory/tmaze,memory/nope", *FEW, *HERE) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "there is no task 'memory/tmaz'" in first
    assert "there is no task 'memory/nope'" in second
    assert list(by_task(run)) == ["memory/tmaze"]


def test_a_directory_stands_for_the_runs_that_it_holds(run: Path, capsys: Capture) -> None:
    folder = run.parent
    other = Path(shutil.copytree(run, folder / "other"))
    (folder / "notes").mkdir()
    # What another program wrote cannot be played, and is not asked for.
    (folder / "foreign").mkdir()
    shutil.copy(next(run.glob("*tfevents*")), folder / "foreign")
    assert evaluate(folder, *FEW, *HERE) == 0
    assert list(by_task(run)) == list(by_task(other)) == ["memory/tmaze"]
    assert not (folder / "evaluation.md").exists()
    shutil.rmtree(other / "checkpoints")
    capsys.readouterr()
    assert evaluate(folder, *FEW, *HERE) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_what_the_agent_cannot_read_is_not_in_the_estimate(run: Path, capsys: Capture) -> None:
    rows = [{"env_steps": 9, "episode_length": 10.0, "throughput/steps_per_second": 1.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert evaluate(run, "--suite", "memory/tmaze,memory/copy", *FEW, *HERE) == 1
    assert "24 episodes to play, in 6 parts; about 0:02:00 at the pace" in capsys.readouterr().out


def test_other_checkpoints_of_a_run_stay_beside_the_newest(run: Path) -> None:
    newest = find_checkpoint(run)
    checkpoint = load_checkpoint(newest)
    older = checkpoint_path(newest.parent, 1000)
    checkpoint.counters["env_steps"] = 1000
    save_checkpoint(older, checkpoint)
    # The newest is named twice, and played once.
    assert evaluate(run, older, newest, *FEW, *HERE) == 0
    assert [result.env_steps for result in read_evaluation(run)] == [2000, 1000]
    checkpoint.model["policy.bias"][:] = 9
    save_checkpoint(newest, checkpoint)
    assert evaluate(run, *FEW, *HERE) == 0
    assert len({result.sha256 for result in read_evaluation(run)}) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_evaluation_goes_on(run: Path, number: signal.Signals, capsys: Capture) -> None:
    process = start("evaluate", run, *LONG)
    wait_until(lambda: (run / "evaluation.json").exists(), process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert f"Stopped by {number.name}: 1 of 3 seeds are on file" in output
    (result,) = read_evaluation(run)
    assert (result.seeds_played, len(result.episodes)) == ([0], MANY)
    mark(run, "memory/tmaze", seed=0)
    capsys.readouterr()
    assert evaluate(run, *LONG, "--seeds", "2") == 0
    assert f"{MANY:,} episodes to play, in 1 part; 1 of 2 seeds are on file" in capsys.readouterr().out
    assert marked(run) == [("memory/tmaze", 0)]
    (result,) = read_evaluation(run)
    assert (result.complete, len(result.episodes)) == (True, 2 * MANY)


def start(*words: object) -> "subprocess.Popen[str]":
    program = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_what_is_wrong_with_everything_ends_with_2(run: Path, tmp_path: Path, capsys: Capture) -> None:
    path = find_checkpoint(run)
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert evaluate(run, tmp_path / "nowhere") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert str(path) in captured.err
    assert "nowhere does not exist" in captured.err


def test_another_folder_takes_the_results_of_runs_that_may_not_be_written(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Also of a whole list; what is there is gone on with."""

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before, output = files(), tmp_path / "away" / "results"
    command = (folder / "suite", folder / "several", *FEW, *HERE, "--output", output)
    assert evaluate(*command, "--seeds", "1") == 0
    assert f"written  {output / 'evaluation.json'}" in capsys.readouterr().out
    assert sorted(result.task for result in read_evaluation(output)) == sorted(
        ["memory/tmaze", "memory/parity", "memory/copy", "memory/copy", "memory/repeat_previous"]
    )
    mark(output, "memory/parity", 0)
    assert evaluate(*command, "--seeds", "2") == 0
    assert marked(output) == [("memory/parity", 0)], "the seed on file was not played again"
    assert all(result.seeds_played == [0, 1] for result in read_evaluation(output))
    assert (output / "evaluation.md").exists()
    assert files() == before


@pytest.mark.skipif(SUITES["dmlab"].missing() is None, reason="the engine is here")
def test_a_missing_engine_does_not_keep_the_rest(run: Path, tmp_path: Path, capsys: Capture) -> None:
    checkpoint = load_checkpoint(find_checkpoint(run))
    training = TrainConfig("dmlab/rooms_watermaze,dmlab/rooms_keys_doors_puzzle", DmlabOptions())
    alone = tmp_path / "agent.safetensors"
    save_checkpoint(alone, replace(checkpoint, config=training.to_json()))
    assert evaluate(alone, run, *FEW, *HERE) == 1
    assert capsys.readouterr().err.startswith("r2ac: the suite dmlab needs deepmind_lab")
    assert len(read_evaluation(run)) == 1
    assert evaluate(alone, *FEW, *HERE) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--suite", "memory/none"], ["memory/none"]),
        (["--suite", "procgen-16"], ["--suite procgen-16 names no task of memory"]),
        (["--protocol", "machado2018"], ["--protocol is machado2018", "atari and not for memory/tmaze"]),
        (["--workers", "-1"], ["--workers is -1"]),
        (["--device", "tpu"], ["'tpu'"]),
    ],
)
def test_bad_input_is_one_sentence(run: Path, flags: list[str], words: list[str], capsys: Capture) -> None:
    capsys.readouterr()
    assert evaluate(run, *flags) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert all(word in captured.err for word in words)
    assert not (run / "evaluation.json").exists()


def test_a_damaged_evaluation_is_not_written_over(run: Path, capsys: Capture) -> None:
    (run / "evaluation.json").write_text("{")
    assert evaluate(run, *FEW, *HERE) == 2
    assert "is damaged" in capsys.readouterr().err
    assert (run / "evaluation.json").read_text() == "{"
    assert evaluate(run, *FEW, *HERE, "--fresh") == 0
    assert len(read_evaluation(run)) == 1
