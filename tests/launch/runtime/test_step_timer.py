"""What ends a process that does not come back."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, time
from r2ac.launch.runtime.step_timer import StepTimer

def stuck():
    {stuck}

timer = StepTimer({seconds})
for _ in range(3):
    with timer:
        pass
time.sleep({seconds} * 2)
print("none too early", flush=True)
with timer:
    stuck()
"""


# The second keeps Python's lock, as an engine written in C may.
@pytest.mark.parametrize("stuck", ["time.sleep(600)", "ctypes.PyDLL(None).sleep(600)"])
def test_what_takes_too_long_ends_the_process_and_says_where(stuck: str) -> None:
    program = PROGRAM.format(stuck=stuck, seconds=0.3)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGALRM
    assert ended.stdout == "none too early\n"
    assert "in stuck" in ended.stderr


def test_without_a_limit_nothing_is_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(stuck="pass", seconds=0)], timeout=120)
    assert ended.returncode == 0
