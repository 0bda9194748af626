"""Whether the engines of suites can be imported here, found out by importing them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from r2ac.envs.suite import Suite, cannot_load

_PROGRAM = "import sys; from r2ac.envs import SUITES; SUITES[sys.argv[1]].load()"
_SECONDS = 120


def engine_problems(suites: Sequence[Suite]) -> dict[str, str | None]:
    """Why each suite cannot run here and what to do about it, by the suite's name; None where it can. Installed engines
    are imported in processes of their own, all at the same time, since an import may fail in any way."""
    problems = {suite.name: suite.missing() for suite in suites}
    # The modules that this process finds.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
    installed = [suite for suite in suites if suite.remedy and problems[suite.name] is None]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, suite.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for suite in installed
    ]
    for suite, process in zip(installed, processes, strict=True):
        if (reason := _failure(process)) is not None:
            problems[suite.name] = cannot_load(suite.name, reason, suite.remedy)
    return problems


def _failure(process: subprocess.Popen[str]) -> str | None:
    """Waits for the process; the last thing that it said, None where it ended well."""
    try:
        _, said = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"its import took longer than {_SECONDS} s"
    lines = said.strip().splitlines()
    return None if process.returncode == 0 else lines[-1] if lines else f"exit code {process.returncode}"
