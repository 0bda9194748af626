"""`check_recurrent` on modules that are right, and on modules with one fault each."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from r2ac.agents import AgentConfig, Carry, Recurrent, check_recurrent
from r2ac.agents.cores import make_core

SIZE = 4
IGNORES = "it cannot forget: its forward takes no is_first, so that its caller must reset the state"


class Masked(nn.Module):
    """A GRU that is right; the faults below are what others have had."""

    input_size = SIZE

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(SIZE, 6, dtype=dtype)

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 6, dtype=self.cell.weight_ih.dtype)

    def forward(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for x_t, first in zip(x, self.resets(is_first), strict=True):
            state = self.cell(x_t, self.reset(state, first))
            outputs.append(state)
        return torch.stack(outputs), state

    def step(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(x, Masked.reset(self, state, is_first))
        return state, state

    def resets(self, is_first: Tensor) -> Tensor:
        return is_first

    def reset(self, state: Tensor, first: Tensor) -> Tensor:
        return state.masked_fill(first.unsqueeze(-1), 0)


class Never(Masked):
    def resets(self, is_first: Tensor) -> Tensor:
        return torch.zeros_like(is_first)


class Late(Masked):
    def resets(self, is_first: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(is_first[:1]), is_first[:-1]))


class Early(Masked):
    def resets(self, is_first: Tensor) -> Tensor:
        return torch.cat((is_first[1:], torch.zeros_like(is_first[:1])))


class AtTheBegin(Masked):
    def resets(self, is_first: Tensor) -> Tensor:
        return torch.cat((is_first[:1], torch.zeros_like(is_first[1:])))


class AllStreams(Masked):
    def resets(self, is_first: Tensor) -> Tensor:
        return is_first.any(1, keepdim=True).expand_as(is_first)


class Halfway(Masked):
    def reset(self, state: Tensor, first: Tensor) -> Tensor:
        return torch.where(first.unsqueeze(-1), state / 2, state)


class ForgetsTheValueAlone(Masked):
    def reset(self, state: Tensor, first: Tensor) -> Tensor:
        return state - (state * first.unsqueeze(-1)).detach()


class ActsWithoutReset(Masked):
    def step(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(x, state, torch.zeros_like(is_first))


class ActsOtherwise(Masked):
    def step(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        output, state = super().step(x, state, is_first)
        return output.tanh(), state


class LosesItsState(Masked):
    def forward(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x, state, is_first)[0], self.initial_state(x.shape[1])


class Overwrites(Masked):
    def reset(self, state: Tensor, first: Tensor) -> Tensor:
        with torch.no_grad():
            return state.mul_(0.5)


class KeepsItsState(Masked):
    kept: Any = None

    def forward(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        outputs, self.kept = super().forward(x, state if self.kept is None else self.kept, is_first)
        return outputs, self.kept


class Normalised(Masked):
    def forward(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x - x.mean(1, keepdim=True), state, is_first)

    def step(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(x - x.mean(0), state, is_first)


LEAK = "gradients leak across episodes: outputs after a reset have some by inputs before it"
OF_WEIGHTS = (
    "gradients leak across episodes: after a reset those by cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh "
    "are not those of a fresh start"
)
OTHERWISE = "the training pass over a rollout and the acting pass step by step differ from step 0 on"
MIX = "gradients leak across streams: outputs of one have some by inputs of another"


@pytest.mark.parametrize(
    ("module", "sentences"),
    [
        (Never, ["the training pass ignores is_first", LEAK, OF_WEIGHTS]),
        # As the minGRU of a well-known library once did, in training alone.
        (Late, ["the training pass resets one step late", LEAK, OF_WEIGHTS]),
        (Early, ["the training pass resets one step early", LEAK, OF_WEIGHTS]),
        (AtTheBegin, ["the training pass resets in the first step of a rollout alone", LEAK, OF_WEIGHTS]),
        (AllStreams, ["the training pass resets all streams where one begins an episode"]),
        (Halfway, ["the training pass is not as from a fresh start where an episode begins, step 0", LEAK, OF_WEIGHTS]),
        (ForgetsTheValueAlone, [LEAK, OF_WEIGHTS]),
        (ActsWithoutReset, ["the acting pass ignores is_first"]),
        (ActsOtherwise, [OTHERWISE]),
        (
            LosesItsState,
            [
                "the training pass and the acting pass give the same outputs but leave different states",
                "a rollout in two halves differs from the whole from step 5 on: the state lacks something",
            ],
        ),
        (Overwrites, ["the training pass changes in place the state that it is given"]),
        (
            KeepsItsState,
            ["the training pass gives other outputs when it is called again (dropout, or a state of its own?)"],
        ),
        (Normalised, [MIX]),
    ],
)
def test_a_fault_is_a_sentence(module: type[Masked], sentences: list[str]) -> None:
    assert check_recurrent(module()) == sentences


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_that_is_right_has_no_sentence(dtype: torch.dtype) -> None:
    assert check_recurrent(Masked(dtype)) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"core": "elstm"},
        {"core": "rtu", "gradient": "tbptt"},
        {"core": "lstm"},
        {"core": "gru", "layers": 2},
        {"core": "feedforward"},
        {"core": "mixed:elstm+lru", "layers": 2},
    ],
    ids=str,
)
def test_cores_are_right(settings: dict[str, Any]) -> None:
    assert check_recurrent(make_core(3, AgentConfig(hidden_size=6, **settings))) == []


class KeepsSensitivities(Recurrent):
    """States that are right, whose gradient is that of a rollout without resets."""

    def states(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        right, after = super().states(x, carry, is_first)
        through, _ = super().states(x, carry, torch.zeros_like(is_first))
        return right.detach() + through - through.detach(), after


def test_sensitivities_that_survive_a_reset_are_found() -> None:
    core = KeepsSensitivities("mingru", SIZE, 6)
    of_weights = LEAK.partition(":")[0] + ": after a reset those by input_weight, bias are not those of a fresh start"
    assert check_recurrent(core) == [LEAK, of_weights]


@pytest.mark.parametrize(
    "module",
    [
        nn.GRU(SIZE, 6),
        nn.LSTM(SIZE, 6, num_layers=2),
        nn.LSTM(SIZE, 6, batch_first=True),
    ],
    ids=str,
)
def test_torch_s_modules_know_no_resets(module: nn.Module) -> None:
    assert check_recurrent(module) == [IGNORES]


def test_what_reads_the_future_cannot_act() -> None:
    found = check_recurrent(nn.GRU(SIZE, 3, bidirectional=True))
    assert found[0] == OTHERWISE


def test_dropout_is_found() -> None:
    assert "called again" in check_recurrent(nn.LSTM(SIZE, 6, num_layers=2, dropout=0.5))[0]
    assert check_recurrent(nn.LSTM(SIZE, 6, num_layers=2, dropout=0.5).eval()) == [IGNORES]


def test_passes_of_one_s_own() -> None:
    """An LSTM in a loop that resets it, and one whose training pass leaves that out."""
    lstm = nn.LSTM(SIZE, 6)

    def act(x: Tensor, state: Any, is_first: Tensor) -> tuple[Tensor, Any]:
        state = tuple(part.masked_fill(is_first.view(1, -1, 1), 0) for part in state)
        h, state = lstm(x.unsqueeze(0), state)
        return h.squeeze(0), state

    def train(x: Tensor, state: Any, is_first: Tensor) -> tuple[Tensor, Any]:
        outputs = []
        for x_t, first in zip(x, is_first, strict=True):
            h, state = act(x_t, state, first)
            outputs.append(h)
        return torch.stack(outputs), state

    def start(batch: int) -> Any:
        return torch.zeros(1, batch, 6), torch.zeros(1, batch, 6)

    assert check_recurrent(lstm, train=train, act=act, start=start) == []
    without = check_recurrent(lstm, train=lambda x, state, is_first: lstm(x, state), act=act, start=start)
    assert without[0] == "the training pass ignores is_first"


def test_the_size_of_the_input_must_be_known() -> None:
    with pytest.raises(ValueError, match="input_size is None"):
        check_recurrent(nn.Sequential())
