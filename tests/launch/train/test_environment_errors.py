"""Whatever an environment raises is one sentence, its traceback in a file that the sentence names, and a checkpoint."""

import re
from pathlib import Path
from typing import Any

import pytest

from r2ac.launch.cli import main
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.learner import Learner
from r2ac.learner.checkpoint import load_checkpoint

Capture = pytest.CaptureFixture[str]
FLAGS = ["--streams-per-actor", "8", "--batch-size", "8", "--rollout-length", "5", "--hidden-size", "8"]
FLAGS += ["--total-steps", "2000", "--log-steps", "200"]


def run_train(name: str, run: Path, *flags: str, actors: int = 0) -> int:
    words = [f"gym/tests.failing_envs:{name}-v0", "--num-actors", str(actors), "--run-dir", str(run), *FLAGS, *flags]
    return main(["train", *words])


def traceback_of(sentence: str) -> str:
    """In the file that the sentence names."""
    found = re.search(r"\(its traceback is in (\S+)\)", sentence)
    assert found is not None, sentence
    return Path(found[1]).read_text()


def only_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("r2ac: ")]
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", "ValueError: physics exploded"),
        ("Quits", "SystemExit"),
        ("Leaves", "SystemExit: 0"),
        ("Interrupts", "KeyboardInterrupt"),
    ],
)
def test_an_error_in_training_costs_no_step_that_was_learned(
    name: str, said: str, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    assert run_train(name, run) == 1
    errors = capsys.readouterr().err
    sentence = only_line(errors)
    assert f"gym/tests.failing_envs:{name}-v0 failed in step 50: {said}" in sentence
    assert "Traceback" not in errors
    assert str(run / "environment-error.txt") in sentence
    assert "in slip" in traceback_of(sentence)
    # 49 steps of 8 streams, in rollouts of 5.
    assert load_checkpoint(find_checkpoint(run)).counters["env_steps"] == 360


def test_an_error_in_a_rollout_actor_is_the_same(tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert run_train("Quits", run, actors=1) == 1
    sentence = only_line(capsys.readouterr().err)
    assert "gym/tests.failing_envs:Quits-v0 failed in step 50: SystemExit" in sentence
    assert "in slip" in traceback_of(sentence)
    # The last rollout may have waited to be learned from.
    assert load_checkpoint(find_checkpoint(run)).counters["env_steps"] in (320, 360)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NoConstructor", "cannot be made: RuntimeError: no level file"),
        ("WrongTypes", "cannot be made: TypeError: unsupported operand"),
        ("FourValues", "failed in step 1: TypeError: step returned a tuple of 4, but it must return the tuple"),
        ("OnlyObservation", "failed in its first reset: "),
        ("WrongShape", "failed in step 1: ValueError: an observation is array([0., 0., 0., 0.]"),
        ("WordReward", "failed in step 1: TypeError: the reward is '1', but it must be a number"),
    ],
)
def test_what_never_worked_is_bad_input_and_leaves_no_run(
    name: str, said: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_train(name, tmp_path / "run") == 2
    sentence = only_line(capsys.readouterr().err)
    assert said in sentence
    assert "Traceback" in traceback_of(sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ArrayReward", "CloseRaises"])
def test_what_does_no_harm_is_no_error(name: str, tmp_path: Path) -> None:
    assert run_train(name, tmp_path / "run") == 0
    assert load_checkpoint(find_checkpoint(tmp_path / "run")).counters["env_steps"] == 2000


def test_an_evaluation_says_it_too(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = tmp_path / "run"
    assert run_train("Quits", run) == 1
    capsys.readouterr()
    assert main(["evaluate", str(run), "--episodes", "100", "--seeds", "1", "--num-envs", "2"]) == 1
    sentence = only_line(capsys.readouterr().err)
    assert "failed in step 50: SystemExit" in sentence
    assert sentence.count("gym/tests.failing_envs:Quits-v0") == 1
    assert "in slip" in traceback_of(sentence)


def test_a_list_goes_on_behind_a_task_that_quits(tmp_path: Path, capsys: Capture) -> None:
    names = "gym/tests.failing_envs:Quits-v0,gym/tests.failing_envs:ArrayReward-v0"
    assert main(["train", "--suite", names, "--num-actors", "0", "--run-dir", str(tmp_path / "list"), *FLAGS]) == 1
    assert "Quits-v0 failed in step 50: SystemExit (its traceback is in " in capsys.readouterr().out
    (second,) = (tmp_path / "list").glob("*ArrayReward*")
    assert load_checkpoint(find_checkpoint(second)).counters["env_steps"] == 2000


def test_an_error_of_no_known_kind_costs_no_step_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Learner.update

    def fails_later(learner: Learner, batch: Any) -> Any:
        if learner.updates == 5:
            raise RuntimeError("the device is on fire")
        return update(learner, batch)

    monkeypatch.setattr(Learner, "update", fails_later)
    with pytest.raises(RuntimeError, match="the device is on fire") as raised:
        run_train("ArrayReward", tmp_path / "run")
    assert load_checkpoint(find_checkpoint(tmp_path / "run")).counters["env_steps"] == 200
    (note,) = raised.value.__notes__
    assert note == f"What was learned in 200 steps is saved: r2ac train --resume {tmp_path / 'run'} goes on."
