"""The error of the predictions of a run."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from r2ac.launch.cli import main

TASK = "memory/trace_conditioning"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    flags = ["--algorithm", "td", "--discount", "0.9", "--isi", "10", "--hidden-size", "4", "--total-steps", "20"]
    assert main(["train", TASK, *flags, "--run-dir", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_a_line_for_each_checkpoint(
    module: Callable[[str], ModuleType], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = module("trace_conditioning").main
    capsys.readouterr()
    score([str(run), str(run / "checkpoints" / "step_000000000000.safetensors"), "--steps", "200", "--streams", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for steps, line in zip((20, 0), lines, strict=True):
        assert re.fullmatch(
            rf"td rtrl agent of run, {steps} steps, discount 0\.9: error \d\.\d+, of the mean return \d\.\d+", line
        )
    with pytest.raises(SystemExit):
        score([str(run), "--steps", "5"])
    assert "5 steps are too few to score predictions with a discount of 0.9" in capsys.readouterr().err
