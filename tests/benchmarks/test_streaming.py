"""The tables of the streaming grids, of trainings of a few steps."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def table(
    module: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    *flags: str,
) -> list[list[str]]:
    argv = ["streaming.py", *flags, "--trace-lambdas", "0.9", "--output-dir", str(folder)]
    monkeypatch.setattr(sys, "argv", argv)
    module("streaming").main()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_a_row_for_each_cell_of_the_grid_and_nothing_is_run_twice(
    module: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    flags = ["--lengths", "2", "--streams", "1", "4", "--steps", "400"]
    head, _, *rows = table(module, monkeypatch, capsys, tmp_path, *flags)
    assert head[:4] == ["length", "lambda", "streams", "return"]
    assert [row[:3] for row in rows] == [["2", "0.9", "1"], ["2", "0.9", "4"]]
    assert all(-1 <= float(row[3]) <= 1 and float(row[-1]) > 0 for row in rows)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert table(module, monkeypatch, capsys, tmp_path, *flags)[2:] == rows
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    flags = ["--task", "trace_conditioning", "--lengths", "10", "--streams", "2", "--steps", "40"]
    (row,) = table(module, monkeypatch, capsys, tmp_path, *flags, "--scored-steps", "200")[2:]
    assert float(row[3]) > 0
    assert float(row[4]) > 0
