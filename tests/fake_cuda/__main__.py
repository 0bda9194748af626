"""Runs tests on a CUDA device that does nothing: python -m tests.fake_cuda [arguments for pytest].

They are those in the files named *_on_fake_cuda.py. Their tensors are FakeTensors, which have a shape, a dtype and a
device but no numbers. What is loaded for them stays in the process, so that this is a process of its own.
"""

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent


def build(folder: Path) -> Path:
    """Compile fake_cuda.cpp against this Python's PyTorch, which is not imported."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    root = Path(torch.origin).parent
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "c++")
    library = folder / "libfake_cuda.so"
    paths = f"-I{root / 'include'}", f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}"
    flags = "-std=c++20", "-shared", "-fPIC", str(FOLDER / "fake_cuda.cpp"), "-lc10", "-ltorch_cpu", "-o", str(library)
    subprocess.run([*shlex.split(compiler), *paths, *flags], check=True)
    return library


def main() -> int:
    """The exit code of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(build(Path(folder))))
    import pytest
    import torch  # noqa: F401, which may bring a guard of its own

    library.set_guard()
    files = sorted(map(str, FOLDER.parent.rglob("*_on_fake_cuda.py")))
    return pytest.main(["-p", "tests.fake_cuda.fixtures", *files, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
