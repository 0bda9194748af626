"""The error of predicted returns."""

from pathlib import Path

import pytest
import torch

from r2ac.launch.cli import main
from r2ac.launch.evaluation.prediction import prediction_errors
from r2ac.launch.runs.loading import TrainedAgent


def test_the_error_is_that_of_the_values(tmp_path: Path) -> None:
    flags = ["--algorithm", "td", "--discount", "0.9", "--isi", "10", "--hidden-size", "4", "--total-steps", "20"]
    assert main(["train", "memory/trace_conditioning", *flags, "--run-dir", str(tmp_path / "run")]) == 0
    trained = TrainedAgent.load(tmp_path / "run")
    trained.model["value.weight"] = torch.zeros(1, 4)
    found = {}
    for value in (0.0, 0.2, 0.4):
        trained.model["value.bias"] = torch.tensor([value])
        found[value], of_constant = prediction_errors(trained, 2000, 4)
    # The error of a constant is a parabola, whose lowest point is the mean return.
    second = found[0.0] - 2 * found[0.2] + found[0.4]
    assert second == pytest.approx(2 * 0.2**2, rel=1e-3)
    mean_return = 0.5 * (0.4**2 - found[0.4] + found[0.0]) / 0.4
    assert found[0.0] - mean_return**2 == pytest.approx(of_constant, rel=0.01)
    assert 0.05 < mean_return < 0.4
