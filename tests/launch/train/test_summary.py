"""What is printed at the end of a training."""

from pathlib import Path

import pytest

from r2ac.launch.cli import main
from tests.launch.conftest import tiny_arguments


@pytest.mark.parametrize(
    ("length", "steps", "said"),
    [(4, 80, "return, last 16 episodes "), (4, 800, "return, last 100 episodes"), (40, 80, "no episode has ended")],
)
def test_the_return_is_of_as_many_episodes_as_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int, steps: int, said: str
) -> None:
    flags = {"--corridor-length": length, "--total-steps": steps}
    assert main([*tiny_arguments(tmp_path / "run", flags), "--no-stagger-streams"]) == 0
    assert said in capsys.readouterr().out
