"""The compiled library of the native kernels, one for each dtype, of which a training needs float32 alone.

It is kept in the folder r2ac below XDG_CACHE_HOME (or ~/.cache); its name is a hash of its sources, compiler, flags and
processor. The compiler is CXX, or else the first of c++, g++ and clang++.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

_LOG = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("native.cpp")
# Without -ffast-math: NaN and infinity must pass. The two -fno flags give up nothing but errno and exception flags.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")
COMPILE_SECONDS = 120
TYPES = {torch.float32: "float", torch.float64: "double"}
CELLS_WITH_SCANS = ("elstm", "lru", "mingru", "rotation")
"""The cells of native_cells.h."""
# Number of arrays and of sizes that each function of native.cpp takes; the number of threads follows.
SIGNATURES = {
    **{f"{cell}_forward": (6, 3) for cell in CELLS_WITH_SCANS},
    **{f"{cell}_backward": (14, 3) for cell in CELLS_WITH_SCANS},
    "backward_scan": (3, 2),
    "linear_forward": (5, 6),
    "linear_reverse": (12, 9),
    "sensitivity_pass": (8, 6),
    "vector_pass": (7, 4),
    "agent_forward": (11, 9),
    "agent_act": (13, 8),
    "agent_backward": (10, 10),
    "vtrace": (8, 2),
    "vtrace_losses": (11, 3),
    "actor_critic_losses": (11, 2),
    "observe_vectors": (4, 2),
    "observe_returns": (7, 1),
    "online_learn": (19, 9),
}


class _Missing(Exception):
    """Why there is no library."""


def missing_reason(dtype: torch.dtype = torch.float32) -> str | None:
    """Why the library for a dtype is not there, in one sentence; None where it is. The first call may compile it: some
    seconds."""
    found = functions(dtype)
    return found if isinstance(found, str) else None


@functools.cache
def functions(dtype: torch.dtype) -> dict[str, Callable[..., None]] | str:
    """The functions of the library for a dtype by their names, or why there are none."""
    try:
        library = _load(f"-DREAL={TYPES[dtype]}")
    except (_Missing, OSError) as error:
        return str(error)
    found: dict[str, Callable[..., None]] = {}
    for name, (arrays, sizes) in SIGNATURES.items():
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arrays, *[ctypes.c_int64] * sizes, ctypes.c_int)
        address = ctypes.c_void_p.in_dll(library, f"{name}_address").value
        assert address is not None
        found[name] = function(address)
    return found


def _load(precision: str) -> ctypes.CDLL:
    """The library of one precision from the cache, or else compiled and, where that can be written, put there."""
    compiler = _compiler()
    sources = (path.read_text() for path in sorted(SOURCE.parent.glob("native*")) if path.suffix in (".cpp", ".h"))
    made_from = *sources, *FLAGS, precision, *_openmp(), _version(compiler), _processor()
    name = f"native-{hashlib.sha256('|'.join(made_from).encode()).hexdigest()[:32]}.so"
    with contextlib.suppress(OSError, RuntimeError):
        library = _open_sealed(_cache_folder() / name)
        if library is not None:
            return library
    _LOG.info("compiling the C++ kernels for this machine, once: half a minute or so")
    code = _compile(compiler, precision)
    with contextlib.suppress(OSError, RuntimeError):
        _store(_cache_folder() / name, code + hashlib.sha256(code).digest())
        return ctypes.CDLL(str(_cache_folder() / name))
    # Once loaded, the file may go.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(code)
        return ctypes.CDLL(str(Path(folder) / name))


def _open_sealed(path: Path) -> ctypes.CDLL | None:
    """The library of a file that ends with its own hash: to load one cut short would kill the process."""
    content = path.read_bytes()
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[:-size]).digest() != content[-size:]:
        return None
    return ctypes.CDLL(str(path))


def _store(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and then rename it: many processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _compile(compiler: list[str], precision: str) -> bytes:
    """The shared library; with one thread where the compiler has no OpenMP."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "native.so"
        for openmp in (_openmp(), ["-fopenmp-simd"]):
            done = _run([*compiler, *FLAGS, precision, str(SOURCE), "-o", str(output), *openmp])
            if done.returncode == 0:
                return output.read_bytes()
    raise _Missing(f"{shlex.join(compiler)} cannot compile {SOURCE.name}: {done.stderr.strip() or done.returncode}")


def _openmp() -> list[str]:
    """PyTorch's own OpenMP runtime, where it brings one: threads of a second one would fight for the cores."""
    package = Path(torch.__file__).parent
    bundled = sorted([*package.glob("lib/libgomp*.so*"), *package.with_name("torch.libs").glob("libgomp*.so*")])
    return ["-fopenmp", "-Wl,--as-needed", *map(str, bundled[:1])]


def _compiler() -> list[str]:
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise _Missing("there is no C++ compiler (CXX, c++, g++, clang++)")


def _version(compiler: list[str]) -> str:
    done = _run([*compiler, "--version"])
    if done.returncode != 0:
        raise _Missing(f"{shlex.join(compiler)} --version: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=COMPILE_SECONDS
        )
    except (OSError, IndexError, subprocess.TimeoutExpired) as error:
        raise _Missing(f"{shlex.join(command[:1])} cannot be run: {error}") from error


def _processor() -> str:
    """What the processor can do: a home folder may be shared by unlike machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _cache_folder() -> Path:
    """Raises RuntimeError where there is no home folder."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "r2ac"
