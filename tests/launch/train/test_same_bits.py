"""One seed in this process gives the bits that it has always given, and runs of earlier versions go on.

``bits/digests.json`` was recorded by ``python -m tests.launch.train.test_same_bits FOLDER``; ``bits/run`` is a run of
an earlier version. Instructions of another processor round otherwise: there the tensors are compared by their norms.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from r2ac.launch.cli import main
from r2ac.learner.checkpoint import latest_checkpoint, load_checkpoint

HERE = Path(__file__).parent / "bits"
MAZE = "memory/tmaze --algorithm vtrace --corridor-length 6 --hidden-size 32 --total-steps 6400"
GAME = "atari/Breakout --batch-size 2 --streams-per-actor 2 --rollout-length 10 --hidden-size 16 --total-steps 120"
RUNS = {
    "tmaze-rtrl": f"{MAZE} --gradient rtrl",
    "tmaze-tbptt": f"{MAZE} --gradient tbptt",
    "tmaze-feedforward": f"{MAZE} --core feedforward",
    "tmaze-time-limits": f"{MAZE} --max-episode-steps 5 --bootstrap-at-time-limits --normalise-rewards",
    "breakout-rtrl": f"{GAME} --gradient rtrl",
    "breakout-tbptt": f"{GAME} --gradient tbptt",
}
COMMON = ["--num-actors", "0", "--seed", "3", "--device", "cpu", "--no-stagger-streams"]


def processor() -> str:
    """What decides how floating-point numbers are rounded: instructions and the version of torch."""
    flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")]
    return f"{torch.__version__} {hashlib.sha256(''.join(flags[:1]).encode()).hexdigest()[:16]}"


def summary(name: str, directory: Path) -> dict[str, list[Any]]:
    """The digest and the norm of each tensor of the last checkpoint of a run."""
    assert main(["train", *RUNS[name].split(), *COMMON, "--run-dir", str(directory)]) == 0
    checkpoint = load_checkpoint(latest_checkpoint(directory / "checkpoints"))
    tensors = {**checkpoint.model, "random_state": checkpoint.random_state}
    for index, state in checkpoint.optimiser["state"].items():
        tensors |= {f"optimiser/{index}/{key}": value for key, value in state.items() if torch.is_tensor(value)}
    return {
        key: [hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest(), float(tensor.double().norm())]
        for key, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "breakout-tbptt")) for name in RUNS]
)
def test_one_seed_gives_the_bits_of_before(name: str, tmp_path: Path) -> None:
    recorded = json.loads((HERE / "digests.json").read_text())
    before, now = recorded["runs"][name], summary(name, tmp_path / "run")
    if recorded["processor"] == processor():
        assert now == before
    assert now.keys() == before.keys()
    for key, (_, norm) in now.items():
        assert norm == pytest.approx(before[key][1], rel=1e-3, abs=1e-6), key


def test_a_run_of_an_earlier_version_is_evaluated_and_goes_on(tmp_path: Path) -> None:
    run = shutil.copytree(HERE / "run", tmp_path / "run")
    assert main(["evaluate", str(run), "--episodes", "100", "--workers", "1"]) == 0
    (entry,) = json.loads((run / "evaluation.json").read_text())["results"]
    assert entry["mean_return"] == pytest.approx(0.873, abs=0.03)
    assert main(["train", "--resume", str(run), "--total-steps", "130000"]) == 0
    assert load_checkpoint(latest_checkpoint(run / "checkpoints")).counters["env_steps"] >= 130000


if __name__ == "__main__":
    runs = {name: summary(name, Path(sys.argv[1]) / name) for name in RUNS}
    text = json.dumps({"processor": processor(), "runs": runs}, indent=1, sort_keys=True)
    (HERE / "digests.json").write_text(text + "\n")
