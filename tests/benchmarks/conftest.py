"""The benchmarks' modules, which import one another by their bare names, as scripts do."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports one by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def run_benchmark(tmp_path: Path) -> Callable[..., str]:
    """Runs one on the CPU with small sizes, its files in ``tmp_path``, and tells what it printed."""
    return partial(_run_benchmark, tmp_path)


def _run_benchmark(output: Path, name: str, *arguments: str, before: str = "") -> str:
    """``before`` is Python that runs first."""
    path = str(FOLDER / f"{name}.py")
    argv = [path, "--quick", "--device", "cpu", "--threads", "1", "--output-dir", str(output), *arguments]
    code = f"{before}\nimport runpy, sys\nsys.path.insert(0, {str(FOLDER)!r})\nsys.argv = {argv!r}\n"
    command = [sys.executable, "-c", code + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=output)
    assert result.returncode == 0, result.stderr
    return result.stdout
