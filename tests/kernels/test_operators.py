"""The operators: what PyTorch asks of them, gradients, and torch.compile across them."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from r2ac.agents import ELSTM, Carry, Recurrent
from r2ac.kernels import (
    CELLS,
    GATES,
    REFERENCE,
    Kernels,
    Notes,
    Scans,
    StepByStepRTRL,
    Traces,
    kernels_for,
    recurrence,
)
from r2ac.kernels.native_library import missing_reason
from r2ac.kernels.operators import backward_scan_operator, block_sensitivity_pass_, sensitivity_pass_, vector_pass_
from r2ac.kernels.recurrence import recurrence_operator

STEPS, BATCH, ROWS, WIDTH, HIDDEN = 4, 3, 5, 6, 7
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def arguments(cell: str = "elstm") -> list[Any]:
    """Of the recurrence, up to is_first."""
    known = CELLS[cell]
    is_first = torch.rand(STEPS, BATCH) < 0.2
    vectors = normal(known.numbers, HIDDEN), normal(known.gates, HIDDEN)
    return [cell, normal(STEPS, BATCH, known.gates, HIDDEN), *vectors, normal(BATCH, *known.pair, HIDDEN), is_first]


def streams() -> tuple[Tensor, Tensor]:
    return torch.tensor([4, 0, 2]), torch.tensor([False, True, False])


def some_traces(cell: str = "elstm") -> Traces:
    known = CELLS[cell]
    weight = normal(ROWS, *known.pair, known.gates, HIDDEN, WIDTH)
    return Traces(weight, normal(ROWS, *known.pair, known.numbers + known.gates, HIDDEN), *streams())


def copy_of(traces: Traces) -> Traces:
    return Traces(*(tensor.clone() for tensor in traces.tensors()))


def noted(core: Recurrent, parts: bool) -> tuple[Notes, ...]:
    carry = core.initial_carry(ROWS).of_streams(*streams())
    through = [torch.arange(ROWS * HIDDEN, dtype=torch.float64).view(ROWS, HIDDEN)]
    return core.with_notes(Carry(carry.state[:BATCH], carry.traces), through, parts).notes


@pytest.mark.parametrize("cell", ["elstm", "mingru", "rtu"])
def test_the_recurrence_is_what_pytorch_asks_of_an_operator(cell: str) -> None:
    own, known = arguments(cell), CELLS[cell]
    for tensor in own[1:4]:
        tensor.requires_grad_()
    weight = normal(known.gates, HIDDEN, WIDTH).requires_grad_()
    inputs, traces = normal(STEPS, BATCH, WIDTH), some_traces(cell).tensors()
    torch.library.opcheck(recurrence_operator, (*own, None, None, False, [], []), test_utils=CHECKS)
    # The sensitivities change in the backward pass, which the last check would run twice from one state.
    core = Recurrent(cell, WIDTH, HIDDEN).double()
    (notes,) = noted(core, parts=True)
    assert notes is not None
    for more in ([], notes.tensors()):
        torch.library.opcheck(recurrence_operator, (*own, weight, inputs, True, traces, more), test_utils=CHECKS[:3])


def test_the_passes_are_what_pytorch_asks_of_operators() -> None:
    inputs, common, decay = normal(STEPS, BATCH, WIDTH), streams(), normal(BATCH, HIDDEN)
    weighted = normal(STEPS, BATCH, GATES, HIDDEN)
    torch.library.opcheck(backward_scan_operator, (normal(STEPS, BATCH), normal(STEPS, BATCH)), test_utils=CHECKS)
    traces = some_traces()
    torch.library.opcheck(
        sensitivity_pass_, (traces.weight, *common, decay, decay, weighted, inputs), test_utils=CHECKS
    )
    gained = normal(BATCH, 2 * GATES, HIDDEN)
    torch.library.opcheck(vector_pass_, (traces.vectors, *common, decay, decay, gained), test_utils=CHECKS)
    blocks = normal(ROWS, 2, GATES, HIDDEN, WIDTH), *common, normal(BATCH, 2, HIDDEN), normal(BATCH, 2, 2, HIDDEN)
    torch.library.opcheck(
        block_sensitivity_pass_, (*blocks, normal(STEPS, BATCH, 2, GATES, HIDDEN), inputs), test_utils=CHECKS
    )


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_of_tbptt_is_numerically_right(cell: str) -> None:
    """Also by the state before the rollout."""
    name, *given, is_first = arguments(cell)
    given = [tensor.requires_grad_() for tensor in given]
    assert torch.autograd.gradcheck(lambda *p: recurrence(name, *p, is_first), given)


def test_a_gradient_that_was_expanded_is_as_good_as_any() -> None:
    """A sum hands every step the same number, without memory for each."""
    own = arguments()
    own[1].requires_grad_()
    (by_sum,) = torch.autograd.grad(recurrence(*own).sum(), own[1])
    (by_ones,) = torch.autograd.grad(recurrence(*own), own[1], torch.ones(STEPS, BATCH, HIDDEN, dtype=torch.float64))
    assert torch.equal(by_sum, by_ones)


def after_three_rollouts(make: Callable[[], Recurrent], compiled: bool) -> list[Tensor]:
    """Gradients and the store of all streams; one stream begins afresh in the first rollout."""
    torch.manual_seed(1)
    core = make().double()
    run: Any = torch.compile(core, backend="aot_eager", fullgraph=True) if compiled else core
    carry = replace(core.initial_carry(ROWS), state=core.initial_carry(BATCH).state).of_streams(*streams())
    for _ in range(3):
        h, carry = run(normal(STEPS, BATCH, WIDTH), carry, torch.rand(STEPS, BATCH) < 0.2)
        h.square().sum().backward()
    gradients = [parameter.grad for parameter in core.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(core.parameters()))
    return [*gradients, carry.traces[0].weight, carry.traces[0].vectors]


@pytest.mark.parametrize(
    "make", [lambda: ELSTM(WIDTH, HIDDEN), lambda: Recurrent("rtu", WIDTH, HIDDEN)], ids=["elstm", "rtu"]
)
def test_torch_compile_goes_across_the_core_without_a_break(make: Callable[[], Recurrent]) -> None:
    for mine, plain in zip(after_three_rollouts(make, True), after_three_rollouts(make, False), strict=True):
        assert plain.count_nonzero()
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("cell", ["elstm", "mingru", "lru"])
def test_the_backward_pass_notes_what_it_adds_and_gives_the_same_gradients(cell: str) -> None:
    own, known, inputs = arguments(cell), CELLS[cell], normal(STEPS, BATCH, WIDTH)
    weight = normal(known.gates, HIDDEN, WIDTH)
    parameters = [tensor.requires_grad_() for tensor in (own[2], own[3], weight)]
    kept, direct, found = some_traces(cell), normal(STEPS, BATCH, *known.pair, HIDDEN), []
    core = Recurrent(cell, WIDTH, HIDDEN).double()
    (both,), (through,) = (noted(core, parts) for parts in (True, False))
    assert both is not None
    assert both.by_state is not None
    assert both.boundary is not None
    for notes in (None, both, through):
        states = recurrence(*own, weight, inputs, copy_of(kept), notes)
        found.append(torch.autograd.grad(states, parameters, direct))
    for gradients in found[1:]:
        assert all(torch.equal(mine, plain) for mine, plain in zip(gradients, found[0], strict=True))
    truncated = torch.autograd.grad(recurrence(*own), parameters[:2], direct)
    # W has no part in the projection here: what it gets is the boundary term alone.
    terms = [found[0][2], *(exact - inside for exact, inside in zip(found[0][:2], truncated, strict=True))]
    torch.testing.assert_close(both.boundary, torch.cat([term.flatten() for term in terms]))
    rows, fresh = streams()
    before = kept.vectors[rows]
    before[fresh] = 0
    by_state = both.by_state.unsqueeze(-2) * before
    of_vectors = by_state.sum((0, 1) if known.parts == 2 else 0)
    torch.testing.assert_close(of_vectors[known.numbers :], terms[2])
    assert torch.equal(through.through, both.through)
    assert (through.through != torch.arange(ROWS * HIDDEN).view(ROWS, HIDDEN)).any(dim=1).tolist() == [
        row in rows for row in range(ROWS)
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_dtype_without_kernels_takes_the_reference(dtype: torch.dtype) -> None:
    assert kernels_for(torch.zeros(1, dtype=dtype)) is REFERENCE


def test_a_cpu_takes_the_compiled_kernels_where_there_are_any() -> None:
    for dtype in (torch.float32, torch.float64):
        assert kernels_for(torch.zeros(1, dtype=dtype)).name == ("native" if missing_reason() is None else "reference")


@pytest.mark.parametrize("cell", ["elstm", "minlstm", "rtu", "s5"])
def test_the_whole_of_rtrl_on_tritons_kernels_is_step_by_step_rtrl(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    """Cells, gradients and sensitivities over rollouts with resets, float32 beside float64, to 1e-5."""
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    from r2ac.kernels import triton_linear, triton_scan, triton_sensitivity

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kernels = Kernels(
        "triton",
        triton_scan.backward_scan,
        triton_linear.linear_forward_scan,
        triton_linear.linear_reverse_scan,
        triton_sensitivity.sensitivity_pass_,
        triton_sensitivity.vector_pass_,
        triton_sensitivity.block_sensitivity_pass_,
        {"elstm": Scans(triton_scan.elstm_forward, triton_scan.elstm_backward)},
    )
    for module in ("operators", "recurrence"):
        monkeypatch.setattr(importlib.import_module(f"r2ac.kernels.{module}"), "kernels_for", lambda tensor: kernels)
    core = Recurrent(cell, WIDTH, HIDDEN).to(device)
    weights = core.recurrent_parameters
    oracle = StepByStepRTRL(
        CELLS[cell],
        weights[0].detach().double(),
        core._own().detach().double(),
        core.bias.detach().double(),
        torch.zeros(BATCH, *CELLS[cell].pair, HIDDEN, dtype=torch.float64, device=device),
        Traces.zeros(CELLS[cell], BATCH, HIDDEN, WIDTH, torch.device(device), torch.float64),
    )
    rows = torch.tensor([4, 0, 2], device=device)
    carry = replace(core.initial_carry(ROWS), state=core.initial_carry(BATCH).state).of_streams(rows)
    for steps in (3, 17, 1):
        x, by_cell = (torch.randn(steps, BATCH, size, device=device) for size in (WIDTH, core.output_size))
        is_first = (torch.rand(steps, BATCH) < 0.1).to(device)
        cells, carry = core.states(x, carry, is_first)
        cells.backward(by_cell)
        for t in range(steps):
            torch.testing.assert_close(
                oracle.step(x[t].double(), is_first[t]).flatten(1), cells[t].detach().double(), atol=1e-5, rtol=0
            )
            oracle.accumulate(by_cell[t].double().view(BATCH, *CELLS[cell].pair, HIDDEN))
    by_weight, *by_vectors = (weight.grad for weight in weights if weight.grad is not None)
    found = by_weight, torch.cat(by_vectors), carry.traces[0].weight[rows], carry.traces[0].vectors[rows]
    for mine, exact in zip(found, (*oracle.gradient, *oracle.traces.tensors()), strict=True):
        assert (mine - exact).norm() <= 1e-5 * exact.norm()


def test_a_machine_without_a_compiler_still_learns() -> None:
    """In a process of its own, because a library that was loaded stays."""
    code = (
        "import torch; from r2ac.agents import ELSTM; from r2ac.kernels import kernels_for;"
        "core = ELSTM(3, 4); h, carry = core(torch.randn(5, 2, 3), core.initial_carry(2), torch.zeros(5, 2).bool());"
        "h.sum().backward(); print(kernels_for(h).name, float(core.bias.grad.abs().sum()) > 0)"
    )
    environment = os.environ | {"CXX": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "reference True\n"), done.stderr
    assert done.stderr.count("/nonexistent cannot be run") == 1


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("cell", ["elstm", "rglru", "rtu"])
def test_the_way_past_the_operator_gives_the_same_to_the_bit(cell: str, kept: bool) -> None:
    name, *own, is_first = arguments(cell)
    weight, inputs, before = normal(CELLS[cell].gates, HIDDEN, WIDTH), normal(STEPS, BATCH, WIDTH), some_traces(cell)
    direct = normal(STEPS, BATCH, *CELLS[cell].pair, HIDDEN)
    found: list[list[Tensor]] = []
    for by_operator in (False, True):
        given = [tensor.detach().clone().requires_grad_() for tensor in (*own, weight)]
        traces = copy_of(before) if kept else None
        rtrl = (given[4] if kept else None, inputs if kept else None)
        if by_operator:
            lists = traces.tensors() if traces else [], []
            states = recurrence_operator(name, *given[:4], is_first, *rtrl, kept, *lists)
        else:
            states = recurrence(name, *given[:4], is_first, *rtrl, traces)
        states.backward(direct)
        gradients = [tensor.grad for tensor in given[: 5 if kept else 4]]
        found.append([states.detach(), *(each for each in gradients if each is not None)])
        assert len(found[-1]) == (6 if kept else 5)
        found[-1] += traces.tensors() if traces else []
    for function, operator in zip(*found, strict=True):
        assert torch.equal(function, operator)


def test_sensitivities_that_a_backward_pass_has_advanced_are_not_advanced_again() -> None:
    own, weight, inputs = arguments(), normal(GATES, HIDDEN, WIDTH).requires_grad_(), normal(STEPS, BATCH, WIDTH)
    total = recurrence(*own, weight, inputs, some_traces()).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
