"""What runs on a GPU, on a CUDA device that does nothing: see tests/fake_cuda."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from r2ac.kernels.native_library import missing_reason


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: tests/test_devices.py runs updates on it")
def test_nothing_makes_the_host_wait_for_a_gpu() -> None:
    if reason := missing_reason():
        pytest.skip(f"fake_cuda.cpp cannot be compiled: {reason}")
    root = Path(__file__).parents[1]
    command = sys.executable, "-m", "tests.fake_cuda", "-p", "no:cacheprovider"
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
