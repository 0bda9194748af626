"""The wheel that is made of the running package, and its command line without a console script."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

from r2ac.launch.cluster.jobs.wheel import build_wheel

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a node of a cluster sees it."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build_wheel(folder)) as wheel:
        wheel.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = build_wheel(tmp_path), build_wheel(tmp_path / "again")
    assert first.name == second.name == f"r2ac-{version('r2ac')}-py3-none-any.whl"
    assert first.read_bytes() == second.read_bytes()


def test_it_holds_every_module_and_what_lies_beside_them(unpacked: Path) -> None:
    for folder in ("agents", "envs", "kernels", "launch", "learner"):
        there = {path.relative_to(unpacked / "r2ac").as_posix() for path in (unpacked / "r2ac" / folder).rglob("*.*")}
        here = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.*")}
        assert {name for name in here if "__pycache__" not in name} == there
    assert not list(unpacked.rglob("*.pyc"))


def test_it_describes_itself_as_wheels_do(unpacked: Path) -> None:
    [found] = [each for each in distribution("r2ac").discover(path=[str(unpacked)]) if each.name == "r2ac"]
    assert found.version == version("r2ac")
    assert {entry.name for entry in found.entry_points} == {"r2ac"}
    files = found.files
    assert files is not None
    for file in files:
        content = file.read_binary()
        if file.hash is not None:
            assert file.size == len(content)
    assert {str(file) for file in files} == {
        path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()
    }


def run_python(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


def test_an_installed_wheel_can_be_sent_on(unpacked: Path, tmp_path: Path) -> None:
    """Without a checkout, and though another r2ac is installed behind it."""
    program = "import pathlib, sys; from r2ac.launch.cluster.jobs.wheel import build_wheel; "
    program += "build_wheel(pathlib.Path(sys.argv[1])); print(build_wheel.__code__.co_filename)"
    done = run_python(unpacked, "-c", program, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(unpacked)
    [wheel] = tmp_path.iterdir()
    assert wheel.read_bytes() == (unpacked.parent / wheel.name).read_bytes()


def test_an_interpreter_without_the_dependencies_is_named(unpacked: Path) -> None:
    done = run_python(unpacked, "-S", "-m", "r2ac.launch", "--help")
    assert done.returncode == 1
    assert done.stderr.startswith(f"r2ac: {sys.executable} lacks the module ")
    assert "Traceback" not in done.stderr
