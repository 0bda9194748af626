"""Step-by-step RTRL, the oracle of all other tests, against autograd and complex steps through the whole chain."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import CELLS, GATES, StepByStepRTRL, Traces

DOUBLE = torch.float64
ELSTM = CELLS["elstm"]


@dataclass
class Chain:
    input_weight: Tensor
    recurrent_weight: Tensor
    bias: Tensor
    x: Tensor
    is_first: Tensor
    by_cell: Tensor
    """e_t, a fixed random loss on every cell state."""

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.input_weight, self.recurrent_weight, self.bias

    def run(self) -> tuple[StepByStepRTRL, Tensor]:
        """The oracle after all steps, and the cell states [T, B, N]."""
        batch, hidden = self.by_cell.shape[1:]
        oracle = StepByStepRTRL(
            ELSTM,
            *self.parameters,
            torch.zeros(batch, hidden, dtype=DOUBLE),
            Traces.zeros(ELSTM, batch, hidden, self.x.shape[2], dtype=DOUBLE),
        )
        cells = []
        for x, first, direct in zip(self.x, self.is_first, self.by_cell, strict=True):
            cells.append(oracle.step(x, first))
            oracle.accumulate(direct)
        return oracle, torch.stack(cells)


def flat(oracle: StepByStepRTRL) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient by W, w and b."""
    by_recurrent_weight, by_bias = oracle.gradient[1].split(GATES)
    return oracle.gradient[0], by_recurrent_weight, by_bias


def make_chain(
    seed: int, steps: int = 6, batch: int = 2, hidden: int = 3, width: int = 2, resets: float = 0.2
) -> Chain:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DOUBLE, generator=generator)

    return Chain(
        normal(GATES, hidden, width),
        normal(GATES, hidden),
        normal(GATES, hidden),
        normal(steps, batch, width),
        torch.rand(steps, batch, generator=generator) < resets,
        normal(steps, batch, hidden),
    )


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    steps, batch, hidden, width = (draw(st.integers(1, most)) for most in (8, 3, 3, 3))
    chain = make_chain(draw(st.integers(0, 2**31)), steps, batch, hidden, width, draw(st.sampled_from((0.0, 0.3, 1.0))))
    where = draw(st.sampled_from((None, 0, -1)))
    if where is not None:
        chain.is_first[where] = True
    return chain


def plain_cells(chain: Chain, *parameters: Tensor) -> Tensor:
    """[T, B, N] by the equations, for autograd."""
    (F, Z), (w_f, w_z), (b_f, b_z) = parameters
    cell, cells = torch.zeros_like(chain.by_cell[0]), []
    for x, first in zip(chain.x, chain.is_first, strict=True):
        cell = torch.where(first[:, None], torch.zeros_like(cell), cell)
        f = torch.sigmoid(x @ F.T + w_f * cell + b_f)
        cell = f * cell + (1 - f) * torch.tanh(x @ Z.T + w_z * cell + b_z)
        cells.append(cell)
    return torch.stack(cells)


@given(chains())
def test_gradient_and_cells_are_autograds(chain: Chain) -> None:
    oracle, cells = chain.run()
    parameters = [parameter.clone().requires_grad_() for parameter in chain.parameters]
    expected = plain_cells(chain, *parameters)
    torch.testing.assert_close(cells, expected, rtol=1e-12, atol=1e-13)
    gradient = torch.autograd.grad((expected * chain.by_cell).sum(), parameters)
    torch.testing.assert_close(flat(oracle), gradient, rtol=1e-11, atol=1e-11)


@given(chains())
def test_sensitivities_are_autograds_derivatives_of_each_last_cell(chain: Chain) -> None:
    oracle, _ = chain.run()
    parameters = [parameter.clone().requires_grad_() for parameter in chain.parameters]
    last = plain_cells(chain, *parameters)[-1]
    for b, n in np.ndindex(*last.shape):
        gradients = torch.autograd.grad(last[b, n], parameters, retain_graph=True)
        kept = oracle.traces.weight, *oracle.traces.vectors.split(GATES, 1)
        for mine, gradient in zip(kept, gradients, strict=True):
            torch.testing.assert_close(mine[b, :, n], gradient[:, n], rtol=1e-11, atol=1e-12)
            assert gradient[:, [other for other in range(last.shape[1]) if other != n]].count_nonzero() == 0


@pytest.mark.parametrize("resets", [0.0, 0.3])
def test_the_gradient_is_the_complex_step_derivative(resets: float) -> None:
    chain = make_chain(seed=3, resets=resets)
    oracle, _ = chain.run()
    x, keep, by_cell = chain.x.numpy(), ~chain.is_first.numpy(), chain.by_cell.numpy()

    def loss(W: np.ndarray, w: np.ndarray, b: np.ndarray) -> complex:
        cell, total = np.zeros(by_cell.shape[1:], dtype=complex), 0j
        for x_t, keep_t, by_cell_t in zip(x, keep, by_cell, strict=True):
            cell = cell * keep_t[:, None]
            f = 1 / (1 + np.exp(-(x_t @ W[0].T + w[0] * cell + b[0])))
            cell = f * cell + (1 - f) * np.tanh(x_t @ W[1].T + w[1] * cell + b[1])
            total += (cell * by_cell_t).sum()
        return total

    for which, mine in enumerate(flat(oracle)):
        for index in np.ndindex(*mine.shape):
            shifted = [parameter.numpy().astype(complex) for parameter in chain.parameters]
            shifted[which][index] += 1e-30j
            assert mine[index].item() == pytest.approx(loss(*shifted).imag / 1e-30, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_has_autograds_gradient_and_derivatives_of_the_last_state(name: str) -> None:
    cell, (steps, batch, hidden, width) = CELLS[name], (5, 2, 3, 2)
    torch.manual_seed(4)
    shapes = (cell.gates, hidden, width), (cell.numbers, hidden), (cell.gates, hidden)
    parameters = [torch.randn(shape, dtype=DOUBLE, requires_grad=True) for shape in shapes]
    weight, own, bias = parameters
    x, direct = torch.randn(steps, batch, width, dtype=DOUBLE), torch.randn(steps, batch, *cell.pair, hidden).double()
    state = torch.zeros(batch, *cell.pair, hidden, dtype=DOUBLE)
    traces = Traces.zeros(cell, batch, hidden, width, dtype=DOUBLE)
    oracle = StepByStepRTRL(cell, *(p.detach() for p in parameters), state, traces)
    loss = torch.zeros((), dtype=DOUBLE)
    for t in range(steps):
        first = torch.tensor([t == 2, t == 0])
        state = state.masked_fill(first.view(-1, *(1,) * (state.dim() - 1)), 0)
        state = cell.step(torch.einsum("bd,knd->bkn", x[t], weight) + bias, own, state)
        loss = loss + (state * direct[t]).sum()
        torch.testing.assert_close(oracle.step(x[t], first), state)
        oracle.accumulate(direct[t])
    expected = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(oracle.gradient, (expected[0], torch.cat(expected[1:])))
    for index in np.ndindex(*state.shape):
        by_weight, by_own, by_bias = torch.autograd.grad(
            state[index], parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(traces.weight[index[:-1]][:, index[-1]], by_weight[:, index[-1]])
        torch.testing.assert_close(traces.vectors[index[:-1]][:, index[-1]], torch.cat((by_own, by_bias))[:, index[-1]])


def test_parameters_and_inputs_stay_and_the_sensitivities_given_move_on() -> None:
    chain = make_chain(seed=1)
    kept = [tensor.clone() for tensor in vars(chain).values()]
    cell, given_traces = torch.zeros(2, 3, dtype=DOUBLE), Traces.zeros(ELSTM, 2, 3, 2, dtype=DOUBLE)
    oracle = StepByStepRTRL(ELSTM, *chain.parameters, cell, given_traces)
    oracle.step(chain.x[0], chain.is_first[0])
    oracle.accumulate(chain.by_cell[0])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(vars(chain).values(), kept, strict=True))
    assert cell.count_nonzero() == 0
    assert oracle.traces is given_traces
    assert given_traces.vectors.count_nonzero() > 0


def test_an_oracle_goes_on_from_another_ones_sensitivities() -> None:
    chain = make_chain(seed=2)
    whole, _ = chain.run()
    oracle = StepByStepRTRL(
        ELSTM, *chain.parameters, torch.zeros(2, 3, dtype=DOUBLE), Traces.zeros(ELSTM, 2, 3, 2, dtype=DOUBLE)
    )
    gradient = [torch.zeros_like(parameter) for parameter in whole.gradient]
    for t in range(chain.x.shape[0]):
        oracle = StepByStepRTRL(ELSTM, *chain.parameters, oracle.state, oracle.traces)
        oracle.step(chain.x[t], chain.is_first[t])
        oracle.accumulate(chain.by_cell[t])
        gradient = [kept + new for kept, new in zip(gradient, oracle.gradient, strict=True)]
    torch.testing.assert_close(tuple(gradient), whole.gradient)
    torch.testing.assert_close(oracle.traces.tensors(), whole.traces.tensors())
