"""Output that cannot be shown neither ends nor fails a command."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.runs.loading import find_checkpoint
from r2ac.launch.runtime.output import SafeStream
from r2ac.learner.checkpoint import load_checkpoint
from tests.launch.conftest import tiny_arguments

PROGRAM = "import sys; from r2ac.launch.cli import main; sys.exit(main())"


def start(words: list[str], **settings: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, **settings)  # type: ignore[call-overload]


def gone() -> int:
    """The writing end of a pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(("opens", "said"), [(gone, b""), (full, b"standard output was lost: No space left on device")])
def test_a_training_whose_output_is_lost_learns_to_its_end(
    opens: Callable[[], int], said: bytes, tmp_path: Path
) -> None:
    output = opens()
    done = start(tiny_arguments(tmp_path / "run", {}), stdout=output)
    os.close(output)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == (b"r2ac: " + said if said else b"")
    assert load_checkpoint(find_checkpoint(tmp_path / "run")).counters["env_steps"] == 2000


def test_a_list_that_nobody_reads_to_its_end_is_no_error() -> None:
    output = gone()
    done = start(["envs"], stdout=output)
    os.close(output)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_terminal_cannot_show_is_replaced() -> None:
    done = start(["envs"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii").startswith("memory")


def test_a_stream_that_was_closed_before_the_start_takes_everything() -> None:
    stream = SafeStream(None)
    assert stream.write("words") == 5
    stream.flush()
    assert stream.failure is None


def test_a_stream_that_is_closed_later_says_so_once() -> None:
    reading, writing = os.pipe()
    file = os.fdopen(writing, "w")
    stream = SafeStream(file)
    os.close(reading)
    for _ in range(3):
        stream.write("words")
        stream.flush()
    assert isinstance(stream.failure, BrokenPipeError)
    file.close()


def test_a_name_between_colons_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "runs/a:key:c"]) == 2
    assert "runs/a:key:c does not exist" in capsys.readouterr().err
