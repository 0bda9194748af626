"""Going on with an interrupted run: what is refused, and how it is said."""

import json
import shutil
from pathlib import Path

import pytest

from r2ac.launch.cli import main


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--algorithm ppo", "--algorithm is ppo, but a run goes on as it began, with vtrace"),
        ("--algorithm td", "--algorithm is td, but a run goes on as it began, with vtrace"),
        ("--core gru", "--core is gru, but a run goes on as it began, with elstm"),
        ("--core gru --refresh-every 9", "--core is gru, but a run goes on as it began, with elstm"),
        ("--freeze-core", "--freeze-core is set, but a run goes on as it began, with --no-freeze-core"),
        ("--gradient tbptt", "--gradient is tbptt, but a run goes on as it began, with rtrl"),
    ],
)
def test_a_run_goes_on_as_it_began_whatever_else_a_flag_would_want(
    flags: str, sentence: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", str(finished_run), "--total-steps", "4000", *flags.split()]) == 2
    assert capsys.readouterr().err == f"r2ac: {sentence}\n"


def test_a_remedy_for_a_damaged_checkpoint_is_named_where_there_is_one(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    checkpoints = list((run / "checkpoints").iterdir())
    for checkpoint in checkpoints:
        checkpoint.write_bytes(b"damaged")
    assert main(["train", "--resume", str(run), "--total-steps", "4000"]) == 2
    assert capsys.readouterr().err.endswith(" (a damaged file must be removed first)\n")
    for checkpoint in checkpoints:
        checkpoint.unlink()
    assert main(["train", "--resume", str(run), "--total-steps", "4000"]) == 2
    assert capsys.readouterr().err.endswith(f"there is no checkpoint (step_*.safetensors) in {run}/checkpoints\n")


def test_frames_are_counted_by_the_action_repeat_of_their_time(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    flags = "--num-actors=0 --streams-per-actor=2 --batch-size=2 --rollout-length=5 --hidden-size=4 --log-steps=100"
    assert main(["train", "gym/CartPole-v1", *flags.split(), "--total-steps=200", "--run-dir", run]) == 0
    assert main(["train", "--resume", run, "--action-repeat=4", "--total-steps=400"]) == 0
    assert main(["train", "--resume", run, "--total-steps=500"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    frames = {row["env_steps"]: row["env_frames"] for row in rows}
    assert frames == {100: 100, 200: 200, 300: 600, 400: 1000, 500: 1400}
