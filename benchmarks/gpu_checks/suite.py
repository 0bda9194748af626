"""The repository's own tests that run on a GPU, as far as what they import is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from gpu_checks.session import Session

ROOT = Path(__file__).parents[2]
FILES = {
    "tests/test_devices.py": (),
    "tests/kernels/test_triton_scan.py": ("hypothesis",),
    "tests/kernels/test_triton_sensitivity.py": ("hypothesis",),
    "tests/kernels/test_operators.py": (),
    "tests/test_memory.py": (),
    "tests/learner": ("hypothesis", "safetensors"),
}
"""The tests, those first that ask the most of a GPU; the packages that they need beside torch, triton and pytest."""


def run_suite(session: Session) -> None:
    """The tests one after another, in the time that is left."""
    if find_spec("pytest") is None:
        session.note("pytest is not installed: the repository's tests are left out")
        return
    if session.quick:
        session.note("the repository's tests are left out of a quick check")
        return
    for name, packages in session.each(FILES):
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            session.note(f"{name} is left out: {', '.join(missing)} is not installed")
            continue
        with session.case(name):
            _run_file(session, name)


def _run_file(session: Session, name: str) -> None:
    # As mypy sees the package: r2ac need not be installed.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".mypy")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", name]
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=max(1, session.left()),
            check=False,
        )
    except subprocess.TimeoutExpired:
        session.note(f"{name}: not at its end when the time was up")
        session.record(name, "out of time")
        return
    lines = (ended.stdout + ended.stderr).splitlines()
    session.expect(f"{name}: {lines[-1] if lines else 'no output'}", ended.returncode == 0)
    session.record(name, lines[-40:])
    if ended.returncode:
        print("\n".join(lines[-40:]), flush=True)
