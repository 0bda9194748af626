"""Small runs that several tests of this folder share."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.cluster.connect import connect

TINY = {
    "--algorithm": "vtrace",
    "--num-actors": "0",
    "--streams-per-actor": "8",
    "--batch-size": "8",
    "--rollout-length": "5",
    "--hidden-size": "8",
    "--corridor-length": "4",
    "--total-steps": "2000",
    "--log-steps": "200",
}


def tiny_arguments(run: Path, flags: dict[str, object]) -> list[str]:
    """The command line of a training that takes a fraction of a second, with ``flags`` instead of its own; those with
    None stand without a value."""
    chosen: dict[str, object] = {**TINY, "--run-dir": run, **flags}
    return ["train", "memory/tmaze", *(str(word) for pair in chosen.items() for word in pair if word is not None)]


# Ray reads these once in a process, whoever imports it or starts a cluster there first; so they hold for all tests.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray for all that the tests of a file start in this process."""
    connection = connect("local", num_actors=4)
    yield
    connection.close()


@pytest.fixture(scope="session")
def train_tiny() -> Callable[..., Path]:
    """train_tiny(run, {"--seed": 2}, …) trains memory/tmaze in this process and returns ``run``."""

    def train(run: Path, flags: dict[str, object] | None = None, *switches: str) -> Path:
        assert main([*tiny_arguments(run, flags or {}), *switches]) == 0
        return run

    return train


@pytest.fixture
def start_tiny() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """start_tiny(run, flags) starts the same training as a process of its own, in a process group of its own. What
    still runs when the test ends is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(run: Path, flags: dict[str, object] | None = None) -> "subprocess.Popen[str]":
        program = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, *tiny_arguments(run, flags or {})]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture(scope="session")
def finished_run(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; a test that changes it takes a copy."""
    return train_tiny(tmp_path_factory.mktemp("finished") / "run")
