"""A short training through Ray on one task of every suite that can run here."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2ac.envs import find_task
from r2ac.launch.cli import main
from r2ac.launch.runs.metrics import read_metrics

DOUBLE = Path(__file__).parents[2] / "envs" / "dmlab" / "double"
SMALL = ["--num-actors", "1", "--streams-per-actor", "4", "--batch-size", "4", "--rollout-length", "10"]
SMALL += ["--hidden-size", "16", "--encoder-features", "16", "--learner-threads", "1"]
PICTURES = ["--encoder", "nature"]


@pytest.fixture(scope="module", autouse=True)
def _double() -> Iterator[None]:
    """The double of DeepMind Lab plays, also where the engine is installed: its episodes are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOUBLE)
        patch.setenv("PYTHONPATH", str(DOUBLE))
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "flags", "steps"),
    [
        ("memory/match_to_sample", [], 4000),
        ("popgym/RepeatPreviousEasy", [], 4000),
        ("minigrid/MemoryS7", [], 2000),
        ("gym/CartPole-v1", [], 4000),
        ("atari/Pong", [*PICTURES, "--max-episode-frames", "400"], 800),
        ("procgen/starpilot", [*PICTURES, "--distribution-mode", "easy"], 1600),
        ("dmlab/rooms_watermaze", [*PICTURES, "--image-height", "40", "--image-width", "40"], 400),
    ],
)
def test_a_short_training(task: str, flags: list[str], steps: int, tmp_path: Path, local_ray: None) -> None:
    if missing := find_task(task).suite.missing():
        pytest.skip(missing)
    run = tmp_path / "run"
    words = ["train", task, *SMALL, *flags, "--total-steps", str(steps), "--log-steps", str(steps // 4)]
    assert main([*words, "--run-dir", str(run)]) == 0
    rows = read_metrics(run)
    assert rows[-1]["env_steps"] == steps
    assert all(math.isfinite(row["loss/total"]) for row in rows)
    assert sum(row.get("episodes", 0) for row in rows) > 0
    assert rows[-1]["learner/stream_resets"] == rows[-1]["throughput/actor_restarts"] == 0
