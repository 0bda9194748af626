"""``--match-parameters`` on the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.report.study import read_study
from r2ac.launch.report.summary_section import configuration_table
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.settings.flags import training_config

Capture = pytest.CaptureFixture[str]


def test_a_run_keeps_the_size_that_was_chosen_and_goes_on(
    train_tiny: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    flags = ["--algorithm", "vtrace", "--core", "lstm", "--match-parameters", "elstm", "--hidden-size", "16"]
    size = training_config("memory/tmaze", flags).agent.hidden_size
    run = train_tiny(tmp_path / "run", dict(zip(flags[::2], flags[1::2], strict=True)))
    assert TrainedAgent.load(run).training.agent.hidden_size == size < 16
    (parameters,) = {row["learner/parameters"] for row in read_metrics(run)}
    assert f"agent: lstm of {size} units, tbptt, {parameters:,} parameters\n" in capsys.readouterr().out
    assert main(["train", "--resume", str(run), "--total-steps", "3000"]) == 0
    assert TrainedAgent.load(run).training.agent.hidden_size == size
    assert f"tbptt, lstm of {size} units, {parameters:,} parameters" in configuration_table(read_study([run]))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--match-parameters nothing", "--match-parameters is nothing, but it must be one of elstm, "),
        ("--core nothing --match-parameters elstm", "--core is nothing, but it must be one of elstm, "),
        ("--core lstm --match-parameters elstm --hidden-size 0", "must be at least 1, not 0 and"),
    ],
)
def test_what_cannot_be_matched_is_one_sentence(flags: str, words: str, capsys: Capture) -> None:
    assert main(["train", "memory/tmaze", *flags.split()]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
