"""What storage in bfloat16 and TF32 do to RTRL's gradient over many rollouts."""

from __future__ import annotations

from dataclasses import replace

import torch
from pass_table import options_of
from report import Column, Row
from torch import Tensor

from r2ac.agents import ELSTM, Carry

RECURRENT = ("input_weight", "recurrent_weight", "bias")
STEPS, BATCH, HIDDEN, INPUTS, CHRONO = 50, 16, 64, 65, 1000
TRUNCATED = "TBPTT"


class _Learner:
    """A core whose parameters stand still, with the sensitivities kept as the learner keeps them."""

    def __init__(self, core: ELSTM, storage: torch.dtype) -> None:
        self._core = core
        start = core.initial_carry(BATCH)
        stored = tuple(traces.stored_as(storage) for traces in start.traces)
        self._carry = Carry(start.state, stored).of_streams(torch.arange(BATCH, device=start.state.device))

    def gradient(self, x: Tensor, by_h: Tensor) -> Tensor:
        """Of sum(by_h * h) over the next rollout, by all recurrent parameters as one vector in float64."""
        self._core.zero_grad()
        dtype = self._core.bias.dtype
        is_first = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        h, after = self._core(x.to(dtype), self._carry, is_first)
        h.backward(by_h.to(dtype))
        self._carry = replace(self._carry, state=after.state)
        return torch.cat([getattr(self._core, name).grad.double().flatten() for name in RECURRENT])


def measure_rounding(rollouts: list[int], device: torch.device) -> list[Row]:
    """Rows: the relative L2 error, against float64, of the gradient of the n-th rollout, for each n of ``rollouts``.

    Random inputs without resets and forget gates of long time scales, so that much of the gradient comes from before
    the rollout: TBPTT's error shows how much.
    """
    torch.manual_seed(3)
    exact = ELSTM(INPUTS, HIDDEN, chrono_steps=CHRONO).to(device, torch.float64)
    options = {**options_of(device), TRUNCATED: (torch.float32, "highest")}
    learners = {}
    for name, (storage, _) in options.items():
        core = ELSTM(INPUTS, HIDDEN, "tbptt" if name == TRUNCATED else "rtrl").to(device)
        core.load_state_dict(exact.state_dict())
        learners[name] = _Learner(core, storage)
    reference = _Learner(exact, torch.float64)
    rows: list[Row] = [{"option": name, "errors": {}} for name in options]
    before = torch.get_float32_matmul_precision()
    for number in range(1, max(rollouts) + 1):
        x = torch.randn(STEPS, BATCH, INPUTS).to(device)
        by_h = torch.randn(STEPS, BATCH, HIDDEN).to(device)
        expected = reference.gradient(x, by_h)
        for row in rows:
            torch.set_float32_matmul_precision(options[row["option"]][1])
            found = learners[row["option"]].gradient(x, by_h)
            if number in rollouts:
                row["errors"][str(number)] = float((found - expected).norm() / expected.norm())
    torch.set_float32_matmul_precision(before)
    return rows


def rounding_columns(rollouts: list[int]) -> list[Column]:
    """One column for each rollout."""
    return [
        Column("option", lambda row: row["option"]),
        *map(_error_column, rollouts),
    ]


def _error_column(rollout: int) -> Column:
    return Column(f"rollout {rollout}", lambda row: row["errors"][str(rollout)], ".1e")
