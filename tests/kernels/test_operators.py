"""The operators: what PyTorch asks of them, gradients, and torch.compile across them."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from r2ac.agents import ELSTM, Carry
from r2ac.kernels import (
    GATES,
    REFERENCE,
    Kernels,
    Sensitivities,
    StepByStepRTRL,
    elstm_cells,
    kernels_for,
    native,
    operators,
)
from r2ac.kernels.operators import backward_scan, block_sensitivity_pass_, elstm_cells_operator, sensitivity_pass_

STEPS, BATCH, ROWS, WIDTH, HIDDEN = 4, 3, 5, 6, 7
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def recurrence() -> tuple[Tensor, ...]:
    is_first = torch.rand(STEPS, BATCH) < 0.2
    return (
        normal(STEPS, BATCH, GATES, HIDDEN),
        normal(GATES, HIDDEN),
        normal(GATES, HIDDEN),
        normal(BATCH, HIDDEN),
        is_first,
    )


def streams() -> tuple[Tensor, Tensor]:
    return torch.tensor([4, 0, 2]), torch.tensor([False, True, False])


def test_operators_are_what_pytorch_asks_for() -> None:
    own = recurrence()
    for tensor in own[:3]:
        tensor.requires_grad_()
    weight = normal(GATES, HIDDEN, WIDTH).requires_grad_()
    inputs = normal(STEPS, BATCH, WIDTH)
    kept = normal(ROWS, GATES, HIDDEN, WIDTH), normal(ROWS, GATES, HIDDEN), normal(ROWS, GATES, HIDDEN)
    decay, weighted = normal(BATCH, HIDDEN), normal(STEPS, BATCH, GATES, HIDDEN)
    torch.library.opcheck(elstm_cells_operator, own, test_utils=CHECKS)
    # The sensitivities change in the backward pass, which the last check would run twice from one state.
    noted = normal(2 * BATCH * HIDDEN + GATES * HIDDEN * (WIDTH + 2))
    for more in ((), (noted,)):
        torch.library.opcheck(
            elstm_cells_operator, (*own, weight, inputs, *kept, *streams(), *more), test_utils=CHECKS[:3]
        )
    torch.library.opcheck(backward_scan, (normal(STEPS, BATCH), normal(STEPS, BATCH)), test_utils=CHECKS)
    common = streams()
    torch.library.opcheck(sensitivity_pass_, (kept[0], *common, decay, decay, weighted, inputs), test_utils=CHECKS)
    blocks = normal(ROWS, 2, GATES, HIDDEN, WIDTH), *common, normal(BATCH, 2, HIDDEN), normal(BATCH, 2, 2, HIDDEN)
    torch.library.opcheck(
        block_sensitivity_pass_, (*blocks, normal(STEPS, BATCH, 2, GATES, HIDDEN), inputs), test_utils=CHECKS
    )


def test_the_gradient_of_tbptt_is_numerically_right() -> None:
    projection, recurrent_weight, bias, cell, is_first = recurrence()
    given = [tensor.requires_grad_() for tensor in (projection, recurrent_weight, bias)]
    assert torch.autograd.gradcheck(lambda *p: elstm_cells(*p, cell, is_first), given)


def test_a_gradient_that_was_expanded_is_as_good_as_any() -> None:
    """A sum hands every step the same number, without memory for each."""
    own = recurrence()
    own[0].requires_grad_()
    (by_sum,) = torch.autograd.grad(elstm_cells(*own).sum(), own[0])
    (by_ones,) = torch.autograd.grad(elstm_cells(*own), own[0], torch.ones(STEPS, BATCH, HIDDEN, dtype=torch.float64))
    assert torch.equal(by_sum, by_ones)


def after_three_rollouts(compiled: bool) -> list[Tensor]:
    """Gradients and the store of all streams; one stream begins afresh in the first rollout."""
    torch.manual_seed(1)
    core = ELSTM(WIDTH, HIDDEN).double()
    run: Any = torch.compile(core, backend="aot_eager", fullgraph=True) if compiled else core
    rows, fresh = streams()
    carry = Carry(core.initial_carry(BATCH).cell, core.initial_carry(ROWS).sensitivities, rows, fresh)
    for _ in range(3):
        h, carry = run(normal(STEPS, BATCH, WIDTH), carry, torch.rand(STEPS, BATCH) < 0.2)
        h.square().sum().backward()
    assert carry.sensitivities is not None
    gradients = [parameter.grad for parameter in core.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(core.parameters()))
    return [*gradients, *carry.sensitivities.tensors()]


def test_torch_compile_goes_across_the_core_without_a_break() -> None:
    for mine, plain in zip(after_three_rollouts(True), after_three_rollouts(False), strict=True):
        assert plain.count_nonzero()
        torch.testing.assert_close(mine, plain)


def test_the_backward_pass_notes_what_it_adds_and_gives_the_same_gradients() -> None:
    own, weight, inputs = recurrence(), normal(GATES, HIDDEN, WIDTH), normal(STEPS, BATCH, WIDTH)
    parameters = [tensor.requires_grad_() for tensor in (own[1], own[2], weight)]
    kept = normal(ROWS, GATES, HIDDEN, WIDTH), normal(ROWS, GATES, HIDDEN), normal(ROWS, GATES, HIDDEN)
    cells, terms = BATCH * HIDDEN, GATES * HIDDEN * (WIDTH + 2)
    noted = torch.full((2 * cells + terms,), torch.nan, dtype=torch.float64)
    decay = torch.full((cells,), torch.nan, dtype=torch.float64)
    direct, found = normal(STEPS, BATCH, HIDDEN), []
    for room in (None, noted, decay):
        sensitivities = [tensor.clone() for tensor in kept]
        states = elstm_cells(*own, weight, inputs, *sensitivities, *streams(), room)
        found.append(torch.autograd.grad(states, parameters, direct))
    for gradients in found[1:]:
        assert all(torch.equal(mine, plain) for mine, plain in zip(gradients, found[0], strict=True))
    truncated = torch.autograd.grad(elstm_cells(*own), parameters[:2], direct)
    # W has no part in the projection here: what it gets is the boundary term alone.
    terms_of = [found[0][2], *(exact - inside for exact, inside in zip(found[0][:2], truncated, strict=True))]
    torch.testing.assert_close(noted[2 * cells :], torch.cat([term.flatten() for term in terms_of]))
    rows, fresh = streams()
    before = kept[2][rows].masked_fill(fresh[:, None, None], 0)
    by_cell = noted[cells : 2 * cells].view(BATCH, 1, HIDDEN)
    torch.testing.assert_close((by_cell * before).sum(0), terms_of[2])
    assert torch.equal(decay, noted[:cells])
    assert decay.count_nonzero()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_dtype_without_kernels_takes_the_reference(dtype: torch.dtype) -> None:
    assert kernels_for(torch.zeros(1, dtype=dtype)) is REFERENCE


def test_a_cpu_takes_the_compiled_kernels_where_there_are_any() -> None:
    for dtype in (torch.float32, torch.float64):
        assert kernels_for(torch.zeros(1, dtype=dtype)).name == ("native" if native.available() else "reference")


def test_the_whole_of_rtrl_on_tritons_kernels_is_step_by_step_rtrl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells, gradients and sensitivities over rollouts with resets, float32 beside float64, to 1e-5."""
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    from r2ac.kernels import triton_scan, triton_sensitivity

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kernels = Kernels(
        "triton",
        triton_scan.elstm_forward,
        triton_scan.elstm_backward,
        triton_scan.backward_scan,
        triton_sensitivity.sensitivity_pass_,
        triton_sensitivity.vector_pass_,
        triton_sensitivity.block_sensitivity_pass_,
    )
    monkeypatch.setattr(operators, "kernels_for", lambda tensor: kernels)
    core = ELSTM(WIDTH, HIDDEN).to(device)
    weights = core.input_weight, core.recurrent_weight, core.bias
    oracle = StepByStepRTRL(
        *(weight.detach().double() for weight in weights),
        torch.zeros(BATCH, HIDDEN, dtype=torch.float64, device=device),
        Sensitivities.zeros(BATCH, GATES, HIDDEN, WIDTH, torch.device(device), torch.float64),
    )
    rows = torch.tensor([4, 0, 2], device=device)
    carry = Carry(core.initial_carry(BATCH).cell, core.initial_carry(ROWS).sensitivities, rows)
    for steps in (3, 17, 1):
        x, by_cell = (torch.randn(steps, BATCH, size, device=device) for size in (WIDTH, HIDDEN))
        is_first = (torch.rand(steps, BATCH) < 0.1).to(device)
        cells, carry = core.cells(x, carry, is_first)
        cells.backward(by_cell)
        for t in range(steps):
            torch.testing.assert_close(
                oracle.step(x[t].double(), is_first[t]), cells[t].detach().double(), atol=1e-5, rtol=0
            )
            oracle.accumulate(by_cell[t].double())
    assert carry.sensitivities is not None
    found = [weight.grad for weight in weights] + [tensor[rows] for tensor in carry.sensitivities.tensors()]
    for mine, exact in zip(found, (*oracle.gradient, *oracle.sensitivities.tensors()), strict=True):
        assert (mine - exact).norm() <= 1e-5 * exact.norm()  # type: ignore[operator]


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
def test_the_way_past_the_operator_gives_the_same_to_the_bit(kept: bool) -> None:
    own, weight, inputs = recurrence(), normal(GATES, HIDDEN, WIDTH), normal(STEPS, BATCH, WIDTH)
    before = normal(ROWS, GATES, HIDDEN, WIDTH), normal(ROWS, GATES, HIDDEN), normal(ROWS, GATES, HIDDEN)
    direct = normal(STEPS, BATCH, HIDDEN)
    found: list[list[Tensor]] = []
    for compute in (elstm_cells, elstm_cells_operator):
        given = [tensor.detach().clone().requires_grad_() for tensor in (*own[:3], weight)]
        sensitivities = [tensor.clone() for tensor in before]
        rtrl = (given[3], inputs, *sensitivities, *streams()) if kept else ()
        cells = compute(*given[:3], *own[3:], *rtrl)
        cells.backward(direct)
        gradients = [tensor.grad for tensor in given[: 4 if kept else 3]]
        found.append([cells.detach(), *(each for each in gradients if each is not None), *sensitivities])
    assert len(found[0]) == (8 if kept else 7)
    for function, operator in zip(*found, strict=True):
        assert torch.equal(function, operator)


def test_sensitivities_that_a_backward_pass_has_advanced_are_not_advanced_again() -> None:
    own, weight, inputs = recurrence(), normal(GATES, HIDDEN, WIDTH).requires_grad_(), normal(STEPS, BATCH, WIDTH)
    kept = normal(ROWS, GATES, HIDDEN, WIDTH), normal(ROWS, GATES, HIDDEN), normal(ROWS, GATES, HIDDEN)
    total = elstm_cells(*own, weight, inputs, *kept, *streams()).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
