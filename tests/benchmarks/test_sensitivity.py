"""The benchmark of the core: complete figures, methods that agree, and an end where one of them is wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

Modules = Callable[[str], ModuleType]
CPU = torch.device("cpu")
METHODS = {"step by step", "step by step, tuned", "rollout at a time", "TBPTT", "LSTM, TBPTT"}


@pytest.mark.slow
def test_a_small_run_reports_everything(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    arguments = ["--sizes", "2x6", "3x4", "--steps", "1", "3", "--inputs", "5", "--rounds", "1", "--rollouts", "1", "3"]
    printed = run_benchmark("sensitivity", *arguments)
    (path,) = tmp_path.glob("sensitivity-*-quick.json")
    assert path.with_suffix(".png").stat().st_size > 0
    figures = json.loads(path.read_text())
    assert {"python", "torch", "triton"} <= figures["versions"].keys()
    assert {"device", "kernels", "matmul_precision", "date"} <= figures.keys()
    assert figures["command"].startswith("python benchmarks/sensitivity.py --quick")
    for table in ("pass", "recurrence", "core"):
        found = [(row["B"], row["N"], row["T"]) for row in figures[table]]
        assert found == [(2, 6, 1), (2, 6, 3), (3, 4, 1), (3, 4, 3)]
    for row in figures["pass"]:
        assert row["bytes"] == 2 * 4 * 2 * row["B"] * row["N"] * 5
        assert row["floor"] in ("copy", "product")
    for row in figures["recurrence"] + figures["core"]:
        assert row["seconds"].keys() == METHODS | {"copy of S"}
        assert row["peak_bytes"].keys() == METHODS
    numbers = [value for table in ("pass", "core") for row in figures[table] for value in row["seconds"].values()]
    assert all(value > 0 and math.isfinite(value) for value in numbers)
    assert [row["option"] for row in figures["options"]] == 2 * ["float32", "S in bfloat16"]
    errors = {row["option"]: row["errors"] for row in figures["rounding"]}
    assert errors["float32"]["3"] < 1e-4 < errors["S in bfloat16"]["3"] < errors["TBPTT"]["3"]
    assert [goal["verdict"] for goal in figures["goals"][2:]] == 8 * ["not measured"]
    assert "| 3 | 4 | 3 |" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["--sizes", "32"], "'' is not a whole number"),
        (["--steps", "ten"], "'ten' is not a whole number"),
        (["--device", "tpu"], "--device is 'tpu', but it must be auto, cpu, cuda or cuda:<number>"),
        (["--device", "cuda:99"], "CUDA GPUs"),
        (["--output-dir", __file__], "--output-dir"),
        (["--device", "cpu", "--sweep"], "--sweep needs a GPU"),
        (["--matmul-precision", "low"], "invalid choice"),
    ],
)
def test_bad_arguments_end_with_code_2_and_a_reason(
    module: Modules, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        module("sensitivity").main(["--output-dir", str(tmp_path), "--threads", "1", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lean_advance", "advance_by_stream"])
def test_a_wrong_method_is_found_before_it_is_timed(
    module: Modules, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    methods, table = module("methods"), module("core_table")
    right = getattr(methods, method)

    def forgets_half(matrix: Tensor, gradient: Tensor, decay: Tensor, *rest: Tensor) -> None:
        right(matrix, gradient, 0.5 * decay, *rest)

    sizes = 2, 3, 6, 5
    table.check_gradients(table.make_cases(table.METHODS, *sizes, 1, CPU))
    monkeypatch.setattr(methods, method, forgets_half)
    with pytest.raises(SystemExit, match=r"step by step.*: the gradient of input_weight is off by"):
        table.check_gradients(table.make_cases(table.METHODS, *sizes, 1, CPU))


def test_a_wrong_pass_is_found_before_it_is_timed(module: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    table = module("pass_table")
    right = table.device_pass_
    given = table.PassInputs.draw(2, 3, 6, 5, CPU)
    given.check()
    monkeypatch.setattr(table, "device_pass_", lambda *arguments: 1.01 * right(*arguments))
    with pytest.raises(SystemExit, match=r"the sensitivity pass is off by 1\.0e-02"):
        given.check()


def test_every_form_of_the_step_is_the_same_step(module: Modules) -> None:
    methods = module("methods")
    sizes = (3, 2, 4, 5), (2, 4, 5), (3, 4), (3, 2, 4), (3, 5), (3, 4)
    matrix, gradient, *rest = (torch.randn(*size) for size in sizes)
    a, u, x, e = rest
    after = a[:, None, :, None] * matrix + u[..., None] * x[:, None, None, :]
    expected = gradient + (e[:, None, :, None] * after).sum(0)
    for form in (methods.lean_advance, methods.advance_by_stream, methods.fusible_advance):
        found = matrix.clone(), gradient.clone()
        form(*found, *rest)
        torch.testing.assert_close(found, (after, expected))


def test_the_lstm_steps_as_it_runs_and_honours_a_reset_at_the_start(module: Modules) -> None:
    core = module("methods").LSTMCore(3, 4)
    x, is_first = torch.randn(3, 2, 3), torch.zeros(3, 2, dtype=torch.bool)
    is_first[0, 1] = True
    start = core.initial_carry(2)
    start.state.copy_(torch.randn(2, 8))
    h, after = core(x, start, is_first)
    cell, outputs = start.state.clone(), []
    cell[1] = 0
    for t in range(3):
        out, cell = core.step(x[t], cell, torch.zeros(2, dtype=torch.bool))
        outputs.append(out)
    torch.testing.assert_close((torch.stack(outputs), cell), (h.detach(), after.state))


def test_peak_memory_is_what_was_held_at_a_time(module: Modules) -> None:
    def run() -> None:
        first = torch.ones(1000, 1000)
        second = first + first
        del first
        torch.add(second, second)

    assert 8e6 <= module("measure").peak_bytes(run, CPU) < 8.1e6


def test_ratios_are_taken_within_a_round(module: Modules) -> None:
    times = module("measure").Times({"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 3.0]})
    assert times.ratio("a", "b") == 0.5
    assert times.ratio("a", "c") is None
    assert times.difference("b", "a") == 1.0
    assert times.medians() == {"a": 3.0, "b": 3.0}


def test_methods_take_turns_and_sets_go_round(module: Modules) -> None:
    measure = module("measure")
    seen: list[str] = []
    runs = {name: lambda name=name: seen.append(name) for name in "ab"}
    times = measure.take_turns(runs, 3, CPU, each={"b": 2})
    assert [len(times.rounds[name]) for name in "ab"] == [3, 3]
    turns = [name for name, before in zip(seen, ["", *seen], strict=False) if name != before]
    # Once each to see how long they take, then a b, b a, a b.
    assert turns == ["a", "b", "a", "b", "a", "b"]
    numbers: list[int] = []
    run = measure.rotating(numbers.append, 3)
    for _ in range(4):
        run()
    assert numbers == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("measured", "at_least", "verdict"),
    [
        (50.0, True, "met"),
        (49.0, True, "missed"),
        (50.0, False, "met"),
        (51.0, False, "missed"),
        (None, True, "not measured"),
    ],
)
def test_goals(module: Modules, measured: float | None, at_least: bool, verdict: str) -> None:
    assert module("report").Goal("a goal", measured, 50, at_least).to_json()["verdict"] == verdict
