"""What `r2ac envs` tells about suites and tasks."""

import re
import sys
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest

from r2ac.envs import SUITES, MissingPackage, find_task, make_vector
from r2ac.envs.engine_check import engine_problems
from r2ac.envs.suite import SuiteOptions
from r2ac.launch.cli import main

Capture = pytest.CaptureFixture[str]
DOCS = Path(__file__).parents[3] / "docs"


def test_envs_tells_about_a_suite_and_a_task(capsys: Capture) -> None:
    assert main(["envs", "memory"]) == 0
    printed = capsys.readouterr().out.splitlines()
    (copy,) = (line.split() for line in printed if "memory/copy" in line)
    assert copy == ["memory/copy", "float32", "[5]", "4", "1", "2.5", "10"]
    assert main(["envs", "atari/Breakout"]) == 0
    printed = capsys.readouterr().out
    words = ("uint8 [4, 84, 84]", "actions        18", "random 1.7, human 30.5", "machado2018", "episodic_life=False")
    assert all(word in printed for word in words)
    assert "memory/tmaze" not in printed
    assert main(["envs", "memory/tmaze"]) == 0
    printed = capsys.readouterr().out
    assert "corridor_length=40  curriculum=False  pixels=False" in printed
    assert "symbols" not in printed
    for name, words in (
        ("Breakout", "the nearest is atari/Breakout"),
        ("atary", "the nearest are atari, "),
        ("procgen-61", "the nearest are procgen-16, "),
        ("nonsense", "the suites are memory"),
    ):
        assert main(["envs", name]) == 2
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1


def test_envs_all_tells_about_every_task(capsys: Capture) -> None:
    assert main(["envs"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cannot run here") == sum(suite.missing() is not None for suite in SUITES.values())
    first_words = [line.split()[0] for line in printed.splitlines() if line.strip()]
    assert {task.name for suite in SUITES.values() for task in suite.tasks} <= set(first_words)


def test_a_suite_that_cannot_run_here_says_what_to_install(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "popgym", None)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    for arguments in (["envs"], ["envs", "popgym"], ["envs", "popgym/AutoencodeEasy"], ["envs", "atari"]):
        assert main(arguments) == 0
        assert "pip install" in capsys.readouterr().out


def test_an_engine_that_is_there_and_cannot_be_imported_says_why(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "deepmind_lab.py").write_text("import dm_env_that_nobody_has\n")
    (tmp_path / "popgym.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    problems = engine_problems([SUITES["dmlab"], SUITES["popgym"], SUITES["memory"]])
    assert problems["memory"] is None
    reason = "cannot load its engine (ModuleNotFoundError: No module named 'dm_env_that_nobody_has'): with Python"
    assert reason in (problems["dmlab"] or "")
    assert problems["popgym"] == "the suite popgym cannot load its engine (exit code 3): pip install 'r2ac[popgym]'"
    assert main(["envs", "dmlab/language_select_located_object"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "cannot run: the suite dmlab cannot load its engine" in printed
    assert "instruction=True" in printed, "as r2ac train has it"
    # What wants to play says the same.
    with closing(make_vector("dmlab/lt_chasm", 1, 0)) as env, pytest.raises(MissingPackage, match=re.escape(reason)):
        env.reset()
    (tmp_path / "minigrid.py").write_text("import that_nobody_has\n")
    monkeypatch.delitem(sys.modules, "minigrid", raising=False)
    with pytest.raises(MissingPackage, match=r"minigrid cannot load its engine \(No module named 'that_nobody_has'\)"):
        make_vector("minigrid/MemoryS7", 1, 0)


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_told_without_the_engine_is_what_it_shows(suite: str) -> None:
    if SUITES[suite].missing() is not None:
        pytest.skip("the engine is not installed")
    for task in SUITES[suite].tasks[:7]:
        told = task.spaces()
        if told is not None:
            env = make_vector(task.name, 1, 0)
            space, actions = env.single_observation_space, env.single_action_space
            env.close()
            assert (told.shape, told.dtype, told.actions) == (space.shape, str(space.dtype), actions.n)
    assert (find_task(SUITES[suite].tasks[0].name).spaces() is None) == (suite in ("popgym", "gym"))


@pytest.mark.parametrize("suite", SUITES)
def test_a_page_tells_of_every_option_and_of_no_other(suite: str) -> None:
    page, common = (DOCS / "environments" / f"{suite}.md").read_text(), (DOCS / "environments.md").read_text()
    told = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)`", page)}
    shared = {field.name for field in fields(SuiteOptions)}
    assert told | shared == {field.name for field in fields(SUITES[suite].options)}
    assert all(f"`--{name.replace('_', '-')}`" in common for name in shared)
    assert f"(environments/{suite}.md)" in common


def test_every_page_is_linked_where_it_is() -> None:
    for page in (DOCS / "environments.md", *(DOCS / "environments").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"
