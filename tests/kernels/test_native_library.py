"""How the library of the native kernels comes about: compiled once, kept, built anew where it is damaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from r2ac.kernels import native_library

REASON = native_library.missing_reason() or ""
# Not where there is a compiler that refuses our source.
pytestmark = pytest.mark.skipif(bool(REASON) and "cannot compile" not in REASON, reason=f"no native kernels: {REASON}")

PROBE = """
import torch
from r2ac.kernels import native
from r2ac.kernels.native_library import missing_reason
print(missing_reason() is None, missing_reason())
try:
    print(native.backward_scan(torch.ones(3), torch.ones(3)).tolist())
except RuntimeError as error:
    print(error)
"""
WORKS = "True None\n[3.0, 2.0, 1.0]\n"


def start(**environment: object) -> subprocess.Popen[str]:
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-c", PROBE]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def outputs(*processes: subprocess.Popen[str]) -> list[str]:
    """What each printed; on standard error there must be nothing."""
    both = [process.communicate(timeout=120) for process in processes]
    assert [errors for _, errors in both] == [""] * len(both)
    return [printed for printed, _ in both]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that two processes filled at once."""
    folder = tmp_path_factory.mktemp("cache")
    assert outputs(*(start(XDG_CACHE_HOME=folder) for _ in range(2))) == [WORKS] * 2
    return folder / "r2ac"


def test_two_processes_may_compile_at_once(cache: Path) -> None:
    (library,) = cache.iterdir()
    assert library.suffix == ".so"


def test_a_cached_file_is_used_and_a_damaged_one_built_anew(cache: Path, tmp_path: Path) -> None:
    (library,) = cache.iterdir()
    whole = library.read_bytes()
    folders = [tmp_path / name / "r2ac" for name in ("whole", "short", "empty")]
    for folder, content in zip(folders, (whole, whole[: len(whole) // 2], b""), strict=True):
        folder.mkdir(parents=True)
        (folder / library.name).write_bytes(content)
    first = (folders[0] / library.name).stat().st_ino
    assert outputs(*(start(XDG_CACHE_HOME=folder.parent) for folder in folders)) == [WORKS] * 3
    assert (folders[0] / library.name).stat().st_ino == first
    for folder in folders:
        assert [path.name for path in folder.iterdir()] == [library.name]
        assert (folder / library.name).stat().st_size == len(whole)


def test_without_a_cache_folder_or_a_compiler(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unwritable, missing = outputs(start(XDG_CACHE_HOME=tmp_path / "file"), start(CXX="/nonexistent"))
    assert unwritable == WORKS
    assert missing.startswith("False /nonexistent cannot be run")
    assert missing.splitlines()[-1].startswith("no native kernels: /nonexistent cannot be run")
