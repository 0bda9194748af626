"""Every Triton kernel compiles for Ampere, Hopper and Blackwell without a GPU, keeps its values in registers, and takes
no more instructions than it did.

Run as a program, this file prints what each kernel takes: ``python tests/kernels/test_triton_compiles.py``, in any
environment with torch and a Triton of 3.6 or later.
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
import torch

FLOATS, HALVES, ROWS, BOOLS, SIZE = "*fp32", "*bf16", "*i64", "*i1", "i32"


@dataclass(frozen=True)
class Case:
    """A kernel as its launcher calls it: the types of its arguments in their order, the constants after them."""

    kernel: str
    arguments: tuple[str, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=lambda: {"num_warps": 1})
    steps: int = 0
    """T of a pass."""
    instructions: dict[int, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    """By capability, of visits of a whole tile and of the last columns: with Triton 3.6, and with later ones."""

    def capabilities(self) -> tuple[int, ...]:
        return tuple(self.instructions) or (80, 90, 120)


def a_pass(
    steps: int,
    instructions: dict[int, tuple[tuple[int, int], tuple[int, int]]],
    parts: int = 1,
    precision: str = "tf32x3",
    stored: str = FLOATS,
) -> Case:
    """Over the sensitivities of 32 streams, 2 gates, 512 units and 257 inputs, as they are stored and cut on a GPU."""
    from r2ac.kernels.sensitivity import row_stride
    from r2ac.kernels.triton_sensitivity import pass_constants, tiles

    cut = tiles(32, 2 * 512, 257, steps, parts)
    return Case(
        "_pass_kernel",
        (stored, ROWS, BOOLS, *[FLOATS] * 5, *[SIZE] * 3),
        pass_constants(2, 512, 257, row_stride(257, torch.device("cuda")), parts, cut, precision),
        {"num_warps": cut.warps, "num_stages": cut.stages},
        steps,
        instructions,
    )


def a_reverse_scan(parts: int, gates: int, own: int, jump: bool) -> Case:
    from r2ac.kernels.triton_linear import reverse_constants

    arguments = *[FLOATS] * 4, BOOLS, *[FLOATS] * 6, *[SIZE] * 6
    return Case("_reverse_kernel", arguments, reverse_constants(parts, gates, own, jump))


CASES = {
    "r2ac.kernels.triton_linear": [
        *[
            Case(
                "_forward_kernel",
                (*[FLOATS] * 3, BOOLS, FLOATS, *[SIZE] * 4),
                {"PARTS": parts, "SQUASHED": parts == 2, "BLOCK": 32},
            )
            for parts in (1, 2)
        ],
        a_reverse_scan(1, 2, 0, True),
        a_reverse_scan(1, 3, 1, False),
        a_reverse_scan(2, 4, 1, True),
    ]
    if find_spec("triton")
    else [],
    "r2ac.kernels.triton_scan": [
        Case("_forward_kernel", (*[FLOATS] * 4, BOOLS, FLOATS, *[SIZE] * 3), {"BLOCK": 32}),
        Case("_backward_kernel", (*[FLOATS] * 6, BOOLS, *[FLOATS] * 6, *[SIZE] * 3), {"JUMP": True, "BLOCK": 32}),
        Case("_backward_kernel", (*[FLOATS] * 6, BOOLS, *[FLOATS] * 6, *[SIZE] * 3), {"JUMP": False, "BLOCK": 32}),
        Case("_scan_kernel", (*[FLOATS] * 3, *[SIZE] * 2), {"BLOCK": 32}),
    ],
    "r2ac.kernels.triton_sensitivity": [
        a_pass(
            100,
            {
                80: ((3055, 1829), (2683, 1800)),
                90: ((2349, 1723), (2050, 1727)),
                120: ((3139, 1819), (2801, 1837)),
            },
        ),
        a_pass(
            100,
            {
                80: ((3837, 3488), (3393, 3344)),
                90: ((3514, 3370), (3121, 3373)),
                120: ((4052, 3569), (3404, 3426)),
            },
            parts=2,
        ),
        a_pass(10, {80: ((484, 252), (420, 202)), 90: ((442, 224), (449, 244)), 120: ((193, 264), (183, 253))}),
        a_pass(10, {90: ((624, 745), (587, 730))}, parts=2),
        a_pass(10, {90: ((471, 269), (460, 262))}, stored=HALVES),
        a_pass(100, {90: ((2356, 1760), (2092, 1764))}, stored=HALVES),
        a_pass(100, {90: ((1527, 996), (1323, 970))}, precision="tf32"),
        a_pass(100, {90: ((2366, 1877), (2169, 2016))}, parts=2, precision="tf32"),
        Case(
            "_vector_kernel",
            (FLOATS, ROWS, BOOLS, *[FLOATS] * 4, *[SIZE] * 3),
            {"LINE": 32},
            {"num_warps": 4},
        ),
    ]
    if find_spec("triton")
    else [],
}
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 120: 99 * 1024}
"""What one program may have, in bytes."""

COLUMNS = ("kernel", "constants", "sm", "registers", "stack", "local", "shared", "visit", "last columns", "access")


def compile_all() -> Iterator[tuple[str, ...]]:
    """One row of ``COLUMNS`` for each case and capability. Not in a process that interprets Triton.

    Of a pass also: instructions of one warp in a visit of a whole tile, and of one over the last columns; and the bits
    of the narrowest access that a thread makes to a whole tile of S.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
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
            for capability in case.capabilities():
                compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=case.options)
                with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                    file.write(compiled.asm["cubin"])
                    file.flush()
                    usage = subprocess.check_output([tools / "cuobjdump", "-res-usage", file.name], text=True)
                    code = subprocess.check_output(
                        [tools / "nvdisasm", "-c", file.name], text=True, stderr=subprocess.DEVNULL
                    )
                found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
                values = " ".join(f"{name}={value}" for name, value in case.constants.items())
                yield (
                    *(f"{module.rpartition('.')[2]}.{case.kernel}", values, str(capability)),
                    *(found["REG"], found["STACK"], found["LOCAL"], str(compiled.metadata.shared)),
                    *(visits(code, case) if case.steps else ("", "", "")),
                )


def visits(code: str, case: Case) -> tuple[str, str, str]:
    """The last three columns. A loop within the loop over streams runs once for each product of the tensor cores; one
    of outer products, which the compiler unrolls, is counted as it stands."""
    steps = case.constants["STEPS"]
    repeats = -(-case.steps // steps) if steps > 1 else 1
    all_loops = loops(code)
    counts, accesses = [], []
    for loop in all_loops:
        within = [other for other in all_loops if loop.start < other.start and other.stop < loop.stop]
        if within:
            counts.append(len(loop) + (repeats - 1) * sum(map(len, within)))
            accesses.append([instruction for instruction in loop.instructions if "STG.E" in instruction])
    whole, tail = counts
    bits = min(int((re.findall(r"STG\.E\.(64|128)", store) or [32])[0]) for store in accesses[0])
    return str(whole), str(tail), str(bits)


@dataclass(frozen=True)
class Loop:
    """Instructions from a label to the jump back to it."""

    start: int
    instructions: list[str]

    @property
    def stop(self) -> int:
        return self.start + len(self)

    def __len__(self) -> int:
        return len(self.instructions)


def loops(code: str) -> list[Loop]:
    """All loops of a disassembled kernel, in the order of their labels."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    found = []
    for line in code.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction[1])
            jump = re.search(r"BRA.*`\((\.L\w+)\)", instruction[1])
            # The endless loop behind the last instruction has one.
            if jump and labels.get(jump[1], len(instructions)) < len(instructions) - 1:
                found.append(Loop(labels[jump[1]], instructions[labels[jump[1]] :]))
    return sorted(found, key=lambda loop: loop.start)


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


@pytest.mark.slow
def test_every_kernel_compiles(rows: list[dict[str, str]]) -> None:
    assert len(rows) == sum(len(case.capabilities()) for cases in CASES.values() for case in cases)


@pytest.mark.slow
def test_no_kernel_spills(rows: list[dict[str, str]]) -> None:
    assert [row for row in rows if row["stack"] != "0" or row["local"] != "0"] == []


@pytest.mark.slow
def test_a_visit_takes_no_more_instructions_than_it_did(rows: list[dict[str, str]]) -> None:
    """With 3 % of room."""
    import triton

    later = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)
    known = [visits[later] for cases in CASES.values() for case in cases for visits in case.instructions.values()]
    found = [(int(row["visit"]), int(row["last columns"])) for row in rows if row["visit"]]
    assert len(found) == len(known)
    more = [
        (now, then)
        for now, then in zip(found, known, strict=True)
        if now[0] > 1.03 * then[0] or now[1] > 1.03 * then[1]
    ]
    assert more == []


@pytest.mark.slow
def test_whole_tiles_move_128_bits_at_a_time(rows: list[dict[str, str]]) -> None:
    """Rows begin at multiples of 8 numbers: no sector of 32 bytes is then asked for twice by a warp."""
    assert {row["access"] for row in rows} == {"", "128"}


@pytest.mark.slow
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
