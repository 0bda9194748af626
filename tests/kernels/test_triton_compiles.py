"""Every Triton kernel compiles for Ampere and Hopper without a GPU, and keeps its values in registers.

Run as a program, this file prints what each kernel takes: ``python tests/kernels/test_triton_compiles.py``.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FLOATS, HALVES, ROWS, BOOLS, SIZE = "*fp32", "*bf16", "*i64", "*i1", "i32"


@dataclass(frozen=True)
class Case:
    """A kernel as its launcher calls it: the types of its arguments in their order, the constants after them."""

    kernel: str
    arguments: tuple[str, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=lambda: {"num_warps": 1})


def a_pass(steps: int, parts: int = 1, precision: str = "tf32x3", stored: str = FLOATS) -> Case:
    """Over the sensitivities of 32 streams, 2 gates, 512 units and 257 inputs, as its launcher cuts it."""
    from r2ac.kernels.triton_sensitivity import pass_constants, tiles

    cut = tiles(32, 2 * 512, 257, steps, parts)
    return Case(
        "_pass_kernel",
        (stored, ROWS, BOOLS, *[FLOATS] * 5, *[SIZE] * 3),
        pass_constants(2, 512, 257, parts, cut, precision),
        {"num_warps": cut.warps, "num_stages": cut.stages},
    )


CASES = {
    "r2ac.kernels.triton_scan": [
        Case("_forward_kernel", (*[FLOATS] * 4, BOOLS, FLOATS, *[SIZE] * 3), {"BLOCK": 32}),
        Case("_backward_kernel", (*[FLOATS] * 6, BOOLS, *[FLOATS] * 6, *[SIZE] * 3), {"JUMP": True, "BLOCK": 32}),
        Case("_backward_kernel", (*[FLOATS] * 6, BOOLS, *[FLOATS] * 6, *[SIZE] * 3), {"JUMP": False, "BLOCK": 32}),
        Case("_scan_kernel", (*[FLOATS] * 3, *[SIZE] * 2), {"BLOCK": 32}),
    ],
    "r2ac.kernels.triton_sensitivity": [
        *(a_pass(steps, parts) for parts in (1, 2) for steps in (10, 100)),
        *(a_pass(steps, stored=HALVES) for steps in (10, 100)),
        *(a_pass(100, parts, precision="tf32") for parts in (1, 2)),
        Case(
            "_vector_kernel",
            (*[FLOATS] * 2, ROWS, BOOLS, *[FLOATS] * 4, *[SIZE] * 3),
            {"LINE": 32},
            {"num_warps": 4},
        ),
    ]
    if find_spec("triton")
    else [],
}
CAPABILITIES = {80: "Ampere", 90: "Hopper"}
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""What one program may have, in bytes."""

COLUMNS = ("kernel", "constants", "sm", "registers", "stack", "local", "shared")


def compile_all() -> Iterator[tuple[str, ...]]:
    """One row of ``COLUMNS`` for each case and capability. Not in a process that interprets Triton."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for module, cases in CASES.items():
        for case in cases:
            kernel = getattr(importlib.import_module(module), case.kernel)
            constants = ["constexpr"] * len(case.constants)
            source = ASTSource(
                kernel,
                dict(zip(kernel.arg_names, (*case.arguments, *constants), strict=True)),
                case.constants,
                # PyTorch aligns what it allocates.
                {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(case.arguments) if kind.startswith("*")},
            )
            for capability in CAPABILITIES:
                compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=case.options)
                with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                    file.write(compiled.asm["cubin"])
                    file.flush()
                    usage = subprocess.check_output([cuobjdump, "-res-usage", file.name], text=True)
                found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
                values = " ".join(f"{name}={value}" for name, value in case.constants.items())
                yield (
                    *(f"{module.rpartition('.')[2]}.{case.kernel}", values, str(capability)),
                    *(found["REG"], found["STACK"], found["LOCAL"], str(compiled.metadata.shared)),
                )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Compiled in a process of its own: this one may interpret Triton, and then cannot."""
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        pytest.skip("Triton has no build for this machine")
    if not (Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip("this build of Triton comes without NVIDIA's tools")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in run.stdout.splitlines()[1:]]


def test_every_kernel_compiles(rows: list[dict[str, str]]) -> None:
    assert len(rows) == len(CAPABILITIES) * sum(map(len, CASES.values()))


def test_no_kernel_spills(rows: list[dict[str, str]]) -> None:
    assert [row for row in rows if row["stack"] != "0" or row["local"] != "0"] == []


def test_a_program_fits_into_shared_memory(rows: list[dict[str, str]]) -> None:
    assert [row for row in rows if int(row["shared"]) > SHARED_MEMORY[int(row["sm"])]] == []


def test_the_table_names_every_kernel() -> None:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    folder = Path(str(importlib.import_module("r2ac.kernels").__file__)).parent
    modules = [f"r2ac.kernels.{path.stem}" for path in sorted(folder.glob("triton_*.py"))]
    assert modules == sorted(CASES)
    for module in modules:
        found = {name for name in vars(importlib.import_module(module)) if name.endswith("_kernel")}
        assert found == {case.kernel for case in CASES[module]}


if __name__ == "__main__":
    for row in (COLUMNS, *compile_all()):
        print(*row, sep="\t", flush=True)
