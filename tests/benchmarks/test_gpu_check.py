"""The check of a GPU: a dry run of all of it with torch and Triton alone, and that it finds what is wrong."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from r2ac.kernels import triton_scan, triton_sensitivity
from r2ac.learner import learner as learner_module
from tests.benchmarks.test_learner_update import BARE

Modules = Callable[[str], ModuleType]
SECTIONS = ["start", "waits", "captures", "kernels", "threads", "roofline", "presets", "beside", "tests"]


@pytest.mark.slow
def test_a_dry_run_goes_through_every_section_with_torch_and_triton_alone(
    run_benchmark: Callable[..., str], tmp_path: Path
) -> None:
    printed = run_benchmark("gpu_check", before=BARE)
    (path,) = tmp_path.glob("gpu_check-*-quick.json")
    found = json.loads(path.read_text())
    assert {"device", "versions", "kernels", "date", "command"} <= found.keys()
    assert list(found["sections"]) == SECTIONS
    for section in found["sections"].values():
        assert section["verdict"] == "passed"
        assert section["failures"] == []
    figures = {name: section["figures"] for name, section in found["sections"].items()}
    assert len([name for name in figures["captures"] if name.endswith("weights after captured updates")]) == 15
    assert any(name.startswith("pass, 2x2 blocks") for name in figures["kernels"])
    assert len(figures["roofline"]["pass"]) == len(figures["roofline"]["recurrence"]) == 1
    assert [row["preset"] for row in figures["presets"]["presets"]] == 3 * ["dmlab"]
    assert figures["beside"].keys() == {
        "update alone, s",
        "update beside acting, s",
        "step alone, s",
        "step beside updates, s",
    }
    assert "update, dmlab: frames/s" in {goal["goal"] for goal in found["goals"]}
    assert "r2ac train's own choice of the device is left out: " in printed
    assert "All that was checked passed." in printed


@pytest.fixture
def session(module: Modules) -> Any:
    """A quick one on the CPU, with time enough."""
    module("_path")
    return module("gpu_checks.session").Session(torch.device("cpu"), quick=True, seconds=10_000)


def failures(session: Any, check: Callable[[Any], None]) -> list[str]:
    session.run("section", 0, 10_000, check)
    found: list[str] = session.sections["section"].failures
    return found


def test_a_wrong_scan_is_found(module: Modules, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = triton_scan.elstm_forward
    monkeypatch.setattr(triton_scan, "elstm_forward", lambda *given: 1.001 * right(*given))
    found = failures(session, module("gpu_checks.kernels").check_kernels)
    assert any(failure.startswith("forward scan, T=5, B=2, N=33: 1.0e-03 <= 5e-05") for failure in found)


def test_a_pass_that_writes_beside_its_rows_or_differently_is_found(
    module: Modules, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, calls = triton_sensitivity.sensitivity_pass_, []

    def writes_too_much(matrix: Tensor, *given: Tensor) -> Tensor:
        calls.append(matrix)
        whole = torch.as_strided(matrix, (matrix.untyped_storage().nbytes() // 4,), (1,), 0)
        whole[-1] = 1
        return right(matrix, *given) * (1 + 1e-7 * len(calls))

    monkeypatch.setattr(triton_sensitivity, "sensitivity_pass_", writes_too_much)
    found = failures(session, module("gpu_checks.kernels").check_kernels)
    assert [failure.rpartition(": ")[2] for failure in found] == [
        "the same to the bit when it is run again",
        "nothing else is written",
    ]


@pytest.mark.filterwarnings("ignore:called a synchronizing:UserWarning")
def test_a_wait_is_named_by_its_line(module: Modules, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = learner_module.clip_gradient_norm

    def waits(*given: Any) -> Tensor:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return right(*given)

    monkeypatch.setattr(learner_module, "clip_gradient_norm", waits)
    lines = Path(learner_module.__file__).read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, start=1) if "= clip_gradient_norm(" in line)
    found = failures(session, module("gpu_checks.updates").check_waits)
    assert any(failure.startswith(f"adam: learner/learner.py:{number} waits for the GPU") for failure in found)


def test_weights_that_are_not_those_of_eager_updates_are_found(
    module: Modules, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates, calls = module("gpu_checks.updates"), []
    right = updates._weights

    def differently(learner: Any) -> Tensor:
        calls.append(learner)
        found: Tensor = right(learner)
        return found + 0.1 * len(calls)

    monkeypatch.setattr(updates, "_weights", differently)
    found = failures(session, updates.check_captures)
    assert sum("weights after captured updates" in failure for failure in found) == len(updates.CASES)


def test_what_fails_does_not_stop_what_follows_and_what_has_no_time_is_left_out(
    module: Modules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check, written = module("gpu_check"), []

    def fails(session: Any) -> None:
        raise ValueError("out of order")

    def passes(session: Any) -> None:
        # The section before is in the file by now.
        written.append(json.loads(path.read_text())["sections"]["start"]["verdict"])
        session.near("a sum", torch.ones(3), torch.ones(3), 1e-6)

    monkeypatch.setattr(check, "open_device", lambda parser, options: torch.device("cpu"))
    monkeypatch.setattr(check, "header", lambda device, options: {"device": "this one"})
    monkeypatch.setattr(check, "print_header", lambda *_: None)
    parts = {"start": (fails, 0, 9), "waits": (passes, 0, 9), "captures": (passes, 10_000, 9)}
    monkeypatch.setattr(check, "PARTS", {name: check.CheckPart(*part) for name, part in parts.items()})
    path = tmp_path / "gpu_check-this-one-quick.json"
    assert check.main(["--quick", "--device", "cpu", "--output-dir", str(tmp_path)]) == 1
    found = json.loads(path.read_text())["sections"]
    assert {name: section["verdict"] for name, section in found.items()} == {
        "start": "failed",
        "waits": "passed",
        "captures": "left out",
    }
    assert found["start"]["failures"] == ["start: ValueError: out of order"]
    assert written == ["failed"]
    printed = capsys.readouterr().out
    assert "--- captures: left out, 460 s are left of 10000" in printed
    assert "FAILED start: start: ValueError: out of order" in printed
    assert check.main(["--quick", "--device", "cpu", "--output-dir", str(tmp_path), "--only", "waits"]) == 0


class Replaced(Exception):
    """Another program takes the place of this process."""


def test_after_an_error_that_loses_the_gpu_a_new_process_goes_on_with_the_rest(
    module: Modules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check, begun = module("gpu_check"), []
    goal = module("report").Goal("as fast as a copy", 0.7, 0.8, True)

    def loses(session: Any) -> None:
        session.goals.append(goal)
        with session.case("a capture"):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def replace_process(program: str, arguments: list[str]) -> None:
        assert arguments[:2] == [program, check.__file__]
        raise Replaced(arguments[2:])

    monkeypatch.setattr(check, "open_device", lambda parser, options: torch.device("cpu"))
    monkeypatch.setattr(check, "header", lambda device, options: {"device": "this one", "command": options.seconds})
    monkeypatch.setattr(check, "print_header", lambda *_: None)
    monkeypatch.setattr(check.os, "execv", replace_process)
    parts = {"start": loses, "waits": begun.append, "captures": loses}
    monkeypatch.setattr(check, "PARTS", {name: check.CheckPart(run, 0, 9) for name, run in parts.items()})
    path = tmp_path / "gpu_check-this-one-quick.json"
    with pytest.raises(Replaced) as replaced:
        check.main(["--quick", "--device", "cpu", "--output-dir", str(tmp_path), "--seconds", "100"])
    assert begun == []
    assert list(json.loads(path.read_text())["sections"]) == ["start"]
    # After the last section nothing is left to go on with.
    assert check.main(replaced.value.args[0]) == 1
    assert len(begun) == 1
    found = json.loads(path.read_text())
    assert [section["verdict"] for section in found["sections"].values()] == ["failed", "passed", "failed"]
    assert found["goals"] == 2 * [goal.to_json()]
    assert found["command"] == 100


def test_a_section_begins_no_case_after_its_time_and_none_on_a_lost_gpu(
    session: Any, module: Modules, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def out_of_time(session: Any) -> None:
        for name, seconds in session.each({"one": 0.02, "two": 0, "three": 0}):
            begun.append(name)
            time.sleep(seconds)

    session.run("short", 0, 0.01, out_of_time)
    assert begun == ["one"]
    assert session.sections["short"].figures == {"left out": ["two", "three"]}
    assert module("gpu_check").print_page(session)
    assert "LEFT OUT for want of time: short: two, three\n" in capsys.readouterr().out

    def lost(session: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    session.run("lost", 0, 10_000, lost)
    session.run("after", 0, 10_000, out_of_time)
    assert [section.verdict for section in session.sections.values()] == ["passed", "failed", "left out"]


@pytest.mark.parametrize(
    ("found", "passes"),
    [([1.0, 2.0], True), ([1.0, 2.1], False), ([1.0, float("nan")], False), ([1.0], False)],
)
def test_near(session: Any, found: list[float], passes: bool) -> None:
    expected = torch.tensor([1.0, 2.0])
    assert (failures(session, lambda s: s.near("numbers", torch.tensor(found), expected, 1e-3)) == []) == passes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "'0' is not a number of seconds above 0"),
        (["--seconds", "soon"], "'soon' is not a number of seconds above 0"),
        (["--only", "all"], "invalid choice: 'all'"),
        (["--after", "nowhere.json"], "nowhere.json cannot be read"),
        (["--device", "cpu"], "--device is cpu: only a dry run of the check itself is possible, with --quick"),
        ([], " sees no CUDA GPU: only a dry run of the check itself is possible, with --quick"),
    ],
)
def test_bad_arguments_end_with_code_2_and_a_reason(
    module: Modules,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    check = module("gpu_check")
    monkeypatch.setattr(check, "open_device", lambda parser, options: torch.device("cpu"))
    with pytest.raises(SystemExit) as end:
        check.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
