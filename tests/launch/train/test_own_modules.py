"""Modules of the current directory, in every process that a training and an evaluation start."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.evaluation.results_file import read_evaluation

TINY = ["--streams-per-actor", "8", "--batch-size", "8", "--hidden-size", "8"]
TASK = ["gym/found_here:own/Needy-v0", "--env-kwargs", '{"level": 3}', "--wrappers", "found_here:Louder"]

pytestmark = pytest.mark.filterwarnings("ignore:.*already in registry")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a module; nothing that is imported from there stays."""
    (tmp_path / "found_here.py").write_text((Path(__file__).parents[2] / "own_envs.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("found_here", None)


@pytest.mark.slow
def test_rollout_actors_and_evaluation_workers_find_them(here: Path) -> None:
    assert main(["train", *TASK, *TINY, "--num-actors", "1", "--total-steps", "400", "--run-dir", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "4", "--seeds", "2", "--workers", "2"]) == 0
    (result,) = read_evaluation(Path("run"))
    assert {episode.length for episode in result.episodes} == {3}
    assert {episode.episode_return % 10 for episode in result.episodes} == {0}


def test_a_run_that_goes_on_elsewhere_says_which_module_is_missing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "run"
    assert main(["train", *TASK, *TINY, "--num-actors", "0", "--total-steps", "80", "--run-dir", str(run)]) == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    sys.path.remove(str(here))
    del sys.modules["found_here"]
    for command in (["train", "--resume", str(run), "--total-steps", "160"], ["evaluate", str(run)]):
        capsys.readouterr()
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "there is no task 'gym/found_here:own/Needy-v0': No module named 'found_here' in the current" in said
        assert f"({here / 'elsewhere'}), on PYTHONPATH or installed; start the command where it lies" in said
    monkeypatch.chdir(here)
    assert main(["train", "--resume", str(run), "--total-steps", "160"]) == 0
