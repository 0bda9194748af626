"""The kernels for CPUs: a small C++ library, compiled at first use, that does each scan in one loop over the steps.

The functions have the arguments and results of their readable references (:mod:`r2ac.kernels.scan`,
:mod:`r2ac.kernels.sensitivity`), for float32 and float64 tensors on the CPU, and record no gradients. Their results do
not depend on the number of threads. They raise ValueError for tensors of another dtype, device or shape, and
RuntimeError where the library is missing: ask :func:`missing_reason` first.

The library is kept in the folder r2ac below XDG_CACHE_HOME (or ~/.cache); its name is a hash of its source, compiler,
flags and processor. The compiler is CXX, or else the first of c++, g++ and clang++.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from r2ac.kernels import sensitivity
from r2ac.kernels.cells.elstm import GATES
from r2ac.kernels.scan import ReverseScan

# Without -ffast-math: NaN and infinity must pass. The two -fno flags give up nothing but errno and exception flags.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")
COMPILE_SECONDS = 120
# Below so many numbers a second thread costs more than it saves.
GRAIN = 2**14
TYPES = {torch.float32: "float", torch.float64: "double"}
# Number of arrays and of sizes that each function of native.cpp takes; the number of threads follows.
SIGNATURES = {
    "elstm_forward": (6, 3),
    "elstm_backward": (14, 3),
    "backward_scan": (3, 2),
    "sensitivity_pass": (8, 5),
    "vector_pass": (7, 3),
}


class _Missing(Exception):
    """Why there is no library."""


def missing_reason() -> str | None:
    """Why the library is not there, in one sentence; None where it is. The first call may compile it: some seconds."""
    found = _library()
    return found if isinstance(found, str) else None


def elstm_forward(
    projection: Tensor, recurrent_weight: Tensor, bias: Tensor, state: Tensor, is_first: Tensor
) -> Tensor:
    """The eLSTM's states, [T, B, N]: see :func:`r2ac.kernels.scan.forward_scan`."""
    rollout = _rollout(projection, recurrent_weight, bias, state, is_first)
    steps, batch, _, units = projection.shape
    states = projection.new_empty(steps, batch, units)
    _call("elstm_forward", (*rollout, states), (steps, batch, units), work=states.numel())
    return states


def elstm_backward(
    direct: Tensor,
    projection: Tensor,
    recurrent_weight: Tensor,
    bias: Tensor,
    states: Tensor,
    state: Tensor,
    is_first: Tensor,
    jump: bool,
) -> ReverseScan:
    """All that gradient and sensitivities need of the rollout: see :func:`r2ac.kernels.scan.reverse_scan`."""
    projection, recurrent_weight, bias, state, is_first = _rollout(projection, recurrent_weight, bias, state, is_first)
    steps, batch, gates, units = projection.shape
    direct = _ready("direct", direct, (steps, batch, units), projection.dtype)
    states = _ready("states", states, (steps, batch, units), projection.dtype)
    new = projection.new_empty
    scan = ReverseScan(
        by_projection=torch.empty_like(projection),
        by_vectors=new(2 * gates, units),
        boundary=new(batch, units),
        decay=new(batch, units) if jump else new(0),
        weighted=torch.empty_like(projection) if jump else new(0),
        gained=new(batch, 2 * gates, units) if jump else new(0),
    )
    by_stream = new(batch, 2 * gates, units)
    given = direct, projection, recurrent_weight, bias, states, state, is_first
    results = scan.by_projection, scan.by_vectors, by_stream, scan.boundary
    of_jump = (scan.decay, scan.weighted, scan.gained) if jump else (None, None, None)
    _call("elstm_backward", (*given, *results, *of_jump), (steps, batch, units), work=states.numel())
    return scan


def backward_scan(direct: Tensor, jacobian: Tensor) -> Tensor:
    """d_t = e_t + a_{t+1} d_{t+1} for tensors [T, ...]: see :func:`r2ac.kernels.scan.backward_scan`."""
    _check_type(direct)
    if direct.dim() < 1 or direct.shape[0] < 1:
        raise ValueError(f"direct must be [T >= 1, ...], not {list(direct.shape)}")
    jacobian = _ready("jacobian", jacobian, direct.shape, direct.dtype)
    direct = direct.contiguous()
    total = torch.empty_like(direct)
    steps = direct.shape[0]
    _call("backward_scan", (direct, jacobian, total), (steps, direct.numel() // steps), work=direct.numel())
    return total


def sensitivity_pass_(
    matrix: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, weighted: Tensor, inputs: Tensor
) -> Tensor:
    """Boundary contraction and jump, in place: see :func:`r2ac.kernels.sensitivity.sensitivity_pass_`.

    ``matrix`` must be contiguous. One that is stored in bfloat16 takes the readable form.
    """
    if matrix.dtype == torch.bfloat16:
        return sensitivity.sensitivity_pass_(matrix, streams, fresh, boundary, decay, weighted, inputs)
    if weighted.dim() != 4 or inputs.dim() != 3:
        shapes = f"{list(weighted.shape)} and {list(inputs.shape)}"
        raise ValueError(f"weighted and inputs must be [T, B, K, N] and [T, B, D], not {shapes}")
    _check_type(inputs)
    steps, batch, gates, units = weighted.shape
    width, dtype = inputs.shape[-1], inputs.dtype
    if not matrix.is_contiguous():
        raise ValueError("matrix is changed in place and must be contiguous")
    _ready("matrix", matrix, (matrix.shape[:1] or (0,)) + (gates, units, width), dtype)
    weighted = _ready("weighted", weighted, weighted.shape, dtype)
    inputs = _ready("inputs", inputs, (steps, batch, width), dtype)
    boundary = _ready("boundary", boundary, (batch, units), dtype)
    decay = _ready("decay", decay, (batch, units), dtype)
    streams, keeps = _rows(streams, len(matrix), batch), ~_ready("fresh", fresh, (batch,), torch.bool)
    term = inputs.new_zeros(gates, units, width)
    given = streams, keeps, boundary, decay, weighted, inputs
    _call("sensitivity_pass", (matrix, term, *given), (steps, batch, gates, units, width), work=batch * term.numel())
    return term


def vector_pass_(
    vectors: Tensor, streams: Tensor, fresh: Tensor, boundary: Tensor, decay: Tensor, gained: Tensor
) -> Tensor:
    """The same for the vectors, in place: see :func:`r2ac.kernels.sensitivity.vector_pass_`."""
    if gained.dim() != 3:
        raise ValueError(f"gained must be [B, L + K, N], not {list(gained.shape)}")
    _check_type(gained)
    batch, rows, units = gained.shape
    dtype = gained.dtype
    gained = gained.contiguous()
    if not vectors.is_contiguous():
        raise ValueError("vectors is changed in place and must be contiguous")
    _ready("vectors", vectors, (vectors.shape[:1] or (0,)) + (rows, units), dtype)
    boundary = _ready("boundary", boundary, (batch, units), dtype)
    decay = _ready("decay", decay, (batch, units), dtype)
    streams, keeps = _rows(streams, len(vectors), batch), ~_ready("fresh", fresh, (batch,), torch.bool)
    term = gained.new_empty(rows, units)
    given = streams, keeps, boundary, decay, gained
    _call("vector_pass", (vectors, term, *given), (batch, rows, units), work=0)
    return term


def _rows(streams: Tensor, count: int, batch: int) -> Tensor:
    """The same, if these are different rows of ``count``."""
    streams = _ready("streams", streams, (batch,), torch.int64)
    rows = streams.tolist()
    if len({*rows}) < batch or not all(0 <= row < count for row in rows):
        raise ValueError(f"streams must be different rows of the {count} that are kept, not {rows}")
    return streams


def _rollout(
    projection: Tensor, recurrent_weight: Tensor, bias: Tensor, state: Tensor, is_first: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same, checked and contiguous."""
    _check_type(projection)
    if projection.dim() != 4 or projection.shape[0] < 1 or projection.shape[2] != GATES:
        raise ValueError(f"projection must be [T >= 1, B, {GATES}, N], not {list(projection.shape)}")
    steps, batch, gates, units = projection.shape
    dtype = projection.dtype
    return (
        projection.contiguous(),
        _ready("recurrent_weight", recurrent_weight, (gates, units), dtype),
        _ready("bias", bias, (gates, units), dtype),
        _ready("state", state, (batch, units), dtype),
        _ready("is_first", is_first, (steps, batch), torch.bool),
    )


def _check_type(tensor: Tensor) -> None:
    if tensor.dtype not in TYPES or not tensor.is_cpu:
        raise ValueError(f"float32 or float64 on the CPU is needed, not {tensor.dtype} on {tensor.device}")


def _ready(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor, contiguous, if C++ may take its address."""
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
        raise ValueError(
            f"{name} must be {dtype} {list(shape)} on the CPU, "
            f"not {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        )
    return tensor.contiguous()


def _call(name: str, arrays: Sequence[Tensor | None], sizes: Sequence[int], work: int) -> None:
    """Call a function of native.cpp for the dtype of the first array; None is given as a null pointer."""
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(f"no native kernels: {library}")
    assert arrays[0] is not None
    pointers = [None if array is None else array.data_ptr() for array in arrays]
    threads = torch.get_num_threads() if work > GRAIN else 1
    getattr(library, f"{name}_{TYPES[arrays[0].dtype]}")(*pointers, *sizes, threads)


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    try:
        library = _load()
    except (_Missing, OSError) as error:
        return str(error)
    for name, (arrays, sizes) in SIGNATURES.items():
        for suffix in TYPES.values():
            function = getattr(library, f"{name}_{suffix}")
            function.argtypes = [ctypes.c_void_p] * arrays + [ctypes.c_int64] * sizes + [ctypes.c_int]
            function.restype = None
    return library


def _load() -> ctypes.CDLL:
    """From the cache, or else compiled and, where that can be written, put there."""
    source = Path(__file__).with_suffix(".cpp")
    compiler = _compiler()
    made_from = source.read_text(), *FLAGS, *_openmp(), _version(compiler), _processor()
    name = f"native-{hashlib.sha256('|'.join(made_from).encode()).hexdigest()[:32]}.so"
    with contextlib.suppress(OSError, RuntimeError):
        library = _open_sealed(_cache_folder() / name)
        if library is not None:
            return library
    code = _compile(compiler, source)
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


def _compile(compiler: list[str], source: Path) -> bytes:
    """The shared library; with one thread where the compiler has no OpenMP."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "native.so"
        for openmp in (_openmp(), ["-fopenmp-simd"]):
            done = _run([*compiler, *FLAGS, str(source), "-o", str(output), *openmp])
            if done.returncode == 0:
                return output.read_bytes()
    raise _Missing(f"{shlex.join(compiler)} cannot compile {source.name}: {done.stderr.strip() or done.returncode}")


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
