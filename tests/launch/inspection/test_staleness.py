"""How stale carried sensitivities are, on small learners and by the command line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2ac.launch.cli import main
from r2ac.launch.inspection.staleness import Staleness, measure_staleness
from r2ac.learner import Learner, Rollout
from tests.learner.test_learner import make_learner, make_stream
from tests.learner.test_refresh import fresh_pass

LENGTH = 4


def played(learner: Learner, updates: int, history: int) -> Staleness:
    """Measured on a stream whose rollouts ship the states that the learner's weights make, as an actor's do."""
    count = history + updates + 1
    stream = make_stream(count * LENGTH)
    rollouts = iter(stream.cuts(*[LENGTH] * count))

    def collect() -> Iterator[Rollout[np.ndarray]]:
        state = None
        for rollout in rollouts:
            shipped = {**rollout.arrays(), "first_state": np.zeros((3, 5)) if state is None else state.numpy()}
            # With the weights of now, before the update by this rollout.
            state = fresh_pass(learner, rollout, state)[0]
            yield Rollout(**shipped)

    return measure_staleness(learner, collect().__next__, updates, history)


@pytest.mark.parametrize("settings", [{}, {"algorithm": "ppo", "n_epochs": 2}])
def test_the_carried_gradient_strays_as_the_parameters_move(settings: dict[str, Any]) -> None:
    still, moving = (played(make_learner(learning_rate=rate, **settings), 6, 5) for rate in (0.0, 1e-3))
    assert [(each.first_age, each.last_age) for each in moving.gradients] == [(0, 0), (1, 1), (2, 2), (3, 4), (5, 6)]
    for each in (*still.gradients, moving.gradients[0]):
        assert (each.angle, each.boundary_angle) == pytest.approx((0, 0), abs=1e-5)
        assert (each.ratio, each.boundary_ratio) == pytest.approx((1, 1), rel=1e-9)
        assert each.truncated_angle > 0.1
    after = still.gradients[0]
    assert (after.angle_after, after.boundary_angle_after) == pytest.approx((0, 0), abs=1e-5)
    for each in moving.gradients[1:]:
        assert 1e-3 < each.angle < each.truncated_angle
    assert min(moving.gradients[0].angle_after, moving.gradients[0].boundary_angle_after) > 1e-3


def test_it_is_printed_and_written(
    train_tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path / "run", {"--corridor-length": 6})
    before = {file: file.read_bytes() for file in (run / "checkpoints").iterdir()}
    flags = ["--rollouts", "4", "--streams", "4", "--staleness", "--updates", "2", "--history", "3"]
    assert main(["inspect", str(run), *flags, "--learning-rate", "0.01"]) == 0
    assert before == {file: file.read_bytes() for file in (run / "checkpoints").iterdir()}
    for each in json.loads((run / "inspect.json").read_text())["checkpoints"]:
        found = each["staleness"]
        assert (found["learning_rate"], found["history"]) == (0.01, 3)
        angles = [row["angle"] for row in found["gradients"]]
        assert len(angles) == 3
        assert angles[0] < 1e-2 < angles[2]
    assert "carried gradient against the exact one" in " ".join(capsys.readouterr().out.split())


def test_what_carries_no_sensitivities_is_refused_in_one_sentence(
    train_tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, flag, words in (
        ("truncated", {"--gradient": "tbptt"}, "an agent of TBPTT, which carries no sensitivities"),
        ("forgetful", {"--core": "feedforward"}, "a feed-forward agent: it has no memory"),
    ):
        run = train_tiny(tmp_path / name, flag)
        capsys.readouterr()
        assert main(["inspect", str(run), "--staleness"]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
