"""What every test shares: one thread a process (the tensors are small), and a seed."""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

try:
    import hypothesis
except ImportError:
    # A GPU machine may have torch, triton and pytest alone; tests that draw examples are then left out.
    hypothesis = None

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Triton asks for it when it is imported: without a GPU its kernels are interpreted, on CPU tensors.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# What a shell runs in the background ignores Ctrl-C, and so does all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

if hypothesis is not None:
    hypothesis.settings.register_profile("r2ac", deadline=None, derandomize=True, max_examples=25)
    hypothesis.settings.load_profile("r2ac")


def pytest_configure(config: pytest.Config) -> None:
    """Ray's token is made before xdist's workers begin: those that start Ray at once would each make one."""
    token = Path.home() / ".ray" / "auth_token"
    if not hasattr(config, "workerinput") and not token.exists() and find_spec("ray") is not None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
