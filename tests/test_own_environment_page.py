"""The page about environments of one's own: its example and its commands run as they stand, with a small budget."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.evaluation.results_file import read_evaluation
from r2ac.launch.runs.run_directory import RunDirectory
from r2ac.launch.settings.flags import replace_flags

PAGE = Path(__file__).parents[1] / "docs" / "environments" / "your-own.md"
SMALL = {
    "train": {"--total-steps": "2k", "--num-actors": "0", "--streams-per-actor": "8", "--batch-size": "8"},
    "evaluate": {"--episodes": "4", "--workers": "0"},
    "watch": {"--episodes": "1", "--memory-episodes": "8"},
}


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "corridor.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    commands = [shlex.split(line.strip()) for line in re.findall(r"^    (r2ac .*)$", page, re.MULTILINE)]
    assert [words[1] for words in commands] == ["envs", "train", "evaluate", "watch", "train", "train", "submit"]
    for _, name, *words in commands:
        if name == "submit":
            # Nobody listens there: flags and modules have been checked by then.
            assert main([name, *words, "--cluster", "http://127.0.0.1:1"]) == 2
            assert "there is no Ray cluster at" in capsys.readouterr().err
            continue
        smaller = SMALL.get(name, {}) | ({"--total-steps": "4k"} if "--resume" in words else {})
        words = replace_flags(words, [word for pair in smaller.items() for word in pair])
        assert main([name, *words]) == 0, (name, words)
    assert len(read_evaluation(Path("runs/corridor"))[0].episodes) == 12
    env = RunDirectory(Path("runs/long")).read_config()["env"]
    assert (env["env_kwargs"], env["wrappers"]) == ('{"length": 25}', ["corridor:Doubled"])
    assert (tmp_path / "corridor.gif").stat().st_size > 0
