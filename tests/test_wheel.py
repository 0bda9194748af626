"""The package as others get it: built, installed away from the checkout, and used."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PLACES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
"""The folders of the checkout by the package that each is."""


def call(*words: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def build(kind: str, source: Path, to: Path) -> Path:
    """An sdist or a wheel, by the backend that pyproject.toml names."""
    to.mkdir()
    call(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_{kind}({str(to)!r})", cwd=source)
    (built,) = to.iterdir()
    return built


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_trains_evaluates_and_plots_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in PLACES.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    with tarfile.open(build("sdist", source, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = build("wheel", unpacked, tmp_path / "wheel")
    for package, folder in PLACES.items():
        files = [path.relative_to(source / folder) for path in (source / folder).rglob("*.*")]
        missing = {package.replace(".", "/") + "/" + path.as_posix() for path in files} - {*ZipFile(wheel).namelist()}
        assert missing == set()

    venv, place = tmp_path / "venv", tmp_path / "elsewhere"
    place.mkdir()
    call(sys.executable, "-m", "venv", venv, cwd=place)
    install = (venv / "bin/pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    # As docs/install.md says.
    call(*install, *re.findall("^torch==.*", (ROOT / "constraints.txt").read_text(), re.MULTILINE), cwd=place)
    call(*install, f"{wheel}[atari,procgen]", cwd=place)
    if sys.version_info < (3, 13):
        call(*install, "--no-deps", "procgen-mirror==0.10.7", "gym3==0.3.3", cwd=place)
    at = call(venv / "bin/python", "-c", "import r2ac.kernels; print(r2ac.kernels.__file__)", cwd=place)
    assert Path(at.strip()).is_relative_to(venv)

    r2ac = venv / "bin/r2ac"
    for game in ("atari/Breakout", "procgen/maze"):
        flags = "--num-actors 0 --encoder nature --rollout-length 5 --total-steps 400 --run-dir"
        call(r2ac, "train", game, *flags.split(), game.partition("/")[0], cwd=place)
    call(r2ac, "train", "memory/tmaze", "--total-steps", "6400", "--run-dir", "run", cwd=place)
    call(r2ac, "evaluate", "run", "--episodes", "4", "--workers", "0", cwd=place)
    call(r2ac, "plot", "run", "--output", "curves.png", cwd=place)
    assert (place / "curves.png").stat().st_size > 0
    native = "from r2ac.kernels.native_library import missing_reason; print(missing_reason())"
    assert call(venv / "bin/python", "-c", native, cwd=place) == call(sys.executable, "-c", native, cwd=place)
